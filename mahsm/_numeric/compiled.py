"""The functions of a `jit_edge`, compiled for one structure of inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mahsm._numeric.inputs import Inputs, StateReader
from mahsm._numeric.integers import in_64_bits
from mahsm._numeric.modules import Modules
from mahsm._numeric.ragged import ragged_axes
from mahsm._numeric.reasons import check_purity, explained, tracing
from mahsm._numeric.spec import JitSpec
from mahsm._numeric.untyped_jax import jax
from mahsm._numeric.values import Leaf, Part


class Compiled:
    """The functions, compiled for one structure of inputs; JAX compiles them for each of its shapes.

    Args:
        spec: The spec of the program.
        modules: The functions' modules, with their arrays.
        parts: The part of each key.
        batched: For a batch of states, flags of the leaves that differ between states; None for one state.
        places: The sharding of each leaf; None for JAX's default.

    Attributes:
        seconds: Seconds of the last call for each shape, reading the state included.
        used: A number that grows with each use.
        compiles: The number of compilations by JAX.
    """

    def __init__(
        self,
        spec: JitSpec,
        modules: Modules,
        parts: Sequence[Part],
        batched: Sequence[bool] | None,
        places: list[Any] | None,
    ) -> None:
        self._spec = spec
        self._modules = modules
        self.parts = parts
        self.batched = batched
        self.seconds: dict[Any, float] = {}
        self.size_checked = False
        self.used = 0
        self.compiles = 0
        self._checked: set[tuple[Any, ...]] = set()
        self._axes: dict[tuple[Any, ...], Any] = {}
        self.single: Callable[..., Any] = self.traced(parts)
        options: dict[str, Any] = {} if places is None else {"in_shardings": (modules.places, places)}
        self.run: Any = jax.jit(self._all(self.single), **options)

    def _all(self, single: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, mapped over the states of a batch if it is for a batch."""
        if self.batched is not None:
            single = jax.vmap(single, in_axes=(None, [0 if each else None for each in self.batched]))
        single.__name__ = self._spec.identifier
        return single

    def traced(self, parts: Sequence[Part]) -> Callable[[Sequence[Leaf], Sequence[Leaf]], Any]:
        """Return a function of the leaves of the modules and of the leaves of the inputs."""
        spec, modules = self._spec, self._modules.parts

        def run(resident: Sequence[Leaf], leaves: Sequence[Leaf]) -> Any:
            left, those = iter(leaves), iter(resident)
            values = {key: part.build(left) for key, part in zip(spec.reads, parts, strict=True)}
            keys = {key: jax.random.key(next(left)) for key in spec.seeds}
            mask = next(left) if spec.ragged else None
            # A state alone draws the same as the first item of a batch.
            place = next(left, 0)
            keys = {name: jax.random.fold_in(key, place) for name, key in keys.items()}
            return spec.run([module.build(those) for module in modules], values, mask, keys)

        return run if spec.x64 else in_64_bits(run)

    def shapes(self, leaves: Sequence[Leaf], parts: Sequence[Part] | None = None) -> Any:
        """Return the shapes of the outputs of one state."""
        run = self.single if parts is None else self.traced(parts)
        left = list(leaves)
        # In other parts, a value may be static that was a leaf.
        if parts is not None:
            left = _without(self.parts, parts, left)
        return jax.eval_shape(run, self._modules.resident, left)

    def check(self, leaves: Sequence[Leaf]) -> None:
        """Trace the functions twice, and check that both traces are the same.

        Raises:
            JitError: if they cannot be traced, or if the traces differ.
        """
        resident = self._modules.resident
        with tracing(self._spec.name):
            try:
                first = self.run.trace(resident, leaves)
            except Exception as error:
                one = leaves
                if self.batched is not None:
                    one = [leaf[0] if each else leaf for leaf, each in zip(leaves, self.batched, strict=True)]
                told = explained(error, self._spec, self.parts, one, lambda parts: self.shapes(one, parts))
                if told is error:
                    raise
                raise told from error
            again = self._all(self.traced(self.parts))
            check_purity(self._spec.name, lambda: jax.make_jaxpr(again)(resident, leaves), first.jaxpr)

    def axes(self, reader: StateReader, inputs: Inputs) -> Any:
        """Return the padded axes of each output."""
        shapes = _shapes(inputs)
        if shapes not in self._axes:
            small = self.shapes(inputs.leaves)
            large = self.shapes(reader.with_bucket(inputs, 2 * inputs.bucket))
            self._axes[shapes] = ragged_axes(self._spec.name, small, large, inputs.bucket)
        return self._axes[shapes]

    def is_unchecked(self, inputs: Inputs) -> bool:
        """Return whether results in this bucket are still to be checked, and have padding to check with."""
        return inputs.length < inputs.bucket and _shapes(inputs) not in self._checked

    def checked(self, inputs: Inputs) -> None:
        """Note that results in this bucket do not depend on the padding."""
        self._checked.add(_shapes(inputs))


def _shapes(inputs: Inputs) -> tuple[Any, ...]:
    return tuple(np.shape(leaf) for leaf in inputs.leaves)


def _without(before: Sequence[Part], after: Sequence[Part], leaves: list[Leaf]) -> list[Leaf]:
    """Return the leaves without those whose parts have become static."""
    left: list[Leaf] = []
    at = 0
    for old, new in zip(before, after, strict=True):
        left += leaves[at : at + old.leaves] if new.leaves else []
        at += old.leaves
    return left + leaves[at:]
