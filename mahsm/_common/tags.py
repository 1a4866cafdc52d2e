"""Hashable tags of values, which tell values apart that Python takes for equal."""

import dataclasses
import sys
from collections.abc import Hashable, Sequence
from datetime import datetime, time
from decimal import Decimal
from typing import Any, cast

from pydantic import BaseModel


def tagged(value: Any, *, by_value: bool = False) -> Hashable:
    """Return a hashable tag of a value, with its types.

    The tags of 1, True and 1.0 differ, and so do those of 0.0 and -0.0. The tag of NaN equals itself.

    Args:
        value: The value.
        by_value: If True, dicts are equal whatever the order of their keys, and dataclasses, pydantic models
            and arrays that cannot be hashed are compared by their parts.

    Raises:
        TypeError: if the value cannot be hashed.
    """
    kind = cast("type[Any]", type(value))
    if kind is str or value is None:
        return value
    if isinstance(value, _EQUAL_AND_DIFFERENT):
        return kind, repr(value)
    if isinstance(value, list | tuple):
        return kind, *[tagged(entry, by_value=by_value) for entry in cast("Sequence[Any]", value)]
    if isinstance(value, set | frozenset):
        return kind, frozenset(tagged(entry, by_value=by_value) for entry in cast("set[Any]", value))
    if isinstance(value, dict):
        pairs = [
            (tagged(key, by_value=by_value), tagged(entry, by_value=by_value))
            for key, entry in cast("dict[Any, Any]", value).items()
        ]
        return (kind, frozenset(pairs)) if by_value else (kind, *pairs)
    return _of_object(kind, value, by_value=by_value)


_EQUAL_AND_DIFFERENT = (float, complex, Decimal, datetime, time)
"""Types with values that are equal but differ in a sign, in their digits, or in a time zone."""


def _of_object(kind: type[Any], value: Any, *, by_value: bool) -> Hashable:
    array: Any = value
    # Importing NumPy takes longer than a first call of a model; whoever has an array has imported it.
    np: Any = sys.modules.get("numpy")
    if np is not None and isinstance(value, np.ndarray | np.generic):
        if array.dtype.hasobject and by_value:
            return kind, array.shape, tagged(array.tolist(), by_value=True)
        return kind, str(array.dtype), array.shape, array.tobytes()
    if by_value and np is not None and hasattr(value, "dtype") and hasattr(value, "__array__"):
        return kind, tagged(np.asarray(value))
    hashes = kind.__hash__
    if dataclasses.is_dataclass(value) and (by_value if hashes is None else hashes is not object.__hash__):
        return kind, *[
            tagged(getattr(value, field.name), by_value=by_value)
            for field in dataclasses.fields(value)
            if field.compare
        ]
    if by_value and hashes is None and isinstance(value, BaseModel):
        return kind, tagged((vars(value), value.model_extra), by_value=True)
    hash(value)
    if isinstance(value, BaseModel):
        return kind, *[tagged(pair, by_value=by_value) for pair in vars(value).items()]
    return kind, value
