"""The workers of an edge with `executor=`, and what is checked when it is made."""

import inspect
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from langgraph.graph import StateGraph
from langgraph.types import interrupt

from mahsm.edges._jit import JitEdge
from mahsm.edges._vmap.results import Taker
from mahsm.errors import EdgeError
from mahsm.nodes._internal import Target


def target_here(edge: str, target: object, executor: object) -> object:
    """Return what a target with `executor=` is in this process.

    Raises:
        EdgeError: if the executor is none, or the target cannot cross to workers.
    """
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
    return cast("Any", target).compile() if isinstance(target, StateGraph) else target


@dataclass(frozen=True)
class OtherProcesses:
    """The workers of an edge.

    Attributes:
        executor: What the user gave.
        make: Makes the edge in a worker, given the items at a time. Its first argument is the target.
    """

    executor: Any
    make: "partial[Any]"

    def check(self, edge: str, target: Target) -> None:
        """Refuse a target that cannot cross.

        Raises:
            EdgeError: that says why.
        """
        from mahsm.edges._vmap.executors.crossing import packed

        if refused := target.injected & {"runtime", "store", "writer"}:
            raise EdgeError(
                f"{edge}: the target takes {', '.join(sorted(refused))}, which belong to the graph's run and "
                "are not in workers. Take config instead, or leave executor= out."
            )
        if _interrupts(target.source):
            raise EdgeError(
                f"{edge}: the target calls interrupt(), whose question cannot come from a worker. Ask in a "
                "node before or after the edge, or leave executor= out."
            )
        packed(edge, self.make)

    async def run(self, run: Any, sink: Taker, blocks: AsyncIterator[Sequence[int]], count: int) -> None:
        """Run the items of a run."""
        from mahsm.edges._vmap.executors.parts import Parts

        await Parts(run, sink, self.executor, self.make).run(blocks, count)


def _interrupts(source: object) -> bool:
    """Return whether a function names LangGraph's `interrupt`."""
    function = inspect.unwrap(source) if inspect.isfunction(source) else None
    if function is None:
        return False
    return any(function.__globals__.get(name) is interrupt for name in function.__code__.co_names)
