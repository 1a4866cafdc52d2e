"""`vmap`: call a target for every item of a list in the state."""

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias, cast, get_args

from langchain_core.runnables import RunnableConfig
from langgraph.channels import Topic
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send
from typing_extensions import TypedDict

from mahsm import _tasks
from mahsm._progress import progress as show_progress
from mahsm._slots import Closed
from mahsm._state import as_dict, batch, missing, read, shown
from mahsm._types import Overlay, State, Update
from mahsm.edges import _check
from mahsm.edges._bound import run_bound
from mahsm.edges._edge import Compiled, Edge
from mahsm.edges._items import lent, lent_async
from mahsm.edges._run import Chunk, VmapRun
from mahsm.errors import EdgeError, MissingKeyError, StateError, TooFewSucceeded
from mahsm.nodes._node import Node
from mahsm.nodes._target import Target, as_target
from mahsm.policies import ItemError

OnError: TypeAlias = Literal["raise", "collect", "drop"]

_CHUNKS = (128, 64)
"""Tasks that a batch is cut into: below and from 2,048 items on. More lose less work in a crash, fewer cost less: a task takes
LangGraph 200 to 400 us. So a task has at most 16 items where a few hundred may be all there are, and 1/64 of many."""

_WAVE = (256, 1024)
"""Tasks at a time: 32 for each item that may run at once, within these. LangGraph looks at every open task whenever one
ends, and without an event loop each is a thread; waves that are too short make the fast wait for the slow."""


class _Work(TypedDict):
    """State of the subgraph. Batch and parent state stay outside, so that no checkpoint repeats them."""

    done: Annotated[list[Chunk], Topic(list, accumulate=True)]


_current_run: ContextVar[VmapRun] = ContextVar("mahsm_vmap_run")


