"""How a `vmap` becomes a LangGraph subgraph, and how that subgraph is run."""

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Annotated, Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.channels import Topic
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send
from typing_extensions import TypedDict

from mahsm._common import State, Update
from mahsm._progress import progress as show_progress
from mahsm._waiting import Way, sides
from mahsm.edges._shared.drawing import Compiled, DrawnGraph, arrow, drawn_as
from mahsm.edges._shared.lowering import Lowering
from mahsm.edges._shared.session import Session
from mahsm.edges._shared.streams import as_of_task
from mahsm.edges._vmap.cut import Assignment, Record, check_batch, is_record, spans_of
from mahsm.edges._vmap.one_by_one import run_one
from mahsm.edges._vmap.outcomes import Outcomes
from mahsm.edges._vmap.results import ResultPart
from mahsm.edges._vmap.run import VmapRun
from mahsm.edges._vmap.spec import VmapSpec
from mahsm.edges._vmap.together import wave
from mahsm.errors import EdgeError
from mahsm.nodes._internal import Node, position
from mahsm.policies import Budget

_WAVE = (256, 1024)
"""Tasks at a time: 32 for each item that may run at once, within these. LangGraph looks at every open task
whenever one ends, and without an event loop each is a thread; waves that are too short make the fast wait for
the slow."""


class _VmapState(TypedDict):
    """State of the subgraph. Batch and parent state stay outside, so that no checkpoint repeats them."""

    done: Annotated[list[Record], Topic(list, accumulate=True)]


