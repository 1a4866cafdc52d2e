"""Lowering of a `vmap`: compiles it into a LangGraph subgraph, and runs that subgraph."""

import math
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from functools import partial
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send

from mahsm._common import State, Update
from mahsm._progress import progress as show_progress
from mahsm._waiting import THREAD, Way, sides
from mahsm.data import Stream
from mahsm.edges._shared.drawing import DrawnGraph, arrow, drawn_as
from mahsm.edges._shared.lowering import Lowering
from mahsm.edges._shared.session import Session
from mahsm.edges._shared.streams import as_of_task
from mahsm.edges._vmap.cut import Assignment, Record, check_batch, is_record, spans_of
from mahsm.edges._vmap.one_by_one import run_one
from mahsm.edges._vmap.outcomes import Outcomes
from mahsm.edges._vmap.results import ResultPart
from mahsm.edges._vmap.run import VmapRun
from mahsm.edges._vmap.size import warn_if_large
from mahsm.edges._vmap.spec import VmapSpec
from mahsm.edges._vmap.streamed import Streamed, opened
from mahsm.edges._vmap.together import Together, wave
from mahsm.errors import EdgeError
from mahsm.nodes._internal import Node, position
from mahsm.policies import Budget

_WAVE = (256, 1024)
"""Bounds on the number of tasks in a wave, which is 32 for each item that may run at a time. LangGraph looks
at every open task whenever one ends, and without an event loop each task is a thread, so waves must not be
long; in waves that are too short, fast items wait for slow ones."""


