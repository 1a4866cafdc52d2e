"""Checks of an edge with `executor=`, when it is made."""

import inspect
from typing import TYPE_CHECKING, Any, cast

from langgraph.graph import StateGraph
from langgraph.types import interrupt

from mahsm.errors import EdgeError

if TYPE_CHECKING:
    from mahsm.edges._vmap.spec import VmapSpec


def target_here(edge: str, target: object, executor: object) -> object:
    """Return what a target with `executor=` is in this process.

    Raises:
        EdgeError: if the executor is none, or the target cannot cross to workers.
    """
    from mahsm.edges._jit import JitEdge
    from mahsm.edges._vmap.executors.crossing import named, refuse_graph
    from mahsm.edges._vmap.executors.engines import check_executor

    check_executor(edge, executor)
    if isinstance(target, JitEdge):
        raise EdgeError(
            f"{edge}: executor= with a jit_edge, whose items are computed together, by JAX. Leave executor= "
            "out; batch_size= bounds the memory."
        )
    if isinstance(target, str):
        target = named(edge, target)
    else:
        refuse_graph(edge, target)
    if isinstance(target, StateGraph):
        return cast("Any", target).compile(name=_name(target))
    return target


def _name(builder: Any) -> str:
    return getattr(builder, "name", None) or "LangGraph"


def check_crossing(edge: str, spec: "VmapSpec") -> None:
    """Refuse options and targets that cannot cross to workers.

    Raises:
        EdgeError: for the first one.
    """
    from mahsm.edges._vmap.executors.crossing import Program, packed

    refused = spec.target.injected & {"runtime", "store", "writer"}
    if refused:
        raise EdgeError(
            f"{edge}: the target takes {', '.join(sorted(refused))}, which belong to the graph's run and are "
            "not in workers. Take config instead, or leave executor= out."
        )
    if _interrupts(spec.target.source):
        raise EdgeError(
            f"{edge}: the target calls interrupt(), whose question cannot come from a worker. Ask in a node "
            "before or after the edge, or leave executor= out."
        )
    crosses = dict(spec.crosses or {})
    packed(edge, Program(crosses.pop("target"), crosses, {}, None, {}, {}, 0, updates=False, counts=False))


def _interrupts(source: object) -> bool:
    """Return whether a function names LangGraph's `interrupt`."""
    function = inspect.unwrap(source) if inspect.isfunction(source) else None
    if function is None:
        return False
    return any(function.__globals__.get(name) is interrupt for name in function.__code__.co_names)
