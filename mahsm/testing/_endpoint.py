"""Requests to an endpoint that is not for a model, and its answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from mahsm.testing._wire import Body, Refusal


@dataclass(frozen=True)
class HttpRequest:
    """A request.

    Attributes:
        id: The id in its path, or "".
        query: The parameters of its query.
        headers: Its headers, by lower-case names.
        body: Its body.
        base_url: The URL of the server, up to `/v1`.
    """

    id: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    base_url: str

    def json(self) -> Body:
        """Return the body as a JSON object.

        Raises:
            Refusal: if it is none.
        """
        return json_object(self.body)


@dataclass(frozen=True)
class Download:
    """A file as an answer, in place of JSON."""

    data: bytes
    content_type: str


def json_object(data: bytes) -> Body:
    """Return a JSON object.

    Raises:
        Refusal: if the data is not one.
    """
    try:
        found: Any = json.loads(data or b"{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Refusal(400, "We could not parse the JSON body of your request; expected a JSON object.")
    return cast("Body", found)
