"""`EdgeRun`: the slots, stop callbacks and calls of targets that the runs of all edges share."""

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from functools import partial
from typing import Any, NoReturn, cast

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphInterrupt
from langgraph.runtime import get_runtime

from mahsm._common import AsyncCall, State, SyncCall, Update, cached
from mahsm._spans import NOTHING
from mahsm._waiting import (
    THREAD,
    Closed,
    LeftBehind,
    Slots,
    StopCallbacks,
    Way,
    cancelled_by,
    here,
    may_be_stopped,
    release_all,
    set_awaited,
    tasks,
    try_acquire_all,
)
from mahsm.edges._shared.attempts import AnyCall, deadline_is_over
from mahsm.edges._shared.break_off import BreakOff
from mahsm.edges._shared.graph_limit import ambient_runtime
from mahsm.edges._shared.items import Item, Writer, current_item, enter_item, lent
from mahsm.edges._shared.saving import Saving, saver_of, with_saver
from mahsm.edges._shared.session import Session
from mahsm.edges._shared.streams import (
    RUNTIME,
    Heard,
    HeardRun,
    Show,
    as_of_node,
    handlers_of,
    hears_only_models,
    is_inside_item,
    is_seen_inside,
    streams_messages,
    translated,
    unheard,
    writer_of,
)
from mahsm.errors import BudgetExceeded
from mahsm.nodes._internal import Target


