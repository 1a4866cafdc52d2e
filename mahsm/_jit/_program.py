"""Compiled functions of a state: one compilation for each structure and shape of what goes in."""

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from mahsm._jit._batch_result import BatchResult
from mahsm._jit._compiles import Compiles, JitStats
from mahsm._jit._devices import Placement, x64_pinned
from mahsm._jit._inputs import Inputs, Reader
from mahsm._jit._integers import in_64_bits
from mahsm._jit._jax import jax
from mahsm._jit._modules import Modules
from mahsm._jit._outputs import begin_fetching, converter
from mahsm._jit._ragged import check_padding, cut, ragged_axes
from mahsm._jit._reasons import check_purity, explained, tracing
from mahsm._jit._spec import JitSpec
from mahsm._jit._storms import Storms, shape_of
from mahsm._jit._values import Leaf, Part, is_small
from mahsm._types import Overlay, State

_MOST_STRUCTURES = 256
"""Structures of inputs that are kept compiled; beyond it, the least recently used one is dropped."""

_MOST_SHAPES = 256
"""Shapes of one structure that are kept compiled; beyond it, the structure begins anew."""


_SHORT = 0.001
"""Seconds that an event loop can wait; a thread takes half of it to begin, on a busy machine."""

_config: Any = jax.config


class Compiled:
    """The functions, compiled for one structure of inputs, and by JAX for each of its shapes.

    Args:
        program: Whose it is.
        parts: The part of each key.
        batched: For many states at once: which leaves differ from state to state; else None.
        places: Where each leaf goes, or None for where JAX puts it.

    Attributes:
        seconds: What a call took, last, for each of its shapes; reading the state included.
        used: A number that grows with each use.
        compiles: How often JAX has compiled it.
    """

    def __init__(
        self, program: "Program", parts: Sequence[Part], batched: Sequence[bool] | None, places: list[Any] | None
    ) -> None:
        self._program = program
        self.parts = parts
        self.batched = batched
        self.seconds: dict[Any, float] = {}
        self.size_checked = False
        self.used = 0
        self.compiles = 0
        self._checked: set[tuple[Any, ...]] = set()
        self._axes: dict[tuple[Any, ...], Any] = {}
        self.single = self.traced(parts)
        options: dict[str, Any] = {} if places is None else {"in_shardings": (program.modules.places, places)}
        self.run: Any = jax.jit(self._all(self.single), **options)

    def _all(self, single: Callable[..., Any]) -> Callable[..., Any]:
        """A function of one state as one of all that are computed at once."""
        if self.batched is not None:
            single = jax.vmap(single, in_axes=(None, [0 if each else None for each in self.batched]))
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

        return run if spec.x64 else in_64_bits(run)

    def shapes(self, leaves: Sequence[Leaf], parts: Sequence[Part] | None = None) -> Any:
        """The shapes of the outputs of one state."""
        run = self.single if parts is None else self.traced(parts)
        left = list(leaves)
        if parts is not None:  # some of which are static now, and have no leaves
            left = _without(self.parts, parts, left)
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
                if self.batched is not None:
                    one = [leaf[0] if each else leaf for leaf, each in zip(leaves, self.batched, strict=True)]
                told = explained(error, spec, self.parts, one, lambda parts: self.shapes(one, parts))
                if told is error:
                    raise
                raise told from error
            again = self._all(self.traced(self.parts))
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
        self._storms = Storms(spec)
        self.convert = converter(spec.name, spec.output)
        self.is_far = self.placement.is_far and spec.output != "jax"
        self._x64 = spec.x64
        self._waits = spec.output != "jax"
        self._compiled: dict[Any, Compiled] = {}
        self._uses = itertools.count(1)
        self._lock = threading.RLock()

    @property
    def stats(self) -> JitStats:
        return self.compiles.stats

    def replace(self, step: int, module: Any) -> None:
        """Swap the arrays of a module."""
        self.modules.replace(step, module)

    def __call__(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """What the functions write."""
        return self._call(self.reader.read(state))

    def _call(self, inputs: Inputs) -> dict[str, Any]:
        compiled = self._compiled.get(inputs.parts) or self._prepared(inputs)
        leaves = inputs.leaves if self._waits else own(inputs.leaves)
        outputs = self.computed(compiled, leaves)
        if self.spec.ragged:
            return self._without_padding(compiled, inputs, outputs)
        convert = self.convert
        if self.is_far:
            begin_fetching(outputs)
        return {key: convert(value) for key, value in outputs.items()}

    def timed(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The same, and see how long it takes."""
        began = perf_counter()
        inputs = self.reader.read(state)
        found = self._call(inputs)
        if (compiled := self._compiled.get(inputs.parts)) is not None:
            compiled.seconds[tuple(map(shape_of, inputs.leaves))] = perf_counter() - began
        return found

    def is_short(self, state: Mapping[str, Any]) -> bool:
        """Whether it is known to be done in less time than a thread takes to begin. To see that, nothing large is read."""
        if not all(is_small(state.get(key)) for key in self.spec.reads):
            return False
        try:
            inputs = self.reader.read(state)
        except Exception:  # noqa: BLE001  the call will raise it
            return False
        compiled = self._compiled.get(inputs.parts)
        return compiled is not None and compiled.seconds.get(tuple(map(shape_of, inputs.leaves)), float("inf")) < _SHORT

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
        from mahsm._jit._batch import Batch

        return Batch(self, state, overlays, size, output).run()

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
        compiled.used = next(self._uses)
        if (new := self.compiles.count(call=call)) and call:
            self._compiled_anew(compiled, new, leaves)
        return outputs

    def _compiled_anew(self, compiled: Compiled, new: int, leaves: Sequence[Leaf]) -> None:
        compiled.compiles += new
        if compiled.compiles > _MOST_SHAPES:
            with self._lock:
                self._compiled = {key: each for key, each in self._compiled.items() if each is not compiled}
        self._storms.note(new, self.compiles.stats.calls, compiled.parts, compiled.batched, leaves)

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
                made.used = next(self._uses)
                if len(self._compiled) >= _MOST_STRUCTURES:
                    del self._compiled[min(self._compiled, key=lambda each: self._compiled[each].used)]
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


def own(leaves: Sequence[Leaf]) -> list[Leaf]:
    """The leaves with copies of NumPy's arrays, for a computation that is not waited for: whoever gave them may change them."""
    return [leaf.copy() if isinstance(leaf, np.ndarray) else leaf for leaf in leaves]


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
