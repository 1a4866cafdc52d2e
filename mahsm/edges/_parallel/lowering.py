"""Lowering of a `parallel`: compiles it into a LangGraph subgraph, and runs that subgraph."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

from mahsm._common import State, Update, missing
from mahsm._waiting import Way, sides, tasks
from mahsm.edges._parallel.branch import BranchSpec
from mahsm.edges._parallel.merge import branch_update
from mahsm.edges._parallel.run import Outcome, ParallelRun
from mahsm.edges._parallel.spec import ParallelSpec
from mahsm.edges._shared.drawing import Arrow, DrawnGraph, arrow, drawn_as
from mahsm.edges._shared.lowering import Lowering
from mahsm.edges._shared.session import Session
from mahsm.errors import MissingKeyError
from mahsm.nodes._internal import Node


class ParallelLowering(Lowering[ParallelRun]):
    """The lowering of one `parallel`: a subgraph with a node for each branch.

    All nodes begin in one step, so that no branch has to wait for the end of a step; the run itself lets each
    branch wait for those that it depends on. LangGraph saves each branch as it ends, and a resumed run reads
    their outcomes from the checkpoint.
    """

    def __init__(self, spec: ParallelSpec) -> None:
        super().__init__(spec.name)
        self.spec = spec

    def _compile(self, state: type[Any]) -> DrawnGraph:
        builder: StateGraph[Any, Any, Any, Any] = StateGraph(state)
        for branch in self.spec.branches:
            builder.add_node(branch.name, self._node(branch))
            builder.add_edge(START, branch.name)
        return drawn_as(DrawnGraph, builder.compile(name=self.spec.name), arrows=_arrows(self.spec))

    def _node(self, branch: BranchSpec) -> Node:
        async def run(_: Way, state: Any, config: RunnableConfig) -> Any:
            return {"done": await self.running().branch(branch, config)}

        graph = branch.target.graph
        return Node(*sides(run), name=branch.name, graphs=[graph] if graph else [])

    # One run.

    kind = "parallel"

    writes: Sequence[str] = ()
    """State keys that it writes besides its branches."""

    children: Mapping[str, object] = MappingProxyType({})
    """What it calls besides its branches, by name."""

    @property
    def deadline(self) -> float | None:
        return self.spec.ends.deadline

    @property
    def retries(self) -> bool:
        return any(branch.tries.retry is not None for branch in self.spec.branches)

    def _begin(self, around: Session) -> ParallelRun:
        self._check_reads(around.state)
        return ParallelRun(self.spec, around)

    def _check_reads(self, state: State) -> None:
        written = {key for branch in self.spec.branches for key in branch.writes}
        for branch in self.spec.branches:
            for key in sorted(branch.needs - written - state.keys()):
                raise MissingKeyError(
                    f"{self.spec.name}: the branch {branch.name!r} reads {key!r}, which no branch is known "
                    f"to write, and {missing(state, key)} Write it before the edge, or declare it on the "
                    f"branch that writes it: Branch(..., writes=[{key!r}])."
                )

    def _inner(self, config: RunnableConfig, run: ParallelRun) -> RunnableConfig:
        return {**config, "max_concurrency": 100 + len(self.spec.branches), "recursion_limit": 10}

    async def _prepare(self, run: ParallelRun, config: RunnableConfig) -> None:
        if self._has_a_past(run):
            graph = await self._graph_of(run)
            past = await run.way.call(lambda: graph.get_state(config), lambda: graph.aget_state(config))
            run.know(_outcomes(past))

    async def _invoked(self, run: ParallelRun) -> dict[str, Any]:
        return {"done": await run.run_all()} if run.direct else await super()._invoked(run)

    def _has_a_past(self, run: ParallelRun) -> bool:
        return run.saved and any(self.spec.plan.waits_for.values())

    def _shown(self, run: ParallelRun, node: str, done: list[Outcome]) -> State:
        shown = {
            one["branch"]: {"error": one["error"]} if one["error"] else one["update"] or {} for one in done
        }
        return shown.get(node, {}) if node else shown

    async def _finish(self, run: ParallelRun, done: list[Any]) -> Update:
        merged = self._merged(run, done)
        if callable(merged):
            merged = branch_update("merge", await tasks.call_as(run.way, merged))
        return self._with_errors(run, merged)

    def _merged(self, run: ParallelRun, done: list[Outcome]) -> Update | Callable[[], Any]:
        """Return the merged update; or the call of the user's `merge`, which is still to be made."""
        run.know(done)
        if self.spec.merge is None:
            return self.spec.merger.update(run.state, run.updates(self.spec.plan.order))
        updates = dict(run.updates([branch.name for branch in self.spec.branches]))
        return partial(self.spec.merge, run.state, updates)

    def _with_errors(self, run: ParallelRun, update: Any) -> Update:
        key = self.spec.failures.errors_key
        if key is None:
            return update
        errors = [run.outcomes[branch.name]["error"] for branch in self.spec.branches]
        found: State = {key: [error for error in errors if error is not None]}
        if isinstance(update, Command):
            pairs = cast("list[tuple[str, Any]]", update.update)
            return Command(update=[*pairs, *found.items()])
        return update | found


def _arrows(spec: ParallelSpec) -> list[Arrow]:
    """Return the arrows of a drawing: dependencies, labelled by key, and dotted ones to the wave before."""
    by_name = {branch.name: branch for branch in spec.branches}
    between: list[Arrow] = []
    for before, layer in pairwise([[], *spec.plan.layers]):
        for name in layer:
            needs = before if spec.scheduler == "sequential" else spec.plan.direct(name)
            between += [
                arrow(need, name, ", ".join(sorted(by_name[need].writes & by_name[name].reads)))
                for need in needs
            ]
            if spec.scheduler == "wave" and spec.plan.ancestors[name].isdisjoint(before):
                between += [arrow(other, name, many=True) for other in before]
    begun, over = {edge.target for edge in between}, {edge.source for edge in between}
    starts = [arrow(START, name) for name in by_name if name not in begun]
    ends = [arrow(name, END) for name in by_name if name not in over]
    return [*starts, *between, *ends]


def _outcomes(snapshot: Any) -> list[Outcome]:
    """Return the outcomes of the tasks of an unfinished step that have finished; none before it began."""
    return [
        outcome
        for task in snapshot.tasks
        if task.result is not None
        for outcome in task.result.get("done", ())
    ]
