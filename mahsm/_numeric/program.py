"""What a `jit_edge` calls: its functions, of a state or of many states at once."""

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
"""Seconds that an event loop can wait; a thread takes half of it to begin, on a busy machine."""


class Program(Compiler):
    """The functions of a `jit_edge`, from a state, or many, to what they write. Safe in threads."""

    @property
    def stats(self) -> JitStats:
        return self.compiles.stats

    def replace(self, step: int, module: Any) -> None:
        """Swap the arrays of a module."""
        self.modules.replace(step, module)

    def timed(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The same, and see how long it takes."""
        began = perf_counter()
        inputs = self.reader.read(state)
        found = self.call(inputs)
        if (compiled := self.known(inputs)) is not None:
            compiled.seconds[tuple(map(shape_of, inputs.leaves))] = perf_counter() - began
        return found

    def is_short(self, state: Mapping[str, Any]) -> bool:
        """Whether it is known to be done in less time than a thread takes to begin. To see that, nothing
        large is read.
        """
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
        """Compute for many states at once: a common one, with something of each laid over it.

        Args:
            state: The common state.
            overlays: What is laid over it.
            size: How many are computed at once; None for all.
            output: The one output whose value is wanted; None for all outputs, by name.
        """
        return Batch(self, state, overlays, size, output).run()

    def warmup(self, state: Mapping[str, Any]) -> None:
        """Compile for a state like this one, without computing."""
        inputs = self.reader.read({key: _example(value) for key, value in state.items()})
        compiled = self.prepared(inputs)
        with x64_pinned(self.spec.x64):
            compiled.run.lower(self.modules.resident, inputs.leaves).compile()
        self.compiles.count(call=False)


def _example(value: Any) -> Any:
    """A value to compile with, of a shape that stands for one."""
    shape: Any = value
    return np.zeros(shape.shape, shape.dtype) if isinstance(value, jax.ShapeDtypeStruct) else value
