"""Functions that hold arrays: the arrays stay on the device, and can be replaced without recompilation."""

from collections.abc import Callable, Sequence
from typing import Any

from mahsm._common import shown
from mahsm._numeric.devices import Placement
from mahsm._numeric.spec import JitSpec
from mahsm._numeric.untyped_jax import jax
from mahsm._numeric.values import Leaf, Part, Values
from mahsm.errors import EdgeError


class _Function(Part):
    """A function without leaves for JAX."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__(id(fn), 0)
        self._fn = fn

    def build(self, leaves: Any) -> Any:
        return self._fn


class Modules:
    """The functions of a spec, taken apart into parts and leaves.

    Args:
        spec: The spec of the program.
        placement: The shardings of the arrays.
    """

    def __init__(self, spec: JitSpec, placement: Placement) -> None:
        self._spec = spec
        self._placement = placement
        self._values = Values(x64=spec.x64)
        taken = [self._taken(step.fn, step.name) for step in spec.steps]
        self.parts: tuple[Part, ...] = tuple(part for part, _, _ in taken)
        self._leaves = [leaves for _, leaves, _ in taken]
        self.resident: list[Leaf] = [leaf for leaves in self._leaves for leaf in leaves]
        self.places: list[Any] = [place for _, _, places in taken for place in places]

    def replace(self, step: int, module: Any) -> None:
        """Replace the arrays of a step's module.

        Raises:
            EdgeError: if the module has another structure, or its arrays have other shapes.
        """
        name = self._spec.steps[step].name
        part, leaves, _ = self._taken(module, name)
        if part != self.parts[step]:
            raise EdgeError(
                f"{name}: replace got {shown(module)}, which differs from {shown(self._spec.steps[step].fn)} "
                "in more than its arrays; expected the same class with the same static fields. Make another "
                "jit_edge for it."
            )
        for old, new in zip(self._leaves[step], leaves, strict=True):
            if _kind(old) != _kind(new):
                raise EdgeError(
                    f"{name}: replace got an array of {_kind(new)}; expected {_kind(old)}. Make "
                    "another jit_edge."
                )
        self._leaves[step] = leaves
        # One assignment, so that a call in another thread sees either all old arrays or all new ones.
        self.resident = [leaf for each in self._leaves for leaf in each]

    def _taken(self, fn: Any, name: str) -> tuple[Part, list[Leaf], list[Any]]:
        entries, _ = jax.tree_util.tree_flatten_with_path(fn)
        if len(entries) == 1 and entries[0][1] is fn:
            return _Function(fn), [], []
        leaves: list[Leaf] = []
        part = self._values.flatten(fn, leaves, name)
        keys = [jax.tree_util.keystr(path).lstrip(".") for path, leaf in entries if _is_leaf(leaf)]
        resident = self._placement.resident(leaves, keys)
        return (
            part,
            resident,
            [
                place
                for key, leaf in zip(keys, leaves, strict=True)
                for place in self._placement.of(key, [leaf])
            ],
        )


def _is_leaf(value: Any) -> bool:
    return hasattr(value, "dtype") or (
        isinstance(value, int | float | complex) and not isinstance(value, bool)
    )


def _kind(leaf: Leaf) -> Sequence[Any]:
    return f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else type(leaf).__name__
