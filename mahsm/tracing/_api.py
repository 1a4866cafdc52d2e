"""Reading from Langfuse's public API, page by page. Its client tries again after a 429 or a 5xx."""

import json
from collections.abc import Generator, Sequence
from datetime import UTC, datetime
from typing import Any

Condition = dict[str, Any]


def with_metadata(key: str, operator: str = "is set", value: str = "") -> Condition:
    """Return the condition that a metadata value is there, or is like another one."""
    return {
        "type": "stringObject",
        "column": "metadata",
        "key": key,
        "operator": operator,
        "value": value,
    }


def with_text(column: str, value: str) -> Condition:
    """Return the condition that a column has a value."""
    return {"type": "string", "column": column, "operator": "=", "value": value}


def began(operator: str, at: datetime) -> Condition:
    """Return the condition that an observation began at, before or after a time."""
    return {
        "type": "datetime",
        "column": "startTime",
        "operator": operator,
        "value": at.astimezone(UTC).isoformat(),
    }


def observations(
    client: Any, conditions: Sequence[Condition], fields: str = "core", whole: Sequence[str] = ()
) -> Generator[Any, None, None]:
    """Return the observations that meet all conditions.

    Args:
        client: The Langfuse client.
        conditions: The conditions.
        fields: Groups of fields, separated by commas.
        whole: The metadata keys whose values are not cut to 200 characters.
    """
    cursor: str | None = None
    while True:
        page = client.api.observations.get_many(
            filter=json.dumps(list(conditions)),
            fields=fields,
            expand_metadata=",".join(whole) or None,
            limit=1000,
            cursor=cursor,
        )
        yield from page.data
        cursor = page.meta.cursor
        if cursor is None:
            return


def scores(client: Any, **filters: Any) -> Generator[Any, None, None]:
    """Return the scores that meet all filters of `GET /api/public/v3/scores`, with their subjects."""
    cursor: str | None = None
    while True:
        page = client.api.scores.get_many(**filters, fields="subject", limit=100, cursor=cursor)
        yield from page.data
        cursor = page.meta.cursor
        if cursor is None:
            return
