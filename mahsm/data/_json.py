"""JSON of rows and results."""

import json
from collections.abc import Mapping
from typing import Any, cast

from pydantic_core import PydanticSerializationError, from_json, to_json

from mahsm.errors import DataError


def json_line(row: Any, path: str) -> bytes:
    """Return a row as a line of JSON.

    Dataclasses, pydantic models, dates, NumPy arrays and scalars, DSPy's predictions and examples are written
    as what they hold.

    Raises:
        DataError: if a value has no JSON.
    """
    try:
        return to_json(row, fallback=_plain, inf_nan_mode="constants") + b"\n"
    except UnicodeEncodeError:
        pass
    except (PydanticSerializationError, TypeError, ValueError) as error:
        # Half of a surrogate pair, such as a model may answer, has JSON, but no UTF-8.
        if "surrogates" not in str(error):
            raise DataError(f"{path}: a row has no JSON: {error}. Return dicts of plain values.") from error
    return json.dumps(row, default=_plain).encode() + b"\n"


def parsed(line: bytes) -> Any:
    """Return the value of a line of JSON.

    Raises:
        ValueError: if it is not JSON.
    """
    try:
        return from_json(line)
    except ValueError:
        if b"\\u" not in line:
            raise
        # Half of a surrogate pair is refused there.
        return json.loads(line)


def _plain(value: Any) -> Any:
    """Return a plain value for one that pydantic does not know."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "toDict"):
        return value.toDict()
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    raise TypeError(f"a value of type {type(value).__name__}")
