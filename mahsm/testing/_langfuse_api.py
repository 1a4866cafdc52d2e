"""Answers of `LangfuseServer` to readers: pages of observations and scores, as of Langfuse's public API."""

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

_GROUPS: Mapping[str, tuple[str, ...]] = {
    "core": ("id", "traceId", "parentObservationId", "type", "startTime", "endTime", "projectId"),
    "basic": ("name", "level", "statusMessage", "isRootObservation", "traceName", "environment"),
    "io": ("input", "output"),
    "metadata": ("metadata",),
    "model": ("model", "modelParameters"),
    "usage": ("usageDetails", "costDetails", "totalCost"),
    "metrics": ("latency",),
    "time": ("completionStartTime",),
    "prompt": ("promptName", "promptVersion"),
}
"""Fields of an observation, by the field groups of Langfuse's API."""

_SHORT = 200
"""Characters of a metadata value, unless its key is in `expandMetadata`."""

_CORE = (
    "id",
    "projectId",
    "name",
    "value",
    "dataType",
    "source",
    "timestamp",
    "environment",
    "createdAt",
    "updatedAt",
)
_SCORE_GROUPS: Mapping[str, tuple[str, ...]] = {
    "details": ("comment", "configId", "metadata"),
    "subject": ("subject",),
    "annotation": ("authorUserId", "queueId"),
}

_COMPARE: Mapping[str, Callable[[str, str], bool]] = {
    "=": lambda text, value: text == value,
    "starts with": str.startswith,
    "ends with": str.endswith,
    "contains": lambda text, value: value in text,
    "is set": lambda text, value: True,
}
_ORDER: Mapping[str, Callable[[datetime, datetime], bool]] = {
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
}


class Refused(Exception):
    """A query that Langfuse refuses with HTTP 400."""


def page_of_observations(found: Sequence[Mapping[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """Return the answer to `GET /api/public/v2/observations`."""
    fitting = [each for each in found if _matches(each, query)]
    groups = {"core", *query.get("fields", "basic").split(",")}
    whole = {*query.get("expandMetadata", "").split(",")}
    page, cursor = _page(fitting, query, most=1000)
    names = [name for group, names in _GROUPS.items() if group in groups for name in names]
    rows: list[dict[str, Any]] = [{name: each.get(name) for name in names} for each in page]
    for row in rows:
        if metadata := row.get("metadata"):
            row["metadata"] = {key: value if key in whole else _cut(value) for key, value in metadata.items()}
    return {"data": rows, "meta": {} if cursor is None else {"cursor": cursor}}


def _cut(value: Any) -> Any:
    text = value if isinstance(value, str) else json.dumps(value)
    return value if len(text) <= _SHORT else text[:_SHORT]


def _page(
    found: Sequence[Mapping[str, Any]], query: Mapping[str, str], most: int
) -> tuple[Sequence[Mapping[str, Any]], str | None]:
    """Return a page, and the cursor of the next one."""
    limit = int(query.get("limit", 50))
    if not 1 <= limit <= most:
        raise Refused(f"limit must be at most {most}")
    first = int(base64.urlsafe_b64decode(query["cursor"])) if "cursor" in query else 0
    end = first + limit
    cursor = base64.urlsafe_b64encode(str(end).encode()).decode() if end < len(found) else None
    return found[first:end], cursor


def _matches(observation: Mapping[str, Any], query: Mapping[str, str]) -> bool:
    # A filter takes precedence over all of these.
    if "filter" in query:
        return all(_fits(observation, each) for each in json.loads(query["filter"]))
    given = [
        {"column": name, "value": query[name]}
        for name in ("name", "type", "level", "traceId")
        if name in query
    ]
    given += [
        {"column": "startTime", "type": "datetime", "operator": operator, "value": query[name]}
        for name, operator in (("fromStartTime", ">="), ("toStartTime", "<"))
        if name in query
    ]
    return all(_fits(observation, each) for each in given)


def _fits(observation: Mapping[str, Any], condition: Mapping[str, Any]) -> bool:
    value = observation.get(condition["column"])
    if condition["column"] == "metadata":
        value = cast("Mapping[str, Any]", value).get(condition["key"])
    if condition.get("type") == "datetime":
        return _ORDER[condition["operator"]](_time(value), _time(condition["value"]))
    compare = _COMPARE.get(condition.get("operator", "="))
    return compare is None or (value is not None and compare(str(value), str(condition.get("value", ""))))


def _time(text: Any) -> datetime:
    return datetime.fromisoformat(text)


# Scores.


def page_of_scores(
    received: Iterable[tuple[Mapping[str, Any], datetime]], query: Mapping[str, str]
) -> dict[str, Any]:
    """Return the answer to `GET /api/public/v3/scores`.

    Args:
        received: Bodies of scores, and when they came. A later one with the same id and timestamp replaces an
            earlier one.
        query: The query.
    """
    if "observationId" in query and "traceId" not in query:
        raise Refused("observationId requires traceId")
    groups = query["fields"].split(",") if "fields" in query else []
    if unknown := {*groups} - {*_SCORE_GROUPS}:
        raise Refused(f"unknown field group {min(unknown)}")
    kept: dict[tuple[Any, Any], dict[str, Any]] = {}
    for body, at in received:
        score = _score(body, at)
        key = score["id"], score["timestamp"]
        if key in kept:
            score["createdAt"] = kept[key]["createdAt"]
        kept[key] = score
    page, cursor = _page([each for each in kept.values() if _is_asked(each, query)], query, most=100)
    names = [*_CORE, *(name for group in groups for name in _SCORE_GROUPS[group])]
    meta: dict[str, Any] = {"limit": int(query.get("limit", 50))}
    return {
        "data": [{name: each[name] for name in names if each.get(name) is not None} for each in page],
        "meta": meta if cursor is None else {**meta, "cursor": cursor},
    }


def _score(body: Mapping[str, Any], at: datetime) -> dict[str, Any]:
    value = body["value"]
    kind = body.get("dataType") or ("CATEGORICAL" if isinstance(value, str) else "NUMERIC")
    return {
        **body,
        "projectId": "p",
        "value": bool(value) if kind == "BOOLEAN" else value,
        "dataType": kind,
        "source": body.get("source", "API"),
        "timestamp": _iso(_time(body["timestamp"]) if "timestamp" in body else at),
        "environment": body.get("environment", "default"),
        "createdAt": _iso(at),
        "updatedAt": _iso(at),
        "subject": _subject(body),
    }


def _subject(body: Mapping[str, Any]) -> dict[str, Any] | None:
    if observation := body.get("observationId"):
        return {"kind": "observation", "id": observation, "traceId": body.get("traceId")}
    for kind, name in (("trace", "traceId"), ("session", "sessionId"), ("experiment", "datasetRunId")):
        if name in body:
            return {"kind": kind, "id": body[name]}
    return None


def _is_asked(score: Mapping[str, Any], query: Mapping[str, str]) -> bool:
    for name in ("id", "name", "environment", "traceId", "observationId", "sessionId"):
        if name in query and score.get(name) not in query[name].split(","):
            return False
    for name in ("dataType", "source"):
        if name in query and score[name] not in query[name].upper().split(","):
            return False
    at = _time(score["timestamp"])
    return not (
        ("fromTimestamp" in query and at < _time(query["fromTimestamp"]))
        or ("toTimestamp" in query and at >= _time(query["toTimestamp"]))
    )


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat()
