"""A warning if too many calls compile, for instance because a value is static that should be dynamic."""

import threading
import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

from mahsm._numeric.spec import JitSpec
from mahsm._numeric.values import Leaf, Part

_MOST = 16
"""Compilations without a warning."""


class Storms:
    """Warns once, when compilations exceed 16 and a third of the calls. Thread-safe.

    Args:
        spec: The spec of the program.
    """

    def __init__(self, spec: JitSpec) -> None:
        self._spec = spec
        self._lock = threading.Lock()
        self._compiles = 0
        self._warned = False
        self._seen: deque[dict[str, tuple[Part, Any]]] = deque(maxlen=_MOST + 1)

    def note(
        self,
        compiles: int,
        calls: int,
        parts: Sequence[Part],
        batched: Sequence[bool] | None,
        leaves: Sequence[Leaf],
    ) -> None:
        """Note the compilations of a call, and warn if there are too many.

        Args:
            compiles: The number of compilations.
            calls: The number of calls so far.
            parts: The part of each key.
            batched: For a batch of states, flags of the leaves that differ between states. Their number of
                rows is ignored, since batches are padded.
            leaves: The leaves of all keys, and those that come after them.
        """
        if self._warned:
            return
        with self._lock:
            found = self._of_keys(parts, batched or [False] * len(leaves), leaves)
            if found in self._seen:
                return
            self._compiles += compiles
            self._seen.append(found)
            if self._warned or self._compiles <= _MOST or 3 * self._compiles <= calls:
                return
            self._warned = True
            why = self._changing()
            self._seen.clear()
        warnings.warn(
            f"{self._spec.name}: compiled {self._compiles} times in {calls} calls. {why}", stacklevel=3
        )

    def _of_keys(
        self, parts: Sequence[Part], batched: Sequence[bool], leaves: Sequence[Leaf]
    ) -> dict[str, tuple[Part, Any]]:
        found: dict[str, tuple[Part, Any]] = {}
        at = 0
        for key, part in zip(self._spec.reads, parts, strict=True):
            shapes = map(shape_of, leaves[at : at + part.leaves])
            rows = batched[at : at + part.leaves]
            found[key] = (
                part,
                tuple(
                    (shape[0][1:], shape[1]) if row else shape
                    for shape, row in zip(shapes, rows, strict=True)
                ),
            )
            at += part.leaves
        return found

    def _changing(self) -> str:
        """Return a sentence about the key whose static values, or shapes, change most."""
        counts = {
            (key, kind): len({one[key][kind] for one in self._seen})
            for kind in (0, 1)
            for key in self._spec.reads
        }
        (key, kind), count = max(counts.items(), key=lambda entry: entry[1])
        values: list[Any] = [one[key][kind] for one in self._seen]
        seen = f"keeps changing: {count} in the last {len(values)} compilations, such as"
        if kind:
            return (
                f"The shape of state[{key!r}] {seen} {_named(values[-1])}. Pass arrays of one shape and "
                f"dtype, or ragged=[{key!r}], which pads the first axis to few lengths."
            )
        return (
            f"The static part of state[{key!r}] {seen} {values[-1]!r}. Pass numbers or arrays, which are "
            f"dynamic{f', and leave {key!r} out of static_keys' if key in self._spec.static_keys else ''}."
        )


def shape_of(leaf: Leaf) -> Any:
    """Return the shape and dtype of a leaf, or the type of a number: JAX compiles for each of them."""
    kind = cast("type[Any]", type(leaf))
    return (leaf.shape, leaf.dtype) if hasattr(leaf, "dtype") else kind


def _named(shapes: Sequence[Any]) -> str:
    return ", ".join(
        shape.__name__ if isinstance(shape, type) else f"{shape[1]}{list(shape[0])}" for shape in shapes
    )
