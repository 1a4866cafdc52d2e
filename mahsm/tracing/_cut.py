"""Inputs and outputs, cut for traces: short, and with shapes in place of arrays."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, cast

from mahsm._common import shown

_TEXT = 2000
_KEY = 200
_ENTRIES = 5
_DEPTH = 4
_ALL = 50_000
_LARGE = 100_000


def cut(value: Any) -> Any:
    """Return a copy that is small enough for a trace; never raises.

    Strings keep 2,000 characters, lists 5 entries, dicts 20; arrays become their dtype and shape. The copy
    has about 50,000 characters at most, and says how many entries it leaves out.
    """
    return _Cut().of(value, _DEPTH)


def short(*, data: Any, **_: Any) -> Any:
    """Cut inputs, outputs and metadata of all observations, those of LangGraph too: pass it as Langfuse's
    `mask`.

    Strings keep 2,000 characters, lists 5 entries, dicts 20; arrays become their dtype and shape. The result
    has about 50,000 characters at most, and says how many entries it leaves out.

    Args:
        data: The value that Langfuse is about to send.

    Returns:
        A copy that is small enough for a trace.

    Example:
        >>> from mahsm import tracing
        >>> tracing.short(data={"docs": list(range(100))})
        {'docs': [0, 1, 2, 3, 4, '... (100 entries)']}
        >>> handler = tracing.init(
        ...     "pk-short", "sk", "http://127.0.0.1:9", mask=tracing.short, tracing_enabled=False
        ... )
        >>> tracing.off()
    """
    return cut(data)


def bounded(value: Any) -> Any:
    """Return the value, or `cut` of it if it has more than about 100,000 characters; never raises."""
    try:
        return cut(value) if _size(value, _LARGE) > _LARGE else value
    except Exception:  # noqa: BLE001  raised by a value that contains itself, or whose `str` fails
        return cut(value)


def _size(value: Any, most: int) -> int:
    """Return roughly the number of characters of a value; counting ends above `most`."""
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    if hasattr(value, "dtype") and hasattr(value, "size"):
        return int(value.size)
    if isinstance(value, Mapping):
        entries: Iterable[Any] = chain.from_iterable(cast("Mapping[Any, Any]", value).items())
    elif isinstance(value, list | tuple):
        entries = cast("Sequence[Any]", value)
    else:
        return len(str(value))
    total = 0
    for entry in entries:
        total += 1 + _size(entry, most - total)
        if total > most:
            break
    return total


class _Cut:
    """Cuts one value, and counts the characters of the copy."""

    def __init__(self) -> None:
        self._left = _ALL

    def of(self, value: Any, depth: int) -> Any:
        try:
            found: Any = self._of(value, depth)
        except Exception as error:  # noqa: BLE001
            # A value that cannot be shown must not break the traced run.
            found = f"<{type(value).__name__}, which cannot be shown: {type(error).__name__}>"
        if not isinstance(found, dict | list):
            self._left -= len(str(found))
        return cast("object", found)

    def _of(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            most = min(_TEXT, max(0, self._left))
            return value if len(value) <= most else f"{value[:most]}... ({len(value):,} characters)"
        if isinstance(value, bytes | bytearray):
            return f"bytes[{len(value)}]"
        if hasattr(value, "dtype") and hasattr(value, "shape"):
            return f"{value.dtype}{list(value.shape)}"
        if depth == 0:
            return shown(value)
        if isinstance(value, Mapping):
            return self._mapping(cast("Mapping[Any, Any]", value), depth)
        if isinstance(value, list | tuple):
            return self._sequence(cast("Sequence[Any]", value), depth)
        if hasattr(value, "model_dump"):
            return self.of(value.model_dump(), depth - 1)
        # `toDict` is DSPy's, of predictions.
        if hasattr(value, "toDict"):
            return self.of(value.toDict(), depth - 1)
        return shown(cast("object", value))

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        found: dict[str, Any] = {}
        for key, entry in value.items():
            if len(found) == 4 * _ENTRIES or self._left <= 0:
                return {**found, "...": f"{len(value):,} keys"}
            name = str(key)[:_KEY]
            self._left -= len(name)
            found[name] = self.of(entry, depth - 1)
        return found

    def _sequence(self, value: Sequence[Any], depth: int) -> Any:
        found: list[Any] = []
        for entry in value:
            if len(found) == _ENTRIES or self._left <= 0:
                return [*found, f"... ({len(value):,} entries)"]
            found.append(self.of(entry, depth - 1))
        return found