@dataclass(frozen=True)
class Vmap:
    """The specification of one `vmap` edge, and how it is lowered to a LangGraph subgraph.

    The subgraph has one node. Its tasks are `Send`s of index ranges, made by the entry edge: a finished task is a pending
    write of the checkpoint, so a crash loses at most the ranges that were being worked on.
    """

    name: str
    target: Target
    batch_key: str
    out_key: str
    item_to_state: Callable[[Any], Overlay] | None
    max_concurrency: int
    preserve_order: bool
    timeout: float | None
    on_error: OnError
    errors_key: str | None
    min_success: int | float | None
    result: str | Callable[[Any], Any] | None
    chunk_size: int | None
    progress: bool

    # The subgraph.

    def lower(self) -> Compiled:
        def chunk(span: tuple[int, int], config: RunnableConfig) -> Any:
            run = self._running()
            return self._next(run, run.chunk(*span, config))

        async def chunk_async(span: tuple[int, int], config: RunnableConfig) -> Any:
            run = self._running()
            return self._next(run, await run.chunk_async(*span, config))

        def first_wave(_: Any) -> list[Send]:
            return self._wave(self._running(), 0)

        node, graph = self.target.name, self.target.graph
        builder: StateGraph[Any, Any, Any, Any] = StateGraph(_Work)
        builder.add_node(node, Node(chunk, chunk_async, name=node, graphs=[graph] if graph else []))
        builder.add_conditional_edges(START, first_wave, [node])
        return builder.compile(name=self.name)

    def _running(self) -> VmapRun:
        run = _current_run.get(None)
        if run is None or run.edge is not self:
            raise EdgeError(
                f"{self.name}: this subgraph runs only inside its edge. Run or resume the graph that holds the edge."
            )
        return run

    def _size(self, total: int) -> int:
        """Items per task: one where a target holds a graph, since checkpoints inside belong to a task."""
        if self.chunk_size is not None:
            return self.chunk_size
        return 1 if self.target.graph else math.ceil(total / _CHUNKS[total >= 2048])

    @property
    def _tasks_at_a_time(self) -> int:
        fewest, most = _WAVE
        return min(most, max(fewest, 32 * self.max_concurrency))

    def _wave(self, run: VmapRun, lo: int) -> list[Send]:
        total = len(run.items)
        size = self._size(total)
        stop = min(total, lo + size * self._tasks_at_a_time)
        return [Send(self.target.name, (start, min(start + size, total))) for start in range(lo, stop, size)]

    def _next(self, run: VmapRun, chunk: Chunk) -> Command[Any]:
        """Hand in a chunk; the last one of a wave calls the next wave."""
        end, total = chunk["lo"] + len(chunk["values"]), len(run.items)
        last_of_wave = end < total and end % (self._size(total) * self._tasks_at_a_time) == 0
        return Command(update={"done": [chunk]}, goto=self._wave(run, end) if last_of_wave else ())

    # One run.

    def run(self, graph: Compiled, state: Any, config: RunnableConfig) -> State:
        """Run the subgraph, blocking."""
        with self._session(state, config) as run:
            if not run.items:
                return self._update(run, [])
            try:
                with lent():
                    state = _tasks.call_stoppably(partial(graph.invoke, {}, self._inner(config, run)), run.stop)
                    return self._update(run, self._done(state))
            except Closed as closed:  # LangGraph raised the error of a chunk that only stopped because another one failed
                raise closed.reason from closed.reason.__cause__
            finally:
                run.close(wait=True)

    async def run_async(self, graph: Compiled, state: Any, config: RunnableConfig) -> State:
        """Run the subgraph on the running event loop."""
        with self._session(state, config) as run:
            if not run.items:
                return self._update(run, [])
            try:
                async with lent_async():
                    return self._update(run, self._done(await graph.ainvoke({}, self._inner(config, run))))
            finally:
                run.close(wait=False)  # a cancelled run does not wait for the threads it leaves

    @contextmanager
    def _session(self, state: Any, config: RunnableConfig) -> Generator[VmapRun, None, None]:
        with run_bound(config) as shared, show_progress() if self.progress else nullcontext():
            values = as_dict(state)
            items = batch(read(values, self.batch_key, self.name, "batch_key"), self.name, self.batch_key, "batch_key")
            run = VmapRun(self, values, items, config, shared)
            if self.failures_allowed(len(items)) < 0:
                raise self.too_few(0, len(items))
            token = _current_run.set(run)
            try:
                yield run
            finally:
                _current_run.reset(token)

    def _inner(self, config: RunnableConfig, run: VmapRun) -> RunnableConfig:
        """The subgraph's config: all chunks begin at once, since LangGraph saves nothing while a task waits to begin."""
        total = len(run.items)
        waves = math.ceil(total / self._size(total) / self._tasks_at_a_time)
        return {**config, "max_concurrency": 100 * self._tasks_at_a_time, "recursion_limit": waves + 10}

    def _done(self, state: dict[str, Any]) -> list[Chunk]:
        if "__interrupt__" in state:
            raise EdgeError(
                f"{self.name}: an item called interrupt(), but the edge runs alone, without a checkpointer. Use "
                "edge.compile(checkpointer=...), or compile the graph that holds the edge with one."
            )
        return state["done"]

    def _update(self, run: VmapRun, done: list[Chunk]) -> State:
        total = len(run.items)
        values: list[Any] = [None] * total
        ranks = [0] * total
        failed: dict[int, ItemError] = {}
        for chunk in done:
            span = slice(chunk["lo"], chunk["lo"] + len(chunk["values"]))
            values[span], ranks[span] = chunk["values"], chunk["ranks"]
            failed.update((error["index"], error) for error in chunk["errors"])
        if len(failed) > self.failures_allowed(total):
            raise self.too_few(len(failed), total)
        run.progress.end(errors=len(failed))
        order = range(total) if self.preserve_order else sorted(range(total), key=ranks.__getitem__)
        keep = [index for index in order if self.on_error == "collect" or index not in failed]
        update: State = {self.out_key: [failed.get(index, values[index]) for index in keep]}
        if self.errors_key is not None:
            update[self.errors_key] = [failed[index] for index in sorted(failed)]
        return update

    # One item.

    def overlay(self, item: Any) -> Overlay:
        """The keys laid over the parent's state for an item."""
        if self.item_to_state is None:
            return {"item": item}
        overlay = self.item_to_state(item)
        if not isinstance(overlay, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise StateError(f"{self.name}: item_to_state returned {shown(overlay)}; expected a dict of state keys.")
        return overlay

    def entry(self, update: Update) -> Any:
        """What an item leaves in `out_key`."""
        if self.result is None:
            return update
        if callable(self.result):
            return self.result(update)
        found = f"the target gave {shown(update)}."
        if isinstance(update, Mapping):
            values = cast("Mapping[str, Any]", update)
            if self.result in values:
                return values[self.result]
            found = missing(values, self.result, "the update")
        raise MissingKeyError(f"{self.name}: result={self.result!r}, but {found} Name a key of it, or pass a function of it.")

    def failures_allowed(self, total: int) -> int:
        """How many items may fail; negative if even without a failure too few could succeed."""
        if self.min_success is None:
            return total
        return total - (math.ceil(self.min_success * total) if isinstance(self.min_success, float) else self.min_success)

    def too_few(self, failures: int, total: int) -> TooFewSucceeded:
        """The error that says that `min_success` cannot be reached."""
        return TooFewSucceeded(
            f"{self.name}: {failures} of {total} items failed, and min_success={self.min_success!r} cannot be reached. Lower "
            "it to go on with what there is."
        )


def vmap(
    target: object,
    *,
    batch_key: str,
    out_key: str,
    item_to_state: Callable[[Any], Overlay] | None = None,
    max_concurrency: int = 8,
    preserve_order: bool = True,
    timeout: float | None = None,
    on_error: OnError = "raise",
    errors_key: str | None = None,
    min_success: int | float | None = None,
    result: str | Callable[[Any], Any] | None = None,
    chunk_size: int | None = None,
    progress: bool = False,
    name: str | None = None,
) -> Edge:
    """Call a target for every item of a list in the state, at most `max_concurrency` at a time.

    Each item gets the parent's state with `item_to_state(item)` laid over it, as a dict, or as the dataclass or pydantic
    model that the target's first parameter is annotated with. An empty batch gives `[]`.

    With a checkpointer, finished items are not run again after a crash, an error or an interrupt.

    Args:
        target: What to call: a function of the state (sync or async; it may take LangGraph's `config`, `runtime`, `store`
            and `writer`), a DSPy module, a Runnable, a compiled graph or another edge.
        batch_key: State key of the items: a list, tuple, array, generator or dict view.
        out_key: State key that gets one entry per item.
        item_to_state: From an item to the keys laid over the parent's state; by default `{"item": item}`.
        max_concurrency: Items at once, >= 1, those of edges inside included. LangGraph's own `max_concurrency` in the
            config is an upper bound that all edges of a graph run share.
        preserve_order: Entries in the order of the input; else in the order in which the items finished.
        timeout: Seconds that one item may take, > 0. An async target is cancelled then; a blocking one is reported, and
            its thread runs on, since a thread cannot be stopped.
        on_error: `"raise"` stops the rest and raises the first error as it is; `"collect"` leaves an `ItemError` in the
            failed item's place; `"drop"` leaves it out.
        errors_key: State key that gets the `ItemError`s, in input order.
        min_success: How many items must succeed: a count >= 1, or a share in (0, 1].
        result: What of the target's update becomes the entry: one of its keys, or a function of it; by default all.
        chunk_size: Items per LangGraph task, >= 1. By default a batch becomes at most 128 tasks, and one task per item
            if the target holds a graph. What an unfinished task had done is done again after a crash; `interrupt()` in
            an item needs `chunk_size=1`.
        progress: Show a bar on stderr.
        name: Node name; by default `vmap_` and the target's name.

    Returns:
        An edge that reads `batch_key` and writes `out_key` (and `errors_key`).

    Raises:
        EdgeError: at once, for arguments that cannot work.
        NodeError: at once, for a target that cannot be called with a state.
        StateError: when run, for a batch that is missing or is none.
        TooFewSucceeded: when run, as soon as `min_success` cannot be reached.

    Example:
        >>> from mahsm import vmap
        >>> async def shout(state):
        ...     return {"loud": state["word"].upper()}
        >>> edge = vmap(shout, batch_key="words", out_key="out", item_to_state=lambda w: {"word": w}, result="loud")
        >>> edge.invoke({"words": ["a", "b"]})
        {'out': ['A', 'B']}
    """
    edge = f"vmap({out_key!r})" if name is None else f"vmap {name!r}"
    for argument, value in {"batch_key": batch_key, "out_key": out_key}.items():
        _check.key(edge, argument, value)
    _check.whole(edge, "max_concurrency", max_concurrency, "1 runs one item at a time; there is no value for 'unbounded'.")
    _check.choice(edge, "on_error", on_error, get_args(OnError))
    if item_to_state is not None:
        _check.function(edge, "item_to_state", item_to_state, "a function from an item to a dict of state keys")
    if timeout is not None:
        _check.seconds(edge, "timeout", timeout)
    if result is not None and not isinstance(result, str):
        _check.function(edge, "result", result, "a key of the target's update, or a function of the update")
    if chunk_size is not None:
        _check.whole(edge, "chunk_size", chunk_size, "Leave it out to let the edge choose.")
    if name is not None:
        _check.name(edge, name)
    _check_failures(edge, out_key, on_error, errors_key, min_success)
    made = as_target(target, reader=edge)
    if made.graph is not None and chunk_size not in (None, 1):
        raise EdgeError(
            f"{edge}: chunk_size={chunk_size!r}, but the target {made.name!r} holds a graph, whose checkpoints belong to one "
            "task each. Leave chunk_size out."
        )
    spec = Vmap(
        name=name or f"vmap_{made.name}",
        target=made,
        batch_key=batch_key,
        out_key=out_key,
        item_to_state=item_to_state,
        max_concurrency=max_concurrency,
        preserve_order=preserve_order,
        timeout=timeout,
        on_error=on_error,
        errors_key=errors_key,
        min_success=min_success,
        result=result,
        chunk_size=chunk_size,
        progress=progress,
    )
    graph = spec.lower()
    writes = [out_key] if errors_key is None else [out_key, errors_key]
    sync, async_ = partial(spec.run, graph), partial(spec.run_async, graph)
    return Edge(sync, async_, name=spec.name, graph=graph, reads=[batch_key], writes=writes)


def _check_failures(edge: str, out_key: str, on_error: str, errors_key: object, min_success: object) -> None:
    if errors_key is not None:
        _check.key(edge, "errors_key", errors_key)
        if errors_key == out_key:
            raise EdgeError(f"{edge}: errors_key and out_key are both {out_key!r}; expected two keys.")
    if min_success is not None:
        share = isinstance(min_success, float) and 0 < min_success <= 1
        count = isinstance(min_success, int) and not isinstance(min_success, bool) and min_success >= 1
        if not share and not count:
            raise EdgeError(
                f"{edge}: min_success={shown(min_success)}; expected a count >= 1, or a share in (0, 1] as a float."
            )
    for argument, value in {"errors_key": errors_key, "min_success": min_success}.items():
        if value is not None and on_error == "raise":
            raise EdgeError(
                f"{edge}: {argument}={value!r} has no effect with on_error='raise', where the first error ends the run. "
                "Pass on_error='collect' or 'drop'."
            )
