"""The program that a `jit_edge` calls: its functions, for one state or for a batch of states."""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from mahsm._common import Overlay, State
from mahsm._numeric.batch import Batch
from mahsm._numeric.batch_result import BatchResult
from mahsm._numeric.compiler import Compiler
from mahsm._numeric.compiles import JitStats
from mahsm._numeric.devices import x64_pinned
from mahsm._numeric.storms import shape_of
from mahsm._numeric.untyped_jax import jax
from mahsm._numeric.values import is_small

_SHORT = 0.001
"""Seconds for which an event loop may block; starting a thread takes half of that on a busy machine."""


class Program(Compiler):
    """The functions of a `jit_edge`, called with one state or with many. Thread-safe."""

    @property
    def stats(self) -> JitStats:
        return self.compiles.stats

    def replace(self, step: int, module: Any) -> None:
        """Replace the arrays of a module."""
        self.modules.replace(step, module)

    def timed(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Call the functions, and note the time that it takes."""
        began = perf_counter()
        inputs = self.reader.read(state)
        found = self.call(inputs)
        if (compiled := self.known(inputs)) is not None:
            compiled.seconds[tuple(map(shape_of, inputs.leaves))] = perf_counter() - began
        return found

    def is_short(self, state: Mapping[str, Any]) -> bool:
        """Return whether a call is known to be short enough for an event loop. Does not read large values."""
        if not all(is_small(state.get(key)) for key in self.spec.reads):
            return False
        try:
            inputs = self.reader.read(state)
        except Exception:  # noqa: BLE001  the call will raise it
            return False
        compiled = self.known(inputs)
        return (
            compiled is not None
            and compiled.seconds.get(tuple(map(shape_of, inputs.leaves)), float("inf")) < _SHORT
        )

    def batch(
        self, state: State, overlays: Sequence[Overlay], size: int | None = None, output: str | None = None
    ) -> BatchResult:
        """Compute the results of many states in one call: a common state, and an overlay for each of them.

        Args:
            state: The common state.
            overlays: The overlays.
            size: The number of states in a slice; None for all.
            output: The only output that is wanted; None for a dict of all outputs.
        """
        return Batch(self, state, overlays, size, output).run()

    def warmup(self, state: Mapping[str, Any]) -> None:
        """Compile for states like this one, without a computation."""
        inputs = self.reader.read({key: _example(value) for key, value in state.items()})
        compiled = self.prepared(inputs)
        with x64_pinned(self.spec.x64):
            compiled.run.lower(self.modules.resident, inputs.leaves).compile()
        self.compiles.count(call=False)


def _example(value: Any) -> Any:
    """Return a value to compile with: zeros for a `jax.ShapeDtypeStruct`, and other values as they are."""
    shape: Any = value
    return np.zeros(shape.shape, shape.dtype) if isinstance(value, jax.ShapeDtypeStruct) else value
