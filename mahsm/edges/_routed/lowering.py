"""Lowering of an edge that chooses its branches."""

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

from mahsm._common import State, Update
from mahsm._waiting import Way, sides
from mahsm.edges._parallel import BranchSpec, ParallelLowering, ParallelRun, ParallelSpec
from mahsm.edges._routed.chooser import Chooser
from mahsm.edges._routed.run import CHOOSE, RoutedRun, asked_of, last_step
from mahsm.edges._shared.drawing import DrawnGraph, arrow, drawn_as
from mahsm.edges._shared.session import Session
from mahsm.nodes._internal import Node


class RoutedLowering(ParallelLowering):
    """A subgraph with a node that decides, to which each branch returns.

    LangGraph saves each decision and each update, so that a resumed run decides nothing twice.

    Args:
        spec: The branches.
        chooser: Chooses the next one.
        judge: The target of the chooser, if it has one.
        write_to: State key for what was decided.
    """

    kind = "route"

    def __init__(self, spec: ParallelSpec, chooser: Chooser, judge: BranchSpec | None, write_to: str) -> None:
        super().__init__(spec)
        self._chooser = chooser
        self._judge = judge
        self._write_to = write_to
        self.writes: Sequence[str] = [write_to]
        judged = {} if judge is None else {judge.name: judge.target.source}
        # The chooser is where `mahsm.learn` finds edges that learn.
        self.children: Mapping[str, object] = {**judged, "": chooser}

    def _compile(self, state: type[Any]) -> DrawnGraph:
        async def choose(_: Way, given: Any, config: RunnableConfig) -> Any:
            run: Any = self.running()
            step = await run.step(given.get("done", []), config)
            return Command(update={"done": [step]}, goto=step["next"] or END)

        builder: StateGraph[Any, Any, Any, Any] = StateGraph(state)
        judge = None if self._judge is None else self._judge.target.graph
        builder.add_node(CHOOSE, Node(*sides(choose), name=CHOOSE, graphs=[judge] if judge else []))
        builder.add_edge(START, CHOOSE)
        names = [branch.name for branch in self.spec.branches]
        for branch in self.spec.branches:
            builder.add_node(branch.name, self._node(branch))
            builder.add_edge(branch.name, CHOOSE)
        arrows = [
            arrow(START, CHOOSE),
            *(arrow(CHOOSE, name, many=True) for name in names),
            *(arrow(name, END) for name in names),
        ]
        return drawn_as(DrawnGraph, builder.compile(name=self.spec.name), arrows=arrows)

    def _begin(self, around: Session) -> ParallelRun:
        self._check_reads(around.state)
        return RoutedRun(self.spec, self._chooser, self._judge, around)

    def _inner(self, config: RunnableConfig, run: ParallelRun) -> RunnableConfig:
        return {**config, "recursion_limit": 2 * len(self.spec.branches) + 10}

    def _has_a_past(self, run: ParallelRun) -> bool:
        return False  # each task reads it from the state of the subgraph

    def _shown(self, run: ParallelRun, node: str, done: list[Any]) -> State:
        if node == CHOOSE:
            return {self._write_to: done[0]["note"]} if done else {}
        return super()._shown(run, node, [one for one in done if "branch" in one])

    async def _finish(self, run: ParallelRun, done: list[Any]) -> Update:
        asked = asked_of(done)
        update = {**asked[-1].update, self._write_to: last_step(self.name, done)["note"]}
        return self.spec.merger.update(run.state, [(asked[-1].step["next"] or "", update)])
