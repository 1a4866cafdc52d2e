"""References to the DSPy modules of nodes, which a `GraphModule` substitutes while it runs."""

from collections import defaultdict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self


class ModuleRef:
    """A node's reference to its DSPy module.

    A compiled graph cannot be copied, but an optimiser works on copies. So all copies of a `GraphModule`
    share one graph, whose nodes read the reference whenever they run, and each copy substitutes its own
    modules while it runs.

    Attributes:
        module: The node's own module.
    """

    __slots__ = ("module",)

    def __init__(self, module: Any) -> None:
        self.module = module

    @property
    def current(self) -> Any:
        """The module to call here: the substitute, if any, or the node's own."""
        return _substituted.get().get(self, self.module)


class HoldsGraph:
    """A module that runs a graph: a `GraphModule`.

    Attributes:
        nodes: The modules in the graph, by their paths.
    """

    nodes: dict[str, Any]

    @property
    def takes(self) -> frozenset[str] | None:
        """The inputs of the graph, which are all optional; None if it takes any."""
        raise NotImplementedError

    @property
    def gives(self) -> frozenset[str] | None:
        """The fields of its prediction; None if unknown."""
        raise NotImplementedError

    @property
    def title(self) -> str | None:
        """The graph's own name, if it has one."""
        raise NotImplementedError

    def with_nodes(self, nodes: Mapping[str, Any]) -> Self:
        """Return a copy with other modules at these paths."""
        raise NotImplementedError


@dataclass(frozen=True)
class ModulePlace:
    """The place of a module: a node's reference, or a path in a graph that the node's module runs.

    Attributes:
        held: The node's reference.
        path: The path in that graph; empty for the node's module itself.
    """

    held: ModuleRef
    path: str = ""

    @property
    def module(self) -> Any:
        return self.held.module.nodes[self.path] if self.path else self.held.module

    def put(self, module: Any) -> None:
        """Put a module in this place."""
        if self.path:
            self.held.module.nodes[self.path] = module
        else:
            self.held.module = module


_substituted: ContextVar[Mapping[ModuleRef, Any]] = ContextVar(
    "mahsm_standing_in", default=MappingProxyType({})
)
"""Substitutes for the modules of references. Set by a `GraphModule`; read by nodes when they run."""


@contextmanager
def substituted(modules: Mapping[ModulePlace, Any]) -> Generator[None, None, None]:
    """Substitute these modules for those in the places, inside the block."""
    parts: defaultdict[ModuleRef, dict[str, Any]] = defaultdict(dict)
    for place, module in modules.items():
        parts[place.held][place.path] = module
    stands = {
        held: found[""] if "" in found else held.module.with_nodes(found) for held, found in parts.items()
    }
    token = _substituted.set({**_substituted.get(), **stands})
    try:
        yield
    finally:
        _substituted.reset(token)


def is_substituted() -> bool:
    """Return whether this code runs in a `GraphModule`, where kept results of other modules are invalid."""
    return bool(_substituted.get())
