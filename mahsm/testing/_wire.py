"""`Wire`: one API of a provider, by which requests are read and answers are written."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mahsm.testing._answers import Reply
from mahsm.testing._call import Call

Body: TypeAlias = dict[str, Any]
Vendor: TypeAlias = Literal["openai", "anthropic"]


@dataclass(frozen=True)
class Tokens:
    """Tokens of a request and its answer.

    Attributes:
        input: All input tokens, those in the cache included.
        output: Output tokens.
        cached: Input tokens that were read from the prompt cache, or None if the server has none.
        written: Input tokens that were written to it, where the provider charges for that.
    """

    input: int
    output: int
    cached: int | None = None
    written: int = 0


class Refusal(Exception):
    """An error that a server answers instead of doing what was asked.

    Attributes:
        status: HTTP status, from 400 on.
        code: The provider's code of the error, or None.
        param: The parameter at fault, or None.
        retry_after: Seconds of a Retry-After header, or None.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def body(self, vendor: Vendor) -> Body:
        """Return the body of the answer."""
        kinds = _ANTHROPIC_KINDS if vendor == "anthropic" else _OPENAI_KINDS
        other = ("api_error", "invalid_request_error") if vendor == "anthropic" else _OPENAI_OTHER
        error: Body = {
            "type": kinds.get(self.status, other[0] if self.status >= 500 else other[1]),
            "message": str(self),
        }
        if vendor == "anthropic":
            return {"type": "error", "error": error, "request_id": None}
        return {"error": {**error, "code": self.code, "param": self.param}}


_OPENAI_KINDS = {429: "rate_limit_error"}
_OPENAI_OTHER = ("server_error", "invalid_request_error")
_ANTHROPIC_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


@dataclass(frozen=True)
class Wire:
    """One API of a provider.

    Attributes:
        vendor: The provider.
        path: Its path, as requests in a batch file name it.
        check: Raises a `Refusal` for a request that is not valid.
        messages: Returns the messages of a request, in the form of the chat API.
        answer: Returns the body of an answer. The number is unique on the server.
        events: Returns the server-sent events of an answer.
    """

    vendor: Vendor
    path: str
    check: Callable[[Body], None]
    messages: Callable[[Body], list[Body]]
    answer: Callable[[Call, Reply, Tokens, int], Body]
    events: Callable[[Call, Reply, Tokens, int], Iterator[str]]


def require(body: Mapping[str, Any], *names: str) -> None:
    """Check that a request has its required parameters.

    Raises:
        Refusal: if one is missing.
    """
    for name in names:
        if body.get(name) is None:
            raise Refusal(
                400, f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name
            )


def event(data: Body) -> str:
    """Return a server-sent event whose name is the type of its data."""
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n"
