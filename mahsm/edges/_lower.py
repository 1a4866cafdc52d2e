"""How a `vmap` becomes a LangGraph subgraph, and how that subgraph is run."""

import math
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cached_property, partial
from typing import Annotated, Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.channels import Topic
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send
from typing_extensions import TypedDict

from mahsm import _tasks
from mahsm._progress import progress as show_progress
from mahsm._slots import Closed
from mahsm._state import as_dict, batch, read
from mahsm._types import State
from mahsm._watch import watched
from mahsm.edges._attempts import deadline_is_over
from mahsm.edges._bound import run_bound
from mahsm.edges._edge import Compiled
from mahsm.edges._items import current_item, lent
from mahsm.edges._run import Chunk, VmapRun
from mahsm.edges._spec import VmapSpec
from mahsm.errors import EdgeError
from mahsm.nodes._node import Node
from mahsm.policies import ItemError, Spending
from mahsm.policies._budget import spendings

_CHUNKS = (128, 64)
"""Tasks that a batch is cut into: up to 1,024 items, and above. More lose less work in a crash, fewer cost less: a task takes
LangGraph 200 to 400 us, and the items wait until all tasks are made. So a task has at most 8 of few items, and 1/64 of many."""

_CHUNKS_UNSAVED = 16
"""The same where nothing is saved: then tasks only cost."""

_WAVE = (256, 1024)
"""Tasks at a time: 32 for each item that may run at once, within these. LangGraph looks at every open task whenever one
ends, and without an event loop each is a thread; waves that are too short make the fast wait for the slow."""


class _Work(TypedDict):
    """State of the subgraph. Batch and parent state stay outside, so that no checkpoint repeats them."""

    done: Annotated[list[Chunk], Topic(list, accumulate=True)]


_current_run: ContextVar[VmapRun] = ContextVar("mahsm_vmap_run")


