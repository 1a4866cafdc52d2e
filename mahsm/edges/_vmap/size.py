"""A warning about results in the state that take much memory."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

MOST = 100_000_000
"""Bytes; each checkpoint stores the results several times."""

_SAMPLED = 32
_warned: set[str] = set()


def warn_if_large(edge: str, entries: Sequence[Any]) -> None:
    """Warn once for each edge if its results take more than 100 MB, by a sample of them.

    Args:
        edge: The name of the edge.
        entries: The results.
    """
    step = max(1, len(entries) // _SAMPLED)
    # In a small batch only a few results are looked at, so that a small edge stays fast.
    sampled = entries[::step] if len(entries) > 8 * _SAMPLED else entries[:1]
    if not sampled or edge in _warned:
        return
    size = len(entries) * sum(map(_size, sampled)) / len(sampled)
    if size > MOST:
        _warned.add(edge)
        warnings.warn(
            f"{edge}: {len(entries):,} results take about {size / 1e6:,.0f} MB of memory, and a checkpoint "
            "stores them several times. Pass sink=mahsm.data.sinks.Jsonl(folder) to write them to files.",
            stacklevel=2,
        )


def _size(value: Any, depth: int = 0) -> float:
    """Return about how many bytes a value takes."""
    if isinstance(value, str | bytes | bytearray):
        return 50 + len(value)
    if (nbytes := getattr(value, "nbytes", None)) is not None:
        return 100 + nbytes
    if depth < 4 and isinstance(value, Mapping):
        mapping = cast("Mapping[Any, Any]", value)
        return 100 + _size_of_all(list(mapping.values()), depth) + 60 * len(mapping)
    if depth < 4 and isinstance(value, list | tuple):
        return 60 + _size_of_all(cast("Sequence[Any]", value), depth)
    own = getattr(value, "__dict__", None)
    return 50 + (_size_of_all(list(own.values()), depth) if depth < 4 and own else 0)


def _size_of_all(values: Sequence[Any], depth: int) -> float:
    looked_at = values[:_SAMPLED]
    return sum(_size(value, depth + 1) for value in looked_at) / max(len(looked_at), 1) * len(values)
