"""OpenAI's batch files: their lines, and what their validation finds."""

import json
from collections.abc import Iterator
from typing import Any, cast

from mahsm.testing._batch_job import Entry
from mahsm.testing._wire import Body, Wire


def check_file(data: bytes, wire: Wire, most: int) -> tuple[list[Body], list[Body]]:
    """Return the lines of a batch file, and the errors that its validation finds.

    Args:
        data: The file.
        wire: The API that the job is for.
        most: The number of requests that a job may have.
    """
    lines: list[tuple[int, Any]] = [
        (number, _parsed(line)) for number, line in enumerate(data.splitlines(), 1) if line.strip()
    ]
    if not lines:
        return [], [_error("empty_file", "The batch file is empty.", None)]
    if len(lines) > most:
        message = f"The batch file has {len(lines)} requests; at most {most} are allowed."
        return [], [_error("too_many_tasks", message, None)]
    return [line for _, line in lines], list(_errors(lines, wire))


def entries_of(lines: list[Body], wire: Wire) -> list[Entry]:
    """Return the requests of valid lines."""
    return [Entry(line["custom_id"], wire, line["body"]) for line in lines]


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _errors(lines: list[tuple[int, Any]], wire: Wire) -> Iterator[Body]:
    seen: set[str] = set()
    model: Any = None
    for number, given in lines:
        if not isinstance(given, dict):
            yield _error("invalid_json_line", "This line is not parseable as valid JSON.", number)
            continue
        line = cast("Body", given)
        yield from _errors_of_line(line, number, wire, seen)
        body = line.get("body")
        found = cast("Body", body).get("model") if isinstance(body, dict) else None
        model = found if model is None else model
        if found != model:
            message = f"The model {found!r} differs from {model!r}; a batch has one model."
            yield _error("mismatched_model", message, number, "body.model")


def _errors_of_line(line: Body, number: int, wire: Wire, seen: set[str]) -> Iterator[Body]:
    id = line.get("custom_id")
    if not isinstance(id, str) or not id:
        yield _error("invalid_custom_id", "'custom_id' is a required string.", number, "custom_id")
    elif id in seen:
        message = f"The custom_id {id!r} is a duplicate of another request in this file."
        yield _error("duplicate_custom_id", message, number, "custom_id")
    else:
        seen.add(id)
    if line.get("method") != "POST":
        yield _error("invalid_method", "The method of a request in a batch is 'POST'.", number, "method")
    if line.get("url") != wire.path:
        message = f"The URL {line.get('url')!r} does not match the batch's endpoint {wire.path!r}."
        yield _error("invalid_url", message, number, "url")
    body = line.get("body")
    if not isinstance(body, dict) or not cast("Body", body).get("model"):
        yield _error("missing_required_parameter", "'body.model' is required.", number, "body.model")


def _error(code: str, message: str, line: int | None, param: str | None = None) -> Body:
    return {"code": code, "message": message, "param": param, "line": line}
