"""Inputs and outputs as a trace shows them: short, and never an array's numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mahsm._state import shown

_TEXT = 2000
_ENTRIES = 5
_DEPTH = 4


def cut(value: Any, depth: int = _DEPTH) -> Any:
    """The value, small enough for a trace; never an error.

    Texts have at most 2,000 characters, lists their first 5 entries, dicts 20; arrays are their dtype and shape.
    """
    try:
        return _cut(value, depth)
    except Exception as error:  # noqa: BLE001  a value that cannot be shown must not break the run that is traced
        return f"<{type(value).__name__}, which cannot be shown: {type(error).__name__}>"


def _cut(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value if len(value) <= _TEXT else f"{value[:_TEXT]}... ({len(value):,} characters)"
    if isinstance(value, bytes | bytearray):
        return f"bytes[{len(value)}]"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    if depth == 0:
        return shown(value)
    if isinstance(value, Mapping):
        pairs = list(cast("Mapping[Any, Any]", value).items())
        found = {str(key): cut(entry, depth - 1) for key, entry in pairs[: 4 * _ENTRIES]}
        return found if len(pairs) <= 4 * _ENTRIES else {**found, "...": f"{len(pairs):,} keys"}
    if isinstance(value, list | tuple):
        entries = cast("Sequence[Any]", value)
        found = [cut(entry, depth - 1) for entry in entries[:_ENTRIES]]
        return found if len(entries) <= _ENTRIES else [*found, f"... ({len(entries):,} entries)"]
    if hasattr(value, "model_dump"):
        return cut(value.model_dump(), depth - 1)
    if hasattr(value, "toDict"):  # a prediction of DSPy
        return cut(value.toDict(), depth - 1)
    return shown(cast("object", value))
