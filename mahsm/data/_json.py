"""JSON of rows and results."""

import json
from collections.abc import Mapping
from typing import Any, cast

from pydantic_core import PydanticSerializationError, from_json, to_json, to_jsonable_python

from mahsm.errors import DataError


def json_line(row: Any, path: str) -> bytes:
    """Return a row as a line of JSON.

    Dataclasses, pydantic models, dates, NumPy arrays and scalars, DSPy's predictions and examples are written
    as what they hold.

    Raises:
        DataError: if a value cannot be written as JSON.
    """
    try:
        try:
            return to_json(row, fallback=_plain, inf_nan_mode="constants") + b"\n"
        except (PydanticSerializationError, UnicodeEncodeError) as error:
            # Half of a surrogate pair, such as a model may answer, has JSON, but no UTF-8.
            if "surrogates" not in str(error):
                raise
        return json.dumps(row, default=_jsonable).encode() + b"\n"
    except (PydanticSerializationError, TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: a result cannot be written as JSON: {error}. Return dicts of plain values."
        ) from error


def parsed(line: bytes) -> Any:
    """Return the value of a line of JSON.

    Raises:
        ValueError: if it is not JSON.
    """
    try:
        return from_json(line)
    except ValueError as error:
        # Half of a surrogate pair is refused there, and lists in lists that are written without complaint.
        if b"\\u" not in line and "recursion" not in str(error):
            raise
    try:
        return json.loads(line)
    except RecursionError as error:
        raise ValueError("it has too many lists or dicts in one another") from error


def _jsonable(value: Any) -> Any:
    return to_jsonable_python(value, fallback=_plain, inf_nan_mode="constants")


def _plain(value: Any) -> Any:
    """Return a plain value for one that pydantic does not know."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "toDict"):
        return value.toDict()
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    raise TypeError(f"a value of type {type(value).__name__}")