class VmapLowering(Lowering[VmapRun]):
    """The lowering of one `vmap`: a subgraph with one node, whose tasks are `Send`s.

    Either each item is a task; or one task, the lead, runs the items, and the others hand in their results,
    part by part. A finished task is a pending write of the checkpoint, so a killed process loses only what
    the open tasks had not handed in.
    """

    # Waves and resume.
    #
    # The tasks that are open at a time form a wave, which is one step of LangGraph. The last task of a wave
    # knows the first place of the next one (`then`), and sends it by its `Command`; LangGraph starts that
    # when all tasks of the present wave have ended. So a batch of any size never has more than a wave of
    # tasks open.
    #
    # On resume, LangGraph runs the unfinished tasks of the step again, with the assignments that they had. A
    # task with one item just runs that item. The other tasks belong to a lead: they can only hand in what a
    # lead of the same run gives them, and that lead has died with its process (`_is_of_another_run`). Such a
    # task calls the node with the state instead. The node, called so, reads from the state which items have
    # an outcome, and sends the others as new waves (`_onwards`).
    #
    # Invariant: any single task that is left of a lead's wave is enough to continue the run. It has to be,
    # because a checkpointer may write the results of tasks in another order than they ended in: the only task
    # whose result is lost may be the lead, or any other one.

    def __init__(self, spec: VmapSpec) -> None:
        super().__init__(spec.name)
        self.spec = spec
        # The level that the last run found, if the edge is adaptive.
        self._concurrency: float | None = None

    def _compile(self, state: type[Any]) -> DrawnGraph:
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
        builder: StateGraph[Any, Any, Any, Any] = StateGraph(state)
        builder.add_node(node, Node(*sides(task), name=node, graphs=[graph] if graph else []))
        builder.add_conditional_edges(START, first_wave, [node])
        arrows = [
            arrow(START, node, self.spec.batch.label, many=True),
            arrow(node, END, ", ".join(self.spec.out_keys), many=True),
        ]
        return drawn_as(DrawnGraph, builder.compile(name=self.spec.name), arrows=arrows)

    def _assignment(self, given: Any) -> Assignment | None:
        """Return the task's assignment; None if it was called with the state, to find the missing items.

        Raises:
            EdgeError: if the resumed run began with another batch, or under another version of the code.
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
        """Return the tasks of the wave that begins with the first of these places."""
        at_a_time = self._tasks_at_a_time * run.size if run.saved or run.alone else len(places)
        sent, node = places[:at_a_time], self.spec.target.name
        new = partial(Assignment, batch=run.batch_id, run=run.id, wave=sent[0])
        if run.alone:
            orders = [new(place=place) for place in sent]
            if run.way is THREAD and run.warming is None:
                # In this order also if their threads begin in another one. With `warm`, an item that waits
                # for the first answer would keep back those of other keys.
                run.begun_slots.expect((place,) for place in sent)
        else:
            parts = math.ceil(len(sent) / run.size) if run.saved else 0
            orders = [*(new() for _ in range(parts)), new(spans=spans_of(sent))]
        if len(places) > len(sent):
            orders[-1]["then"] = places[len(sent)]
        return [Send(node, order) for order in orders]

    def _next(self, run: VmapRun, order: Assignment, part: ResultPart | None) -> Command[Any]:
        """Hand in a task's results; the last task of a wave also sends the next wave."""
        rest = run.from_place(order["then"]) if "then" in order else ()
        done = [] if part is None or part.is_empty else [part.record]
        return Command(update={"done": done}, goto=self._sends(run, rest) if rest else ())

    def _is_of_another_run(self, run: VmapRun, order: Assignment) -> bool:
        """Return whether a task belongs to a lead of another run; a task with one item needs no lead."""
        return "place" not in order and order["run"] != run.id

    def _onwards(self, run: VmapRun, state: Any, order: Assignment | None) -> Command[Any]:
        """Continue after a wave that broke off.

        A task that is left of it calls the node with the state; the node, called so, sends the items that
        have no outcome yet.
        """
        if order is not None:
            return Command(goto=self.spec.target.name)
        records = self._records(state)
        run.tally.learn(records)
        places = run.tally.missing(records, run.firsts)
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

    def _opened(self, around: Session) -> AbstractAsyncContextManager[Callable[[Session], VmapRun]]:
        spec, found = self.spec, self.spec.given(around.state)
        if spec.sink is None and not isinstance(found, Stream):
            return nullcontext(partial(self._begin, items=spec.listed(found)))
        return self._of_ranges(around, found)

    @asynccontextmanager
    async def _of_ranges(
        self, around: Session, found: Any
    ) -> AsyncGenerator[Callable[[Session], VmapRun], None]:
        spec = self.spec
        batch = cast("Any", found) if isinstance(found, Stream) else spec.listed(found)
        async with opened(batch, spec.sink, spec.cut, spec.target.name, around.way) as streamed:
            yield partial(self._begin, items=streamed.ranges, streamed=streamed)

    def _begin(self, around: Session, items: Sequence[Any] = (), streamed: Streamed | None = None) -> VmapRun:
        spec = self.spec
        failed = 0 if streamed is None or streamed.sink is None else streamed.sink.failed
        if failed > spec.failures_allowed(len(items)):
            raise spec.too_few(failed, len(items))
        finished = position.get().finished.get(self)
        run = VmapRun(spec, around, items, self._concurrency, finished, streamed)
        run.states.check_first(run.firsts)
        return run

    async def _prepare(self, run: VmapRun, config: RunnableConfig) -> None:
        if self.spec.target.batched is not None:
            await run.way.call_blocking(partial(run.states.compute, run.firsts))

    def _begun(self, around: Session, begin: Callable[[Session], VmapRun]) -> AbstractContextManager[VmapRun]:
        if self.spec.progress is not True and self.spec.concurrency.bounds is None:
            return super()._begun(around, begin)
        return self._with_bars(around, begin)

    @contextmanager
    def _with_bars(
        self, around: Session, begin: Callable[[Session], VmapRun]
    ) -> Generator[VmapRun, None, None]:
        bars = show_progress() if self.spec.progress is True else nullcontext()
        with bars, super()._begun(around, begin) as run:
            try:
                yield run
            finally:
                if run.adaptive is not None:
                    self._concurrency = run.adaptive.limit

    def _inner(self, config: RunnableConfig, run: VmapRun) -> RunnableConfig:
        """Return the subgraph's config.

        All tasks of a wave begin at the same time, since LangGraph saves nothing while a task waits to begin.
        """
        waves = math.ceil(len(run.firsts) / run.size / self._tasks_at_a_time)
        return {**config, "max_concurrency": 100 * _WAVE[1], "recursion_limit": waves + 10}

    async def _invoked(self, run: VmapRun) -> dict[str, Any]:
        if not run.direct:
            return await super()._invoked(run)
        config = as_of_task(run.config, self.spec.target.name)
        return _state(await Together(run).lead(run.firsts, config))

    def _shown(self, run: VmapRun, node: str, done: list[Record]) -> State:
        items: dict[int, Any] = {}
        for record in done:
            failed = {error["index"]: error for error in record["errors"]}
            for place, value in zip(record["places"], record["values"], strict=True):
                items |= {equal: failed.get(place, value) for equal in run.tally.equal_to(place)}
        return {"items": items} if items else {}

    async def _finish(self, run: VmapRun, done: list[Record]) -> Update:
        if run.sink is not None:
            report = await run.way.call_to_end(run.sink.end)
            run.progress.end(errors=report["errors"])
            run.tally.count_all(finished=run.total, failed=report["errors"])
            return {self.spec.out_keys[0]: report}
        outcomes = Outcomes.of(run, self._records({"done": done}))
        if len(outcomes.failed) > self.spec.failures_allowed(run.total):
            raise self.spec.too_few(len(outcomes.failed), run.total)
        run.progress.end(errors=len(outcomes.failed))
        run.tally.count_all(finished=run.total - outcomes.ranks.count(0), failed=len(outcomes.failed))
        entries = outcomes.entries()
        warn_if_large(self.name, entries)
        update = self.spec.update(entries, run.state, as_writes=run.is_node)
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
    """Return the places of the items that a lead is to run."""
    spans = order.get("spans", [])
    if len(spans) == 1 and len(run.firsts) == run.total:
        return range(*spans[0])
    return [place for span in spans for place in range(*span)]


def _other_version(edge: str) -> EdgeError:
    return EdgeError(
        f"{edge}: the saved results of this run were written by another version of mahsm, in another format. "
        "Resume it with that version, or begin a new run under another thread_id."
    )
