"""Branches that count their calls, fail, ask, and cut runs short; and the graph that they are in."""

import asyncio
import operator
import threading
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from mahsm import Branch, Edge, Retry, connect, parallel, vmap
from tests.helpers import Gauge
from tests.model.branches import ITEMS, BranchCase, value_of
from tests.model.world import BASES, Flaky

Place = tuple[int, int, int]
"""A row, a branch, and an item of it or 0."""


class BranchWorld:
    """What the branches of one case do, over all its runs; the attributes are those of `World`."""

    def __init__(self, case: BranchCase) -> None:
        self.case = case
        self.calls: Counter[Place] = Counter()
        self.finished: set[Place] = set()
        self.at_error: list[set[Place]] = []
        self.called_since: list[Counter[Place]] = []
        self.gauge = Gauge()
        self.cancel: Callable[[], object] | None = None
        self.gone = False
        self.late = 0
        self._left = {(row, branch): often for branch, often in case.fails for row in range(case.rows or 1)}
        self._lock = threading.Lock()
        self._fault = case.fault

    def _begin(self, place: Place) -> None:
        with self._lock:
            self.late += self.gone
            self.calls[place] += 1
            for counter in self.called_since:
                counter[place] += 1
            fault, number = self._fault, sum(self.calls.values())
            if (
                fault is None
                or fault.kind == "stop"
                or fault.at != (place[1] if fault.kind == "base" else number)
            ):
                return
            self._fault = None
        if fault.kind == "base":
            raise BASES[fault.error]("out")
        assert self.cancel is not None
        self.cancel()

    def _end(self, place: Place) -> None:
        with self._lock:
            left = self._left.get(place[:2], 0) if place[2] == 0 else 0
            if left > 0:
                self._left[place[:2]] = left - 1
                self.at_error.append(set(self.finished))
                self.called_since.append(Counter())
                raise Flaky(place)
            self.finished.add(place)

    def _write(self, branch: int, state: dict[str, Any]) -> dict[str, Any]:
        place = (state.get("row", 0), branch, 0)
        with self.gauge.inside():
            self._begin(place)
            answer = interrupt(branch) if branch in self.case.asks else 0
            needs = [state[f"b{need}"] for need in self.case.after[branch]]
            self._end(place)
        update = {f"b{branch}": value_of(self.case, branch, needs, answer)}
        return {**update, "log": [branch]} if self.case.is_logged else update

    def _item(self, branch: int, state: dict[str, Any]) -> int:
        place = (state.get("row", 0), branch, state["item"])
        with self.gauge.inside():
            self._begin(place)
            self._end(place)
        return branch * 10 + state["item"]

    def target(self, branch: int) -> Any:
        """What a branch is."""
        is_edge = branch in self.case.edges
        work = self._item if is_edge else self._write

        def blocking(state: dict[str, Any]) -> Any:
            return work(branch, state)

        async def waiting(state: dict[str, Any]) -> Any:
            for _ in range(branch % 3):
                await asyncio.sleep(0)
            return work(branch, state)

        made = blocking if branch in self.case.blocks else waiting
        if not is_edge:
            return made
        return vmap(made, batch_key="xs", out_key=f"b{branch}", chunk_size=1, name=f"items{branch}")

    def edge(self) -> Edge:
        case = self.case
        retry = None if case.attempts is None else Retry(attempts=case.attempts, base=0, share=None)
        branches = [
            Branch(
                self.target(number),
                name=f"b{number}",
                after=[f"b{need}" for need in case.after[number]],
                retry=None if number in case.edges else retry,
            )
            for number in case.order
        ]
        return parallel(
            branches,
            scheduler=case.scheduler,
            eager=case.eager,
            wave_size=case.wave_size,
            max_concurrency=case.max_concurrency,
            on_error=case.on_error,
            errors_key=None if case.on_error == "raise" else "errors",
            merge=(lambda state, updates: {"merged": sorted(updates)}) if case.merged else None,
            name="branches",
        )


def branch_graph(world: BranchWorld, saver: Any) -> Any:
    """The graph around the edge."""
    case = world.case
    keys: dict[str, Any] = {f"b{branch}": Any for branch in range(case.size)}
    keys |= {
        "xs": Any,
        "rows": Any,
        "errors": Any,
        "merged": Any,
        "ys": Any,
        "log": Annotated[list[int], operator.add],
    }
    schema: Any = TypedDict("Branches", keys, total=False)  # type: ignore[misc]
    edge = world.edge()
    if case.rows is not None:
        edge = vmap(
            edge, batch_key="rows", out_key="ys", item_to_state=lambda row: {"row": row}, name="rows_of"
        )
    inner = connect(StateGraph(schema), START, edge, END)
    if case.nesting == "flat":
        return inner.compile(checkpointer=saver)
    return (
        StateGraph(schema)
        .add_node("inner", inner.compile())
        .add_edge(START, "inner")
        .compile(checkpointer=saver)
    )


def branch_input(case: BranchCase) -> dict[str, Any]:
    return {"xs": list(range(ITEMS)), "rows": list(range(case.rows or 0))}
