"""Graphs whose nodes block: under `ainvoke`, LangGraph runs these in the threads of the loop's executor."""

from collections.abc import Iterable
from functools import partial
from typing import Any, cast

from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.runnables.config import run_in_executor
from langgraph.pregel import Pregel

from mahsm.nodes._node import Node


def has_blocking_nodes(graph: object) -> bool:
    """Return whether some node of a graph only blocks, and none only awaits, so that `invoke` can run it."""
    if not isinstance(graph, Pregel):
        return False
    parts = list(_parts(graph))
    return any(map(_only_blocks, parts)) and not any(map(_only_awaits, parts))


def _parts(runnable: Any) -> Iterable[Any]:
    """Yield what a runnable calls, with that of graphs inside it."""
    if isinstance(runnable, Pregel):
        for node in runnable.nodes.values():
            yield from _parts(node.bound)
        builder: Any = getattr(cast("Any", runnable), "builder", None)
        for branches in getattr(builder, "branches", {}).values():
            for branch in branches.values():
                yield from _parts(branch.path)
    elif steps := getattr(runnable, "steps", ()):
        for step in steps:
            yield from _parts(step)
    else:
        yield runnable


def _only_blocks(part: Any) -> bool:
    if isinstance(part, Node):
        return not part.is_async
    if getattr(part, "func", None) is None:
        return type(part).ainvoke is Runnable.ainvoke
    awaits = getattr(part, "afunc", None)
    if awaits is None:
        # LangGraph calls others, such as the start of a graph, on the loop.
        return isinstance(part, RunnableLambda)
    return isinstance(awaits, partial) and awaits.func is run_in_executor


def _only_awaits(part: Any) -> bool:
    return getattr(part, "func", None) is None and getattr(part, "afunc", None) is not None