class EdgeRun(ABC):
    """One run of an edge; its parts may run in several threads.

    While a target is called it holds `chain`: a slot of this run, one of each edge run around it, and one of
    the whole graph run if its config has a `max_concurrency`.

    A run can be over before all its parts are, in two ways. It is *stopped* when it raises an error. It is
    *ended* when nothing new may begin, and the results so far count.

    Args:
        name: The edge's name.
        around: The session of the run; targets get the limits of its config, and not those of the subgraph.
        slots: The number of targets that may be called at the same time.
        unsaved: The number of calls that may be unsaved, if a checkpointer saves.
    """

    def __init__(self, name: str, around: Session, *, slots: int, unsaved: int) -> None:
        config = around.config
        outer = current_item()
        runtime = ambient_runtime()
        self.name = name
        self.way = around.way
        self.state = around.state
        self.config = config
        self.span = around.span
        """Its span, if it is traced."""
        self.heard_as: HeardRun | None = None
        """Its run in LangChain's callbacks."""
        self.saved = is_saved(config)
        self.stopped_from_outside = False
        self.writer = writer_of(config) or (runtime.stream_writer if runtime else None)
        """The stream of the edge's node; inside an item, that of the outer edge."""
        self.is_node = runtime is not None and not is_inside_item(config)
        """True if it runs as a node of a graph, and not in an item or alone."""
        self.progress_writer = outer.writer if outer and is_inside_item(config) else self.writer
        """The stream of its progress events; inside an item, one that only streams of subgraphs show."""
        self._item_writer: Writer | None = None
        self.call_slots = Slots(slots)
        self.left = LeftBehind(slots)
        """The calls that the run does not wait for any more."""
        self._host_limits: dict[str, Any] = {
            key: value for key, value in config.items() if key in _HOST_LIMITS
        }
        self._order = outer.order if outer else ()
        # Always taken from the inside out, so that no two runs wait for each other's slots.
        self._chain = tuple(dict.fromkeys([self.call_slots, *(outer.chain if outer else ()), *around.shared]))
        self.running = StopCallbacks()
        """Stops edges and awaited calls inside."""
        self.not_begun = StopCallbacks()
        """Stops waits to begin."""
        self._cancelled_at_end = StopCallbacks()
        self._ended = False
        self.break_off = BreakOff()
        self._cancelled_at_stop = StopCallbacks()
        saver = saver_of(config)
        self.saving = None if saver is None else Saving(saver, unsaved, self.stop)

    def item(self, index: int) -> Item:
        """Make the item with this index the current one of this context."""
        unsaved = None if self.saving is None else self.saving.unsaved
        item = Item((*self._order, index), self._chain, self.running, unsaved, self._item_writer)
        enter_item(item)
        if self.span is not None:
            may_be_stopped(lambda: self.running.reason)
        return item

    def on_slots(self) -> AbstractAsyncContextManager[None]:
        """Return a block in which the run has its slots: the item around lends its own."""
        if self.way is THREAD and here.get().awaited:
            return self._confined()
        return lent(self.way)

    @asynccontextmanager
    async def _confined(self) -> AsyncGenerator[None, None]:
        """Run the block on the slots that the item around holds, and on those that are free now.

        This is for a blocking run inside an awaited call, which blocks the event loop. It neither lends slots
        nor waits for any: another task of that loop might get a lent slot, and could neither use it nor give
        it back while the loop is blocked.
        """
        outer = current_item()
        if outer is None:
            yield
            return
        chains: list[Sequence[Slots]] = []
        while len(chains) + 1 < self.call_slots.limit and try_acquire_all(outer.chain):
            chains.append(outer.chain)
        around = Slots(1 + len(chains))
        self._chain = (
            self.call_slots,
            around,
            *(slots for slots in self._chain[1:] if slots not in outer.chain),
        )
        try:
            yield
        finally:
            for chain in chains:
                release_all(chain)

    # Calls of a target.

    def _is_heard(self, target: Target) -> bool:
        """Return whether callback handlers have to be told of calls of a target.

        If the run is traced, the trace makes a run of each item and tells the handlers. Then it matters only
        to handlers that stream messages, and to a target that takes the config, which has to be its item's.
        """
        handlers = [one for one in handlers_of(self.config) if not hears_only_models(one)]
        return bool(handlers) and (
            self.span is None or "config" in target.injected or any(map(streams_messages, handlers))
        )

    def bind(self, target: Target, label: str, *, may_be_left: bool, way: Way | None = None) -> AnyCall:
        """Return the side of a target that this run calls, with the arguments that LangGraph injects.

        Callbacks show its calls under this label. On an event loop, a target without an async side is called
        in a thread; with `may_be_left`, cancellation abandons that thread.
        """
        blocks = (way or self.way) is THREAD
        sides = partial(self._sides, target, may_be_left=may_be_left)
        if self._is_heard(target):
            heard = Heard(label, sides, makes_runs=self.span is None)
            return heard.sync if blocks and target.sync else heard.async_
        sync, async_ = sides()
        return cast("AnyCall", sync or async_) if blocks else cast("AsyncCall", async_)

    def _sides(self, target: Target, *, may_be_left: bool) -> tuple[SyncCall | None, AsyncCall | None]:
        """Return both sides of a target, with the arguments that LangGraph injects here."""
        sync, async_ = target.bind(get_runtime()) if target.injected else (target.sync, target.async_)
        if self.way is THREAD or async_ is not None:
            return sync, async_
        return sync, partial(self._call_in_pool, cast("SyncCall", sync), may_be_left=may_be_left)

    async def _call_in_pool(self, sync: SyncCall, state: State, *, may_be_left: bool) -> Update:
        left = self.left if may_be_left else None
        update = await tasks.call_in_thread(partial(sync, state), self.pool, left=left)
        return await update if inspect.isawaitable(update) else update

    def item_config(self, config: RunnableConfig, *, shared: bool = False) -> RunnableConfig:
        """Return the task's config, with the user's limits and checkpointer in place of the subgraph's.

        In a task that several items share, there is no checkpointer: graphs that the items call would save
        their checkpoints in the same place, and after a resume one item would get the state of another.
        """
        if self._item_writer is None and (runtime := config.get("configurable", {}).get(RUNTIME)) is not None:
            self._item_writer = runtime.stream_writer
        own = {key: value for key, value in config.items() if key not in _HOST_LIMITS}
        given = as_of_node(
            cast("RunnableConfig", own | self._host_limits), self.config, self.name, self.writer
        )
        if shared or self.saving is not None:
            given = with_saver(given, None if shared or self.saving is None else self.saving.saver)
        return given

    # The run in traces.

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return the attributes of its span."""

    def facts_of(self, total: int, *, finished: int, failed: int) -> dict[str, Any]:
        """Return the attributes that all edges share.

        Args:
            total: The number of items or branches.
            finished: Those of them that have an outcome.
            failed: Those of these whose outcome is an error.
        """
        found: dict[str, Any] = {"fan_out": total, "finished": finished, "errors": failed}
        if self.span is not None:
            found |= self.span.timings.counts()
        if finished - failed < total and (option := self._ended_by) is not None:
            found["ended"] = option
        return found

    @property
    def _ended_by(self) -> str | None:
        """The option that has ended the run early, if any."""
        if isinstance(self.ended, BudgetExceeded):
            return "budget"
        is_late = self.span is not None and self.span.timings.is_late
        if is_late or isinstance(self.ended, TimeoutError):
            return "deadline"
        return None if self.ended is None else "stop_when"

    def shown(self, update: Update) -> Update:
        """Return the update, after showing it in traces and callbacks."""
        if self.span is not None:
            self.span.show(update)
        if self.heard_as is not None:
            self.heard_as.output = update
        return update

    def subgraph(self, config: RunnableConfig, show: Show) -> AbstractContextManager[RunnableConfig]:
        """Return a block that runs the subgraph, and yields its config.

        The checkpointer in it is watched, and callback handlers are not told of the subgraph's tasks.
        """
        shown = translated(config, show)
        return unheard(shown if self.saving is None else self.saving.watched(shown))

    def part(self, label: str, index: int, total: int) -> AbstractContextManager[Any]:
        """Return a block that is an item or a branch in traces."""
        return NOTHING if self.span is None else self.span.part(label, index, total)

    @property
    @abstractmethod
    def threads(self) -> int:
        """The number of blocking targets that may be open."""

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to run."""
        return False

    @cached
    def pool(self) -> Executor:
        return ThreadPoolExecutor(self.threads, thread_name_prefix="mahsm-item")

    # The end of the run.

    @property
    def ended(self) -> BaseException | None:
        """The reason why the run was ended, if it was."""
        return self.not_begun.reason if self._ended else None

    def stop(self, reason: BaseException) -> None:
        """Begin nothing new, here or in edges inside, and cancel all calls that can be cancelled."""
        self.break_off.stop(reason)
        self.not_begun.stop(reason)
        self.running.stop(reason)
        self._cancelled_at_stop.stop(reason)
        if self.saving is not None:
            self.saving.unsaved.close(reason)

    def stop_from_outside(self, reason: BaseException) -> None:
        """Stop because the edge run around this one was stopped."""
        self.stopped_from_outside = True
        self.stop(reason)

    def end(self, reason: BaseException, *, cancel: bool = False) -> None:
        """Begin nothing new; calls in progress may finish, or are cancelled with `cancel`."""
        self._ended = True
        self.not_begun.stop(reason)
        if self.saving is not None:
            self.saving.unsaved.close(reason)
        if cancel:
            self.running.stop(reason)
            self._cancelled_at_end.stop(reason)

    def end_late(self, seconds: float) -> None:
        """End because the deadline of so many seconds is over."""
        self.end(deadline_is_over(self.name, seconds))

    def quiet_end(self) -> "_QuietEnd":
        """Return a block that is left quietly if the run was ended, and with an error if it was stopped."""
        return _QuietEnd(self)

    def cancellable(self) -> AbstractContextManager[Any]:
        """Return a block of a task that is cancelled when the run is stopped, or ended with `cancel`."""
        return cancelled_by(self._cancelled_at_stop, self._cancelled_at_end)

    @contextmanager
    def cancelled_on_stop(self, item: Item) -> Generator[None, None, None]:
        """Cancel the running task, which calls the item, when the run is stopped, or ended with `cancel`.

        If edges run inside the item, a stop reaches these and does not cancel the task: so they can hand in
        the results that they have.
        """
        # A thread cannot be cancelled.
        if self.way is THREAD:
            yield
            return
        loop, task = asyncio.get_running_loop(), cast("asyncio.Task[Any]", asyncio.current_task())
        set_awaited(True)

        def stop() -> None:
            if not item.has_edges:
                task.cancel()

        with (
            self._cancelled_at_stop.on_stop(lambda _: loop.call_soon_threadsafe(stop)),
            self._cancelled_at_end.on_stop(lambda _: loop.call_soon_threadsafe(task.cancel)),
        ):
            yield

    async def fail(self, error: BaseException) -> NoReturn:
        """End a task with an error: raise it after all other tasks have ended, or leave that to another task.

        An exception that ends the event loop is raised immediately, since no task would go on.
        """
        error = self._mine(error)
        reason = error.reason if isinstance(error, Closed) else error
        if self.way is THREAD or isinstance(reason, Exception):
            await self.break_off.wait(self.way)
            if self.saving is not None:
                await self.saving.wait(self.way)
        raise error

    def _mine(self, error: BaseException) -> BaseException:
        # The run was not stopped yet if something around it has called off a wait.
        if self.break_off.reason is None:
            error = error.reason if isinstance(error, Closed) else error
            self.stop(error)
        if not self.break_off.is_mine(error, from_outside=self.stopped_from_outside):
            raise GraphInterrupt(())
        return error

    def close(self, *, wait: bool) -> None:
        """Shut down the thread pool; with `wait`, after its calls have ended."""
        if "pool" in self.__dict__:
            self.pool.shutdown(wait=wait, cancel_futures=True)


class _QuietEnd:
    """A block that is left quietly with `Closed` if its run was ended."""

    __slots__ = ("_run",)

    def __init__(self, run: EdgeRun) -> None:
        self._run = run

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        return isinstance(error, Closed) and self._run.ended is not None


def needs_no_tasks(config: RunnableConfig) -> bool:
    """Return whether an edge in a node can run without LangGraph tasks: none would be saved or shown."""
    return ambient_runtime() is not None and not is_saved(config) and not is_seen_inside(config)


def to_nobody(_: Any) -> None:
    """Drop an event: the stream of an edge outside of any graph, and of its tasks where there is no other."""


def is_saved(config: RunnableConfig) -> bool:
    """Return whether a checkpointer may save a run with this config: it has a thread id, which all need."""
    return "thread_id" in config.get("configurable", {})


_HOST_LIMITS = ("max_concurrency", "recursion_limit")
