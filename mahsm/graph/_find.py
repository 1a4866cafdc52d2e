"""Looks into a compiled graph, at its nodes, edges, operators, subgraphs and functions, for DSPy modules."""

import functools
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from langchain_core.runnables import Runnable
from langgraph.pregel.protocol import PregelProtocol

from mahsm.nodes._internal import HoldsGraph, ModulePlace, ModuleRef, Node


@dataclass
class Found:
    """The DSPy modules of a graph.

    Attributes:
        places: The places of modules, by their path of node names, such as `summaries/Summarize`; they
            include modules inside `GraphModule`s.
        hidden: Paths and modules that functions call themselves, so that they cannot be substituted.
        awaits: True if some functions can only be awaited.
    """

    places: dict[str, ModulePlace] = field(default_factory=dict[str, ModulePlace])
    hidden: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    awaits: bool = False

    def add(self, path: str, held: ModuleRef) -> None:
        """Add the module of a node, or the modules of its graph, unless they are known."""
        inner = held.module.nodes if isinstance(held.module, HoldsGraph) else {"": held.module}
        for place in (ModulePlace(held, at) for at in inner):
            if place not in self.places.values():
                self.places[self._free(_join(path, place.path))] = place

    def _free(self, path: str) -> str:
        name, number = path, 1
        while name in self.places:
            number += 1
            name = f"{path}_{number}"
        return name


def find_modules(graph: Any) -> Found:
    """Find the DSPy modules of a compiled graph."""
    found = Found()
    for path, value in walked(graph):
        if isinstance(value, Node):
            for where, held in value.held.items():
                found.add(_join(path, where.lstrip(".")), held)
        elif _is_module(value):
            found.hidden.append((path, value))
        elif _is_operator(value):
            from mahsm.operators._internal import modules_in

            found.hidden += [(path, module) for _, module in modules_in(value)]
        else:
            found.awaits |= _only_awaits(value)
    return found


def walked(graph: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values that a compiled graph is made of, each once, with their path of node names.

    Modules and operators are not looked into.
    """
    return _walk(graph, "", set())


def _walk(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if id(value) in seen:
        return
    seen.add(id(value))
    yield path, value
    if not isinstance(value, Node) and (_is_module(value) or _is_operator(value)):
        return
    for name, child in _children(value):
        step = name or (child.get_name() if isinstance(child, Node | PregelProtocol) else "")
        yield from _walk(child, _join(path, step), seen)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values inside a value, each with its name there, or an empty string."""
    if isinstance(value, Node):
        yield from value.children.items()
    elif isinstance(value, PregelProtocol):
        yield from _nodes(value)
    elif isinstance(value, Runnable):
        yield from _unnamed(vars(cast("Any", value)).values())
    elif isinstance(value, Mapping):
        yield from _unnamed(cast("Mapping[Any, Any]", value).values())
    elif isinstance(value, list | tuple):
        yield from _unnamed(cast("Sequence[Any]", value))
    elif isinstance(value, functools.partial):
        yield from _unnamed([value.func, *value.args, *value.keywords.values()])
    elif inspect.ismethod(value):
        yield from _unnamed([value.__func__, *_attributes(value.__self__)])
    elif inspect.isfunction(value):
        yield from _unnamed(_reached(value))
    elif callable(value) and not isinstance(value, type):
        yield from _unnamed(_attributes(value))


def _unnamed(values: Any) -> Iterator[tuple[str, Any]]:
    return (("", value) for value in values)


def _nodes(graph: Any) -> Iterator[tuple[str, Any]]:
    """Yield the nodes of a graph, and the functions of its conditional edges."""
    for name, node in cast("Mapping[str, Any]", getattr(graph, "nodes", {})).items():
        yield name, getattr(node, "bound", node)
    for name, branches in getattr(getattr(graph, "builder", None), "branches", {}).items():
        yield from ((name, branch.path) for branch in branches.values())


def _reached(function: Any) -> Iterator[Any]:
    """Yield the values that a function can reach by name: in its closure and globals.

    Functions are included only if they are of the same module.
    """
    try:
        names = inspect.getclosurevars(function)
    except ValueError:
        # A name of the closure is not set yet.
        return
    for value in (*names.nonlocals.values(), *names.globals.values()):
        is_own = inspect.isfunction(value) and value.__module__ == function.__module__
        if is_own or _is_followed(value):
            yield value


def _attributes(instance: Any) -> list[Any]:
    """Return the attributes that an instance may call, without arbitrary callables such as clients."""
    own = cast("dict[str, Any]", getattr(instance, "__dict__", {}))
    return [value for value in own.values() if _is_followed(value) or inspect.isroutine(value)]


def _is_followed(value: Any) -> bool:
    """Return whether a value is searched wherever it is found."""
    kinds = (Runnable, PregelProtocol, list, tuple, dict, functools.partial)
    return isinstance(value, kinds) or _is_module(value) or _is_operator(value)


def _only_awaits(value: Any) -> bool:
    return getattr(value, "afunc", None) is not None and getattr(value, "func", None) is None


def _is_module(value: Any) -> bool:
    dspy: Any = sys.modules["dspy"]
    return isinstance(value, dspy.Module)


def _is_operator(value: Any) -> bool:
    return hasattr(cast("type[Any]", type(value)), "as_node")


def _join(*steps: str) -> str:
    return "/".join(step for step in steps if step)
