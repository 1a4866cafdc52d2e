"""DSPy modules that nodes hold, and what stands in for them inside a `GraphModule`."""

from collections import defaultdict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self


class ModuleRef:
    """A place in a node that holds a DSPy module.

    A compiled graph cannot be copied, and an optimiser works on copies. So the graph stays one, its nodes ask
    the place for the module whenever they run, and each copy of a `GraphModule` puts its own modules in the
    place while it runs.

    Attributes:
        module: The module of the graph itself.
    """

    __slots__ = ("module",)

    def __init__(self, module: Any) -> None:
        self.module = module

    @property
    def current(self) -> Any:
        """The module to call here and now."""
        return _substituted.get().get(self, self.module)


class HoldsGraph:
    """A module that runs a graph: a `GraphModule`.

    Attributes:
        nodes: The modules in the graph, by their paths.
    """

    nodes: dict[str, Any]

    @property
    def takes(self) -> frozenset[str] | None:
        """The inputs of the graph, none of which it has to be given; None if it takes any."""
        raise NotImplementedError

    @property
    def gives(self) -> frozenset[str] | None:
        """The fields of its prediction; None if nobody has said."""
        raise NotImplementedError

    @property
    def title(self) -> str | None:
        """The graph's own name, if it has one."""
        raise NotImplementedError

    def with_nodes(self, nodes: Mapping[str, Any]) -> Self:
        """The same with other modules at these paths."""
        raise NotImplementedError


@dataclass(frozen=True)
class ModulePlace:
    """Where a module is: what a node holds, or a module inside of a graph that runs as such a module.

    Attributes:
        held: The place in the node.
        path: The path in the graph that is held there; empty for what is held itself.
    """

    held: ModuleRef
    path: str = ""

    @property
    def module(self) -> Any:
        return self.held.module.nodes[self.path] if self.path else self.held.module

    def put(self, module: Any) -> None:
        """Let it hold this module."""
        if self.path:
            self.held.module.nodes[self.path] = module
        else:
            self.held.module = module


_substituted: ContextVar[Mapping[ModuleRef, Any]] = ContextVar(
    "mahsm_standing_in", default=MappingProxyType({})
)
"""Modules that stand in for those of references. Set by a `GraphModule`; read by nodes when they run."""


@contextmanager
def substituted(modules: Mapping[ModulePlace, Any]) -> Generator[None, None, None]:
    """In the block, these modules stand in for those that are in the places."""
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
    """Whether a `GraphModule` runs around here, so that what was kept of other modules says nothing."""
    return bool(_substituted.get())
