"""Compiled functions of a state: one compilation for each structure and shape of what goes in."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from mahsm._jit._compiles import Compiles, JitStats
from mahsm._jit._devices import Placement, x64_pinned
from mahsm._jit._inputs import Inputs, Reader
from mahsm._jit._jax import jax
from mahsm._jit._modules import Modules
from mahsm._jit._outputs import converter
from mahsm._jit._ragged import check_padding, cut, ragged_axes
from mahsm._jit._reasons import check_purity, explained, tracing
from mahsm._jit._spec import JitSpec
from mahsm._jit._values import Leaf, Part
from mahsm._types import Overlay, State

Outcome: TypeAlias = dict[str, Any] | Exception
"""What the functions write for a state, or why they could not."""

_MOST_STRUCTURES = 256
"""Structures of inputs that are kept compiled; whoever has more, has static values that should be dynamic."""


_config: Any = jax.config


class Compiled:
    """The functions, compiled for one structure of inputs, and by JAX for each of its shapes.

    Args:
        program: Whose it is.
        parts: The part of each key.
        batched: For many states at once: which leaves differ from state to state; else None.
        places: Where each leaf goes, or None for where JAX puts it.
    """

    def __init__(
        self, program: "Program", parts: Sequence[Part], batched: Sequence[bool] | None, places: list[Any] | None
    ) -> None:
        self._program = program
        self._parts = parts
        self._batched = batched
        self.size_checked = False
        self._checked: set[tuple[Any, ...]] = set()
        self._axes: dict[tuple[Any, ...], Any] = {}
        self.single = self.traced(parts)
        options: dict[str, Any] = {} if places is None else {"in_shardings": (program.modules.places, places)}
        self.run: Any = jax.jit(self._all(self.single), **options)

    def _all(self, single: Callable[..., Any]) -> Callable[..., Any]:
        """A function of one state as one of all that are computed at once."""
        if self._batched is not None:
            single = jax.vmap(single, in_axes=(None, [0 if each else None for each in self._batched]))
        single.__name__ = self._program.name
        return single

    def traced(self, parts: Sequence[Part]) -> Callable[[Sequence[Leaf], Sequence[Leaf]], Any]:
        """A function of the leaves of the modules and of those of the inputs."""
        spec, modules = self._program.spec, self._program.modules.parts

        def run(resident: Sequence[Leaf], leaves: Sequence[Leaf]) -> Any:
            left, those = iter(leaves), iter(resident)
            values = {key: part.build(left) for key, part in zip(spec.reads, parts, strict=True)}
            keys = {key: jax.random.key(next(left)) for key in spec.seeds}
            mask = next(left) if spec.ragged else None
            place = next(left, 0)  # alone, it draws as for the first item
            keys = {name: jax.random.fold_in(key, place) for name, key in keys.items()}
            return spec.run([module.build(those) for module in modules], values, mask, keys)

        return run

    def shapes(self, leaves: Sequence[Leaf], parts: Sequence[Part] | None = None) -> Any:
        """The shapes of the outputs of one state."""
        run = self.single if parts is None else self.traced(parts)
        left = list(leaves)
        if parts is not None:  # some of which are static now, and have no leaves
            left = _without(self._parts, parts, left)
        return jax.eval_shape(run, self._program.modules.resident, left)

    def check(self, leaves: Sequence[Leaf]) -> None:
        """Trace it, and see that this can be done, and gives the same a second time.

        Raises:
            JitError: if not.
        """
        resident = self._program.modules.resident
        with tracing(self._program.spec.name):
            try:
                first = self.run.trace(resident, leaves)
            except Exception as error:
                spec = self._program.spec
                one = leaves
                if self._batched is not None:
                    one = [leaf[0] if each else leaf for leaf, each in zip(leaves, self._batched, strict=True)]
                told = explained(error, spec, self._parts, one, lambda parts: self.shapes(one, parts))
                if told is error:
                    raise
                raise told from error
            again = self._all(self.traced(self._parts))
            check_purity(self._program.spec.name, lambda: jax.make_jaxpr(again)(resident, leaves), first.jaxpr)

    def axes(self, reader: Reader, inputs: Inputs) -> Any:
        """Which axes of each output are padded."""
        shapes = _shapes(inputs)
        if shapes not in self._axes:
            small = self.shapes(inputs.leaves)
            large = self.shapes(reader.with_bucket(inputs, 2 * inputs.bucket))
            self._axes[shapes] = ragged_axes(self._program.spec.name, small, large, inputs.bucket)
        return self._axes[shapes]

    def is_unchecked(self, inputs: Inputs) -> bool:
        """Whether results in this bucket have not been checked, and it has a padding to check them with."""
        return inputs.length < inputs.bucket and _shapes(inputs) not in self._checked

    def checked(self, inputs: Inputs) -> None:
        """Results in this bucket do not depend on the padding."""
        self._checked.add(_shapes(inputs))


class Program:
    """The functions of a `jit_edge`, from a state to what they write. Safe in threads.

    Args:
        spec: What is compiled.
    """

    def __init__(self, spec: JitSpec) -> None:
        self.spec = spec
        self.name = "".join(char if char.isalnum() else "_" for char in spec.name)
        self.placement = Placement(spec)
        self.reader = Reader(spec, self.placement.devices)
        self.modules = Modules(spec, self.placement)
        self.compiles = Compiles(self.name)
        self.convert = converter(spec.name, spec.output)
        self._x64 = spec.x64
        self._compiled: dict[Any, Compiled] = {}
        self._lock = threading.RLock()

    @property
    def stats(self) -> JitStats:
        return self.compiles.stats

    def replace(self, step: int, module: Any) -> None:
        """Swap the arrays of a module."""
        self.modules.replace(step, module)

    def __call__(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """What the functions write."""
        inputs = self.reader.read(state)
        compiled = self._compiled.get(inputs.parts) or self._prepared(inputs)
        outputs = self.computed(compiled, inputs.leaves)
        if self.spec.ragged:
            return self._without_padding(compiled, inputs, outputs)
        convert = self.convert
        return {key: convert(value) for key, value in outputs.items()}

    def batch(self, state: State, overlays: Sequence[Overlay]) -> list[Outcome]:
        """What they write for each of many states at once: a common one, with something of each laid over it."""
        from mahsm._jit._batch import Batch

        return Batch(self, state, overlays).run()

    def warmup(self, state: Mapping[str, Any]) -> None:
        """Compile for a state like this one, without computing."""
        inputs = self.reader.read({key: _example(value) for key, value in state.items()})
        compiled = self._compiled.get(inputs.parts) or self._prepared(inputs)
        with x64_pinned(self.spec.x64):
            compiled.run.lower(self.modules.resident, inputs.leaves).compile()
        self.compiles.count(call=False)

    def computed(self, compiled: Compiled, leaves: Sequence[Leaf], *, call: bool = True) -> Any:
        """What comes out for these leaves, on its device. Unless it is only to check something, it counts as a call."""
        if _config.jax_enable_x64 is self._x64:
            outputs = compiled.run(self.modules.resident, leaves)
        else:
            with jax.enable_x64(self._x64):
                outputs = compiled.run(self.modules.resident, leaves)
        self.compiles.count(call=call)
        return outputs

    def _prepared(self, inputs: Inputs) -> Compiled:
        places = self.placement.of_all(self.spec.reads, inputs.parts, inputs.leaves)
        return self.compiled(inputs.parts, lambda: Compiled(self, inputs.parts, None, places), inputs.leaves)

    def compiled(self, key: Any, make: Callable[[], Compiled], leaves: Sequence[Leaf]) -> Compiled:
        """What is compiled for a structure, or a new one that has been traced."""
        with self._lock:
            if key not in self._compiled:
                made = make()
                with x64_pinned(self.spec.x64):
                    made.check(leaves)
                if len(self._compiled) >= _MOST_STRUCTURES:
                    del self._compiled[next(iter(self._compiled))]
                self._compiled[key] = made
            return self._compiled[key]

    def _without_padding(self, compiled: Compiled, inputs: Inputs, outputs: Any) -> dict[str, Any]:
        with x64_pinned(self.spec.x64):
            axes = compiled.axes(self.reader, inputs)
            found = _cut_all(outputs, axes, inputs.length)
            if compiled.is_unchecked(inputs):
                for fill in OTHER_FILLS:
                    again = self.computed(compiled, self.reader.refilled(inputs, fill), call=False)
                    check_padding(self.spec.name, found, _cut_all(again, axes, inputs.length), exactly=True)
                compiled.checked(inputs)
            if not compiled.size_checked and not self.spec.seeds:  # draws of other shapes are other draws
                count, *both = self.reader.first_rows(inputs)
                one, two = (_cut_all(self.computed(compiled, leaves, call=False), axes, count) for leaves in both)
                check_padding(self.spec.name, one, two, exactly=False)
                compiled.size_checked = True
        return {key: self.convert(value) for key, value in found.items()}


OTHER_FILLS = (7, -7)
"""What the padding holds when it is checked; finite numbers, since `x * mask` is a correct way to ignore it."""


def _shapes(inputs: Inputs) -> tuple[Any, ...]:
    return tuple(np.shape(leaf) for leaf in inputs.leaves)


def _cut_all(outputs: Any, axes: Any, length: int) -> Any:
    def cut_one(array: Any, where: tuple[int, ...]) -> Any:
        return cut(np.asarray(array), where, length)

    return jax.tree.map(cut_one, outputs, axes)


def _without(before: Sequence[Part], after: Sequence[Part], leaves: list[Leaf]) -> list[Leaf]:
    """The leaves, less those whose parts have become static."""
    left: list[Leaf] = []
    at = 0
    for old, new in zip(before, after, strict=True):
        left += leaves[at : at + old.leaves] if new.leaves else []
        at += old.leaves
    return left + leaves[at:]


def _example(value: Any) -> Any:
    """A value to compile with, of a shape that stands for one."""
    shape: Any = value
    return np.zeros(shape.shape, shape.dtype) if isinstance(value, jax.ShapeDtypeStruct) else value
