"""`Layer`: settings of a context over those of its parent; immutable."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Self

from mahsm._context.values import Tree, checked, checked_path, laid_over, nested


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A `with` block of a context: what was current before, and what to leave at its end."""

    outer: "Layer | None"
    leaving: ExitStack


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Layer:
    """Settings of a context. A change makes another layer, so whoever has this one does not see it."""

    values: Tree
    """What this layer sets itself."""
    parent: "Layer | None" = None
    merged: Tree = field(default_factory=dict[str, Any])
    """What this layer and all below it set."""
    lineage: object = field(default_factory=object)
    """The same object in all versions of one context."""
    block: Block | None = None

    def child(self, overrides: Mapping[str, Any]) -> "Layer":
        """Return the layer of a new context over this one.

        Raises:
            ContextError: for a key or value that is not valid.
        """
        values: dict[str, Any] = {}
        for key, value in overrides.items():
            values = laid_over(values, checked(nested(checked_path(key), value)))
        return Layer(values, self, laid_over(self.merged, values))

    def with_values(self, values: Tree) -> Self:
        """Return this layer with more values, which are copies already."""
        own, merged = laid_over(self.values, values), laid_over(self.merged, values)
        return replace(self, values=own, merged=merged)

    def __repr__(self) -> str:
        return f"Layer({', '.join(sorted(map(str, self.merged)))})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a context cannot be pickled; create it in the other process.")