class VmapGraph:
    """The subgraph of one `vmap`, with one node.

    Its tasks are `Send`s of index ranges, made by the entry edge: a finished task is a pending write of the checkpoint, so a
    crash loses at most the ranges that were being worked on.
    """

    def __init__(self, spec: VmapSpec) -> None:
        self.spec = spec
        self._concurrency: float | None = None  # of the last run, if that found out what the provider takes

    @cached_property
    def graph(self) -> Compiled:
        """The compiled subgraph."""

        def chunk(span: tuple[int, int], config: RunnableConfig) -> Any:
            run = self._running()
            return self._next(run, run.chunk(*span, config))

        async def chunk_async(span: tuple[int, int], config: RunnableConfig) -> Any:
            run = self._running()
            return self._next(run, await run.chunk_async(*span, config))

        def first_wave(_: Any) -> list[Send]:
            return self._wave(self._running(), 0)

        node, graph = self.spec.target.name, self.spec.target.graph
        builder: StateGraph[Any, Any, Any, Any] = StateGraph(_Work)
        builder.add_node(node, Node(chunk, chunk_async, name=node, graphs=[graph] if graph else []))
        builder.add_conditional_edges(START, first_wave, [node])
        return builder.compile(name=self.spec.name)

    def _running(self) -> VmapRun:
        run = _current_run.get(None)
        if run is None or run.spec is not self.spec:
            raise EdgeError(
                f"{self.spec.name}: this subgraph runs only inside its edge. Run or resume the graph that holds the edge."
            )
        return run

    def _size(self, run: VmapRun) -> int:
        """Items per task: one where a target holds a graph, since checkpoints inside belong to a task."""
        if self.spec.chunk_size is not None:
            return self.spec.chunk_size
        if self.spec.target.graph is not None:
            return 1
        total = len(run.items)
        return math.ceil(total / (_CHUNKS[total > 1024] if run.saved else _CHUNKS_UNSAVED))

    @property
    def _tasks_at_a_time(self) -> int:
        fewest, most = _WAVE
        return min(most, max(fewest, 32 * self.spec.max_concurrency))

    def _wave(self, run: VmapRun, lo: int) -> list[Send]:
        total = len(run.items)
        size = self._size(run)
        stop = min(total, lo + size * self._tasks_at_a_time)
        return [Send(self.spec.target.name, (start, min(start + size, total))) for start in range(lo, stop, size)]

    def _next(self, run: VmapRun, chunk: Chunk) -> Command[Any]:
        """Hand in a chunk; the last one of a wave calls the next wave."""
        end, total = chunk["lo"] + len(chunk["values"]), len(run.items)
        last_of_wave = end < total and end % (self._size(run) * self._tasks_at_a_time) == 0
        return Command(update={"done": [chunk]}, goto=self._wave(run, end) if last_of_wave else ())

    # One run.

    def run(self, state: Any, config: RunnableConfig) -> State:
        """Run the subgraph, blocking."""
        with self._session(state, config) as run:
            if not run.items:
                return self._update(run, [])
            try:  # a chunk that stopped because another one failed ends with Closed, and LangGraph may raise that
                with lent():
                    state = _tasks.call_stoppably(partial(self.graph.invoke, {}, self._inner(config, run)), run.stop)
                    return self._update(run, self._done(state))
            except Closed as closed:
                reason = closed if run.stopped_from_outside else closed.reason
                raise reason from reason.__cause__
            finally:
                run.close(wait=True)

    async def run_async(self, state: Any, config: RunnableConfig) -> State:
        """Run the subgraph on the running event loop."""
        with self._session(state, config) as run:
            if not run.items:
                return self._update(run, [])
            try:
                async with lent():
                    return self._update(run, self._done(await self.graph.ainvoke({}, self._inner(config, run))))
            except Closed as closed:
                reason = closed if run.stopped_from_outside else closed.reason
                raise reason from reason.__cause__
            except BaseException as error:
                run.stop(error)  # edges inside blocking items know of no cancellation
                raise
            finally:
                run.close(wait=False)  # a cancelled run does not wait for the threads it leaves

    @contextmanager
    def _session(self, state: Any, config: RunnableConfig) -> Generator[VmapRun, None, None]:
        with run_bound(config) as shared, show_progress() if self.spec.progress else nullcontext():
            values = as_dict(state)
            items = batch(
                read(values, self.spec.batch_key, self.spec.name, "batch_key"), self.spec.name, self.spec.batch_key, "batch_key"
            )
            if self.spec.failures_allowed(len(items)) < 0:
                raise self.spec.too_few(0, len(items))
            with self._counted():
                run = VmapRun(self.spec, values, items, config, shared, self._concurrency)
                token = _current_run.set(run)
                try:
                    with _stoppable(run, self.spec.deadline):
                        yield run
                finally:
                    _current_run.reset(token)
                    if run.adaptive is not None:
                        self._concurrency = run.adaptive.limit

    @contextmanager
    def _counted(self) -> Generator[None, None, None]:
        """See and count the calls in the block, if anything depends on them."""
        spec = self.spec
        with ExitStack() as stack:
            if spec.budget is not None:
                stack.enter_context(Spending(spec.budget, spec.name).running())
            if spec.budget is not None or spec.rate_limit is not None or spec.retry is not None:
                stack.enter_context(watched(retries=spec.retry is None))
            yield

    def _inner(self, config: RunnableConfig, run: VmapRun) -> RunnableConfig:
        """The subgraph's config: all chunks begin at once, since LangGraph saves nothing while a task waits to begin."""
        waves = math.ceil(len(run.items) / self._size(run) / self._tasks_at_a_time)
        return {**config, "max_concurrency": 100 * self._tasks_at_a_time, "recursion_limit": waves + 10}

    def _done(self, state: dict[str, Any]) -> list[Chunk]:
        if "__interrupt__" in state:
            raise EdgeError(
                f"{self.spec.name}: an item called interrupt(), but the edge runs alone, without a checkpointer. Use "
                "edge.compile(checkpointer=...), or compile the graph that holds the edge with one."
            )
        return state["done"]

    def _update(self, run: VmapRun, done: list[Chunk]) -> State:
        total = run.total
        values: list[Any] = [None] * len(run.items)
        ranks = [0] * len(run.items)
        failed: dict[int, ItemError] = {}
        for chunk in done:
            span = slice(chunk["lo"], chunk["lo"] + len(chunk["values"]))
            values[span], ranks[span] = chunk["values"], chunk["ranks"]
            failed.update((error["index"], error) for error in chunk["errors"])
        if self.spec.dedupe_key is not None:
            values, ranks, failed = _at_all_places(run, values, ranks, failed)
        if len(failed) > self.spec.failures_allowed(total):
            raise self.spec.too_few(len(failed), total)
        run.progress.end(errors=len(failed))
        order = range(total) if self.spec.preserve_order else sorted(range(total), key=ranks.__getitem__)
        keep = [index for index in order if ranks[index] and (self.spec.on_error == "collect" or index not in failed)]
        update: State = {self.spec.out_key: [failed.get(index, values[index]) for index in keep]}
        if self.spec.errors_key is not None:
            update[self.spec.errors_key] = [failed[index] for index in sorted(failed)]
        return update


@contextmanager
def _stoppable(run: VmapRun, deadline: float | None) -> Generator[None, None, None]:
    """While the block runs, what is around the run can stop it, and budgets and the deadline can end it."""
    outer = current_item.get()
    with ExitStack() as stack:
        if outer is not None:
            stack.enter_context(outer.inside.stoppable(run.stop_from_outside))
        for spending in spendings():
            stack.enter_context(spending.stoppable(run.end))
        if deadline is not None:
            stack.callback(_tasks.after(deadline, lambda: run.end(deadline_is_over(run.spec))))
        yield


def _at_all_places(
    run: VmapRun, values: list[Any], ranks: list[int], failed: dict[int, ItemError]
) -> tuple[list[Any], list[int], dict[int, ItemError]]:
    """What the called items gave, at the places of those that equal them too."""
    index_at = {place: index for index in range(len(run.places)) for place in run.places[index]}
    first = {place: run.places[index][0] for place, index in index_at.items()}
    every = range(run.total)
    errors = {place: {**failed[first[place]], "index": place} for place in every if first[place] in failed}
    return [values[index_at[place]] for place in every], [ranks[index_at[place]] for place in every], cast("Any", errors)
