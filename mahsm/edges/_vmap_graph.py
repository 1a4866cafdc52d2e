"""How a `vmap` becomes a LangGraph subgraph, and how that subgraph is run."""

import asyncio
import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.channels import Topic
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send
from typing_extensions import TypedDict

from mahsm._progress import progress as show_progress
from mahsm._slots import Slots
from mahsm._types import State
from mahsm.edges._edge import Compiled
from mahsm.edges._edge_graph import EdgeGraph
from mahsm.edges._vmap_run import Chunk, VmapRun
from mahsm.edges._vmap_spec import VmapSpec
from mahsm.nodes._node import Node
from mahsm.policies import Budget, ItemError

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


class VmapGraph(EdgeGraph[VmapRun]):
    """The subgraph of one `vmap`, with one node.

    Its tasks are `Send`s of index ranges, made by the entry edge: a finished task is a pending write of the checkpoint, so a
    crash loses at most the ranges that were being worked on.
    """

    def __init__(self, spec: VmapSpec) -> None:
        super().__init__(spec.name)
        self.spec = spec
        self._concurrency: float | None = None  # of the last run, if that found out what the provider takes

    def _compile(self) -> Compiled:
        def chunk(span: tuple[int, int], config: RunnableConfig) -> Any:
            run = self.running()
            return self._next(run, run.chunk(*span, config))

        async def chunk_async(span: tuple[int, int], config: RunnableConfig) -> Any:
            run = self.running()
            return self._next(run, await run.chunk_async(*span, config))

        def first_wave(_: Any) -> list[Send]:
            return self._wave(self.running(), 0)

        node, graph = self.spec.target.name, self.spec.target.graph
        builder: StateGraph[Any, Any, Any, Any] = StateGraph(_Work)
        builder.add_node(node, Node(chunk, chunk_async, name=node, graphs=[graph] if graph else []))
        builder.add_conditional_edges(START, first_wave, [node])
        return builder.compile(name=self.spec.name)

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

    kind = "vmap"

    @property
    def budget(self) -> Budget | None:
        return self.spec.budget

    @property
    def deadline(self) -> float | None:
        return self.spec.deadline

    @property
    def retries(self) -> bool:
        return self.spec.retry is not None

    @property
    def watches(self) -> bool:
        spec = self.spec
        return super().watches or spec.rate_limit is not None or spec.sample is not None or spec.target.reports

    def _begin(self, state: State, config: RunnableConfig, shared: Sequence[Slots]) -> VmapRun:
        spec = self.spec
        items = spec.items(state)
        if spec.failures_allowed(len(items)) < 0:
            raise spec.too_few(0, len(items))
        return VmapRun(spec, state, items, config, shared, self._concurrency)

    def _prepare(self, run: VmapRun, config: RunnableConfig) -> None:
        run.compute_for_all()

    async def _prepare_async(self, run: VmapRun, config: RunnableConfig) -> None:
        if self.spec.target.batched is not None:
            await asyncio.to_thread(run.compute_for_all)

    @contextmanager
    def _session(self, state: Any, config: RunnableConfig) -> Generator[VmapRun, None, None]:
        bars = show_progress() if self.spec.progress else nullcontext()
        with bars, super()._session(state, config) as run:
            try:
                yield run
            finally:
                if run.adaptive is not None:
                    self._concurrency = run.adaptive.limit

    def _inner(self, config: RunnableConfig, run: VmapRun) -> RunnableConfig:
        """The subgraph's config: all chunks begin at once, since LangGraph saves nothing while a task waits to begin."""
        waves = math.ceil(len(run.items) / self._size(run) / self._tasks_at_a_time)
        return {**config, "max_concurrency": 100 * self._tasks_at_a_time, "recursion_limit": waves + 10}

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


def _at_all_places(
    run: VmapRun, values: list[Any], ranks: list[int], failed: dict[int, ItemError]
) -> tuple[list[Any], list[int], dict[int, ItemError]]:
    """What the called items gave, at the places of those that equal them too."""
    index_at = {place: index for index in range(len(run.places)) for place in run.places[index]}
    first = {place: run.places[index][0] for place, index in index_at.items()}
    every = range(run.total)
    errors = {place: {**failed[first[place]], "index": place} for place in every if first[place] in failed}
    return [values[index_at[place]] for place in every], [ranks[index_at[place]] for place in every], cast("Any", errors)
