"""The program of a `jit_edge` without JAX: the same functions on NumPy arrays, step by step."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from mahsm._common import Overlay, State
from mahsm._numeric.batch_result import BatchResult
from mahsm._numeric.compiles import JitStats
from mahsm._numeric.inputs import StateReader
from mahsm._numeric.outputs import converter
from mahsm._numeric.spec import JitSpec
from mahsm._numeric.values import Leaf


class EagerProgram:
    """The functions of a `jit_edge`, called with NumPy arrays. Thread-safe.

    Args:
        spec: The spec of the program.
    """

    def __init__(self, spec: JitSpec) -> None:
        self.spec = spec
        self._reader = StateReader(spec)
        self._convert = converter(spec.name, spec.output)
        self._fns = [step.fn for step in spec.steps]
        self._calls = itertools.count(1)
        self._called = 0

    @property
    def stats(self) -> JitStats:
        return JitStats(calls=self._called)

    def replace(self, step: int, module: Any) -> None:
        """Use another module for a step from now on."""
        self._fns[step] = module

    def warmup(self, state: Mapping[str, Any]) -> None:
        """Check that the state can be read; there is nothing to compile."""
        self._reader.read(state)

    def __call__(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Call the functions with a state; return the keys and values that they write."""
        inputs = self._reader.read(state)
        length, mask = inputs.length, None
        if self.spec.ragged:
            *leaves, mask = self._reader.unpadded(inputs)
        else:
            leaves = inputs.leaves
        left = iter([_own(leaf) for leaf in leaves])
        values = {key: part.build(left) for key, part in zip(self.spec.reads, inputs.parts, strict=True)}
        self._called = next(self._calls)
        outputs = self.spec.run(self._fns, values, mask if length >= 0 else None, {})
        return {key: self._convert(value) for key, value in outputs.items()}

    timed = __call__

    def is_short(self, state: Mapping[str, Any]) -> bool:
        """Return False: the time of a call is unknown."""
        return False

    def batch(
        self, state: State, overlays: Sequence[Overlay], size: int | None = None, output: str | None = None
    ) -> BatchResult:
        """Compute the results of many states, one after the other."""
        outcomes, failed = list[Any](), dict[int, Exception]()
        for place, overlay in enumerate(overlays):
            try:
                found = self({**state, **overlay})
                outcomes.append(found if output is None else found[output])
            except Exception as error:  # noqa: BLE001  the caller handles it
                outcomes.append(error)
                failed[place] = error
        return BatchResult(outcomes, failed)


def _own(leaf: Leaf) -> Leaf:
    """Return a copy that is read-only, as JAX arrays are."""
    if hasattr(leaf, "flags"):
        leaf = leaf.copy()
        leaf.flags.writeable = False
    return leaf