class VmapLowering(Lowering[VmapRun]):
    """The subgraph of one `vmap`, with one node.

    Its tasks are `Send`s. Either each item is a task; or one task, the lead, runs the items, and others hand
    in what these gave, part by part. A finished task is a pending write of the checkpoint, so that is what a
    killed process keeps.
    """

    def __init__(self, spec: VmapSpec) -> None:
        super().__init__(spec.name)
        self.spec = spec
        self._concurrency: float | None = None  # of the last run, if that found out what the provider takes

    def _compile(self) -> Compiled:
        async def task(_: Way, given: Any, config: RunnableConfig) -> Any:
            run, order = self.running(), self._assignment(given)
            if order is None or self._is_of_another_run(run, order):
                return self._onwards(run, given, order)
            if "place" in order:
                return self._next(run, order, await run_one(run, order["place"], config))
            items = wave(run, order["wave"])
            leads = "spans" in order
            part = await (items.lead(_places(run, order), config) if leads else items.take_part())
            return self._next(run, order, part)

        def first_wave(_: Any) -> list[Send]:
            run = self.running()
            return self._sends(run, run.firsts)

        node, graph = self.spec.target.name, self.spec.target.graph
        builder: StateGraph[Any, Any, Any, Any] = StateGraph(_VmapState)
        builder.add_node(node, Node(*sides(task), name=node, graphs=[graph] if graph else []))
        builder.add_conditional_edges(START, first_wave, [node])
        arrows = [
            arrow(START, node, self.spec.batch.label, many=True),
            arrow(node, END, ", ".join(self.spec.out_keys), many=True),
        ]
        return drawn_as(DrawnGraph, builder.compile(name=self.spec.name), arrows=arrows)

    def _assignment(self, given: Any) -> Assignment | None:
        """What the task was sent; None if it was called with the state, to find out what there is still to
        do.

        Raises:
            EdgeError: if what is resumed was begun with another batch, or by another version of the code.
        """
        if not isinstance(given, dict):
            raise _other_version(self.name)
        order = cast("dict[str, Any]", given)
        if "batch" not in order:
            return None
        check_batch(self.name, order["batch"], self.running().batch_id)
        return cast("Assignment", order)

    def _records(self, state: Any) -> list[Record]:
        records: list[Any] = state.get("done", [])
        if not all(map(is_record, records)):
            raise _other_version(self.name)
        return records

    def _sends(self, run: VmapRun, places: Sequence[int]) -> list[Send]:
        """The tasks of a wave, of items that are to be called from the first of these places on."""
        at_a_time = self._tasks_at_a_time * run.size if run.saved or run.alone else len(places)
        sent, node = places[:at_a_time], self.spec.target.name
        new = partial(Assignment, batch=run.batch_id, run=run.id, wave=sent[0])
        if run.alone:
            orders = [new(place=place) for place in sent]
        else:
            parts = math.ceil(len(sent) / run.size) if run.saved else 0
            orders = [*(new() for _ in range(parts)), new(spans=spans_of(sent))]
        if len(places) > len(sent):
            orders[-1]["then"] = places[len(sent)]
        return [Send(node, order) for order in orders]

    def _next(self, run: VmapRun, order: Assignment, part: ResultPart | None) -> Command[Any]:
        """Hand in what a task gave; if it is the last one of its wave, it calls the next wave."""
        rest = run.from_place(order["then"]) if "then" in order else ()
        done = [] if part is None or part.is_empty else [part.record]
        return Command(update={"done": done}, goto=self._sends(run, rest) if rest else ())

    def _is_of_another_run(self, run: VmapRun, order: Assignment) -> bool:
        """Whether a task belongs to a lead that has died with its process; one with an item needs none."""
        return "place" not in order and order["run"] != run.id

    def _onwards(self, run: VmapRun, state: Any, order: Assignment | None) -> Command[Any]:
        """A wave broke off: what is left of its tasks calls the node with the state, which goes on with what
        is missing.

        Any of them may be left alone, since a checkpointer may write what tasks gave in another order than
        they gave it.
        """
        if order is not None:
            return Command(goto=self.spec.target.name)
        records = self._records(state)
        run.learn(records)
        places = run.missing(records)
        return Command(goto=self._sends(run, places) if places else ())

    @property
    def _tasks_at_a_time(self) -> int:
        fewest, most = _WAVE
        return min(most, max(fewest, 32 * self.spec.concurrency.max_concurrency))

    # One run.

    kind = "vmap"

    @property
    def budget(self) -> Budget | None:
        return self.spec.ends.budget

    @property
    def deadline(self) -> float | None:
        return self.spec.ends.deadline

    @property
    def retries(self) -> bool:
        return self.spec.tries.retry is not None

    def _begin(self, around: Session) -> VmapRun:
        spec = self.spec
        items = spec.items(around.state)
        if spec.failures_allowed(len(items)) < 0:
            raise spec.too_few(0, len(items))
        finished = position.get().finished.get(self)
        run = VmapRun(spec, around, items, self._concurrency, finished)
        run.check_first()
        return run

    async def _prepare(self, run: VmapRun, config: RunnableConfig) -> None:
        if self.spec.target.batched is not None:
            await run.way.call_blocking(run.compute_for_all)

    @contextmanager
    def _begun(self, around: Session) -> Generator[VmapRun, None, None]:
        bars = show_progress() if self.spec.progress is True else nullcontext()
        with bars, super()._begun(around) as run:
            try:
                yield run
            finally:
                if run.adaptive is not None:
                    self._concurrency = run.adaptive.limit

    def _inner(self, config: RunnableConfig, run: VmapRun) -> RunnableConfig:
        """The subgraph's config: all tasks begin at once, since LangGraph saves nothing while a task waits to
        begin.
        """
        waves = math.ceil(len(run.firsts) / run.size / self._tasks_at_a_time)
        return {**config, "max_concurrency": 100 * _WAVE[1], "recursion_limit": waves + 10}

    async def _invoked(self, run: VmapRun) -> dict[str, Any]:
        if not run.direct:
            return await super()._invoked(run)
        config = as_of_task(run.config, self.spec.target.name)
        return _state(await wave(run, run.firsts[0]).lead(run.firsts, config))

    def _shown(self, run: VmapRun, node: str, done: list[Record]) -> State:
        items: dict[int, Any] = {}
        for record in done:
            failed = {error["index"]: error for error in record["errors"]}
            for place, value in zip(record["places"], record["values"], strict=True):
                items |= {equal: failed.get(place, value) for equal in run.equal_to(place)}
        return {"items": items} if items else {}

    async def _finish(self, run: VmapRun, done: list[Record]) -> Update:
        outcomes = Outcomes.of(run, self._records({"done": done}))
        if len(outcomes.failed) > self.spec.failures_allowed(run.total):
            raise self.spec.too_few(len(outcomes.failed), run.total)
        run.progress.end(errors=len(outcomes.failed))
        run.count_all(finished=run.total - outcomes.ranks.count(0), failed=len(outcomes.failed))
        update = self.spec.update(outcomes.entries(), run.state, as_writes=run.is_node)
        key = self.spec.failures.errors_key
        if key is None:
            return update
        errors = [outcomes.failed[place] for place in sorted(outcomes.failed)]
        if isinstance(update, Command):
            return Command(update=[*cast("list[Any]", update.update), (key, errors)])
        return update | {key: errors}


def _state(part: ResultPart) -> dict[str, Any]:
    return {"done": [] if part.is_empty else [part.record]}


def _places(run: VmapRun, order: Assignment) -> Sequence[int]:
    """The items that a lead is to run."""
    spans = order.get("spans", [])
    if len(spans) == 1 and len(run.firsts) == run.total:
        return range(*spans[0])
    return [place for span in spans for place in range(*span)]


def _other_version(edge: str) -> EdgeError:
    return EdgeError(
        f"{edge}: what this run has saved was written by another version of mahsm, which cut batches "
        "otherwise. Resume it with that version, or begin a new run under another thread_id."
    )
