"""Compilation of functions of a state, once for each structure and shape of inputs, and calls of them."""

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mahsm._numeric.compiled import Compiled
from mahsm._numeric.compiles import Compiles
from mahsm._numeric.devices import Placement, x64_pinned
from mahsm._numeric.inputs import Inputs, StateReader
from mahsm._numeric.modules import Modules
from mahsm._numeric.outputs import begin_fetching, converter
from mahsm._numeric.ragged import check_padding, cut
from mahsm._numeric.spec import JitSpec
from mahsm._numeric.storms import Storms
from mahsm._numeric.untyped_jax import jax
from mahsm._numeric.values import Leaf

_MOST_STRUCTURES = 256
"""Structures of inputs that are kept; beyond it, the least recently used one is dropped."""

_MOST_SHAPES = 256
"""Compilations of one structure that are kept; beyond it, the structure is dropped with all of them."""


_SHORT = 0.001
"""Seconds for which an event loop may block; starting a thread takes half of that on a busy machine."""

_config: Any = jax.config


class Compiler:
    """Compiles the functions of a `jit_edge`, keeps the compiled functions, and calls them. Thread-safe.

    Args:
        spec: The spec of the program.
    """

    def __init__(self, spec: JitSpec) -> None:
        self.spec = spec
        self.placement: Placement = Placement(spec)
        self.reader: StateReader = StateReader(spec, self.placement.devices)
        self.modules: Modules = Modules(spec, self.placement)
        self.compiles: Compiles = Compiles(spec.identifier)
        self._storms = Storms(spec)
        self.convert: Callable[[Any], Any] = converter(spec.name, spec.output)
        self.is_far: bool = self.placement.is_far and spec.output != "jax"
        self._x64 = spec.x64
        self._waits = spec.output != "jax"
        self._kept: dict[Any, Compiled] = {}
        self._uses = itertools.count(1)
        self._lock = threading.RLock()

    def __call__(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Call the functions with a state; return the keys and values that they write."""
        return self.call(self.reader.read(state))

    def call(self, inputs: Inputs) -> dict[str, Any]:
        """Call the functions with a state that has been read."""
        compiled = self.prepared(inputs)
        leaves = inputs.leaves if self._waits else own(inputs.leaves)
        outputs = self.computed(compiled, leaves)
        if self.spec.ragged:
            return self._without_padding(compiled, inputs, outputs)
        convert = self.convert
        if self.is_far:
            begin_fetching(outputs)
        return {key: convert(value) for key, value in outputs.items()}

    def computed(self, compiled: Compiled, leaves: Sequence[Leaf], *, call: bool = True) -> Any:
        """Return the outputs for some leaves, on their device. Checks pass `call=False`, and do not count."""
        if _config.jax_enable_x64 is self._x64:
            outputs = compiled.run(self.modules.resident, leaves)
        else:
            with jax.enable_x64(self._x64):
                outputs = compiled.run(self.modules.resident, leaves)
        compiled.used = next(self._uses)
        if (new := self.compiles.count(call=call)) and call:
            self._compiled_anew(compiled, new, leaves)
        return outputs

    def _compiled_anew(self, compiled: Compiled, new: int, leaves: Sequence[Leaf]) -> None:
        compiled.compiles += new
        if compiled.compiles > _MOST_SHAPES:
            with self._lock:
                self._kept = {key: each for key, each in self._kept.items() if each is not compiled}
        self._storms.note(new, self.compiles.stats.calls, compiled.parts, compiled.batched, leaves)

    def known(self, inputs: Inputs) -> Compiled | None:
        """Return the functions compiled for the structure of some inputs, or None."""
        return self._kept.get(inputs.parts)

    def prepared(self, inputs: Inputs) -> Compiled:
        """Return the functions compiled for the structure of some inputs, compiled now if necessary."""
        if (compiled := self._kept.get(inputs.parts)) is not None:
            return compiled
        places = self.placement.of_all(self.spec.reads, inputs.parts, inputs.leaves)
        return self.compiled(
            inputs.parts, lambda: Compiled(self.spec, self.modules, inputs.parts, None, places), inputs.leaves
        )

    def compiled(self, key: Any, make: Callable[[], Compiled], leaves: Sequence[Leaf]) -> Compiled:
        """Return the functions compiled for a structure; if they are new, they are traced and checked."""
        with self._lock:
            if key not in self._kept:
                made = make()
                with x64_pinned(self.spec.x64):
                    made.check(leaves)
                made.used = next(self._uses)
                if len(self._kept) >= _MOST_STRUCTURES:
                    del self._kept[min(self._kept, key=lambda each: self._kept[each].used)]
                self._kept[key] = made
            return self._kept[key]

    def _without_padding(self, compiled: Compiled, inputs: Inputs, outputs: Any) -> dict[str, Any]:
        with x64_pinned(self.spec.x64):
            axes = compiled.axes(self.reader, inputs)
            found = _cut_all(outputs, axes, inputs.length)
            if compiled.is_unchecked(inputs):
                for fill in OTHER_FILLS:
                    again = self.computed(compiled, self.reader.refilled(inputs, fill), call=False)
                    check_padding(self.spec.name, found, _cut_all(again, axes, inputs.length), exactly=True)
                compiled.checked(inputs)
            # Random draws of another shape differ, so with seeds results in two sizes cannot be compared.
            if not compiled.size_checked and not self.spec.seeds:
                count, *both = self.reader.first_rows(inputs)
                one, two = (
                    _cut_all(self.computed(compiled, leaves, call=False), axes, count) for leaves in both
                )
                check_padding(self.spec.name, one, two, exactly=False)
                compiled.size_checked = True
        return {key: self.convert(value) for key, value in found.items()}


OTHER_FILLS = (7, -7)
"""Values of the padding for checks. They are finite, since `x * mask` is a correct way to ignore padding."""


def own(leaves: Sequence[Leaf]) -> list[Leaf]:
    """Return the leaves with copies of NumPy arrays.

    A computation that is not awaited needs copies, since the caller may change its arrays in the meantime.
    """
    return [leaf.copy() if isinstance(leaf, np.ndarray) else leaf for leaf in leaves]


def _cut_all(outputs: Any, axes: Any, length: int) -> Any:
    def cut_one(array: Any, where: tuple[int, ...]) -> Any:
        return cut(np.asarray(array), where, length)

    return jax.tree.map(cut_one, outputs, axes)
