"""One run of a `vmap` edge: lets items in, calls the target, keeps what came out."""

import asyncio
import inspect
import itertools
import threading
import time
from collections.abc import Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import set_config_context
from langgraph.errors import GraphBubbleUp
from langgraph.runtime import get_runtime
from typing_extensions import TypedDict

from mahsm import _tasks
from mahsm._progress import Progress
from mahsm._slots import Closed, Slots
from mahsm._types import AsyncCall, State, SyncCall, Update
from mahsm.edges import _retrying
from mahsm.edges._bound import ambient_runtime
from mahsm.edges._items import Inside, Item, current_item
from mahsm.edges._spec import VmapSpec
from mahsm.errors import EdgeError
from mahsm.nodes._target import plain_update
from mahsm.policies import ItemError
from mahsm.policies._item_error import item_error


class Chunk(TypedDict):
    """What the items from `lo` on gave. One that failed has None in `values` and stands in `errors`."""

    lo: int
    values: list[Any]
    errors: list[ItemError]
    ranks: list[int]
    """When each item ended, as a number that grows over the whole run."""


class VmapRun:
    """What the chunks of one run share; they may run in several threads.

    Two bounds hold at once. `open` counts the items that have begun and not ended. `chain` is the slots that an item
    holds while its target is called: one of this run, one of each edge run around it, and one of the whole graph run
    if its config has a `max_concurrency`. An item with an edge inside stays open but lends its slots.

    Args:
        spec: The specification.
        state: The parent's state.
        items: The batch.
        config: The config of the node that the edge is; what is called for an item gets its bounds, not ours.
        shared: The slots of the graph run.
    """

    def __init__(self, spec: VmapSpec, state: State, items: list[Any], config: RunnableConfig, shared: Sequence[Slots]) -> None:
        outer = current_item.get()
        runtime = ambient_runtime()
        self.spec = spec
        self.state = state
        self.items = items
        self.saved = "thread_id" in config.get("configurable", {})  # no checkpointer works without one
        self._writer = runtime.stream_writer if runtime else None
        self.progress = Progress(spec.name, len(items), self._writer)
        self._bounds: dict[str, Any] = {key: value for key, value in config.items() if key in _BOUNDS}
        self._order = outer.order if outer else ()
        self._open = Slots(self._most_open)
        own = Slots(spec.max_concurrency)
        self._chain = tuple(dict.fromkeys([own, *(outer.chain if outer else ()), *shared]))  # from the inside out, always
        self._ranks = itertools.count(time.time_ns())  # on resume they go on where the process before had to stop
        self._failures = 0
        self._failures_allowed = spec.failures_allowed(len(items))
        self._lock = threading.Lock()
        self._inside = Inside()
        self._stopped = threading.Event()
        self.stopped_from_outside = False

    # Chunks: the side for event loops and the side for threads differ in how they wait, and in nothing else.

    async def chunk_async(self, lo: int, hi: int, config: RunnableConfig) -> Chunk:
        """Run the items from `lo` up to `hi` as tasks of the running event loop."""
        chunk = _empty(lo, hi)
        with set_config_context(self._item_config(config)) as context:
            sync, async_ = context.run(self._bind)
            call = async_ or partial(self._call_in_pool, sync)
            async with _tasks.task_group() as group:
                while lo < hi:
                    until = lo + await self._open.acquire_async((lo,), hi - lo)
                    for index in range(lo, until):
                        group.create_task(self._item_async(index, call, chunk), context=context.copy())
                    lo = until
        for index in range(chunk["lo"], hi):
            if not chunk["ranks"][index - chunk["lo"]]:  # its task was cancelled, though the run was not
                self._failed(index, asyncio.CancelledError("the target cancelled its own task"), chunk)
        return chunk

    def chunk(self, lo: int, hi: int, config: RunnableConfig) -> Chunk:
        """Run the items from `lo` up to `hi` in threads; a single item in this one."""
        chunk = _empty(lo, hi)
        with set_config_context(self._item_config(config)) as context:
            sync, async_ = context.run(self._bind)
            call = sync or async_
            if hi - lo == 1:
                self._open.acquire((lo,))
                context.run(self._item, lo, call, chunk)
                return chunk
            begun: list[Future[None]] = []
            while lo < hi:
                until = lo + self._open.acquire((lo,), hi - lo)
                submit = self._pool.submit
                begun += [submit(context.copy().run, self._item, index, call, chunk) for index in range(lo, until)]
                lo = until
            for future in begun:
                future.result()
        return chunk

    async def _item_async(self, index: int, call: AsyncCall, chunk: Chunk) -> None:
        item = Item((*self._order, index), self._chain, self._inside)
        current_item.set(item)
        try:
            if self.spec.retry is None:
                update = await self._attempt_async(item, index, call)
            else:
                update = await _retrying.call_async(self.spec.retry, item, partial(self._attempt_async, item, index, call))
            self._succeeded(index, update, chunk)
        except Closed:
            raise
        except GraphBubbleUp:
            self._check_bubble(index, chunk)
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._failed(index, error, chunk, item.attempts)  # something it awaited was cancelled, the run was not
        except Exception as error:  # noqa: BLE001  the policy decides
            self._failed(index, error, chunk, item.attempts)
        finally:
            self._open.release()

    async def _attempt_async(self, item: Item, index: int, call: AsyncCall) -> Update:
        if not item.take_now():
            await item.take_async()
        try:
            if self.spec.timeout is None:
                return await call(self._state_of(index))
            async with _tasks.deadline(self.spec.timeout):
                return await call(self._state_of(index))
        finally:
            item.give()

    def _item(self, index: int, call: SyncCall, chunk: Chunk) -> None:
        item = Item((*self._order, index), self._chain, self._inside)
        current_item.set(item)
        try:
            if self.spec.retry is None:
                update = self._attempt(item, index, call)
            else:
                update = _retrying.call(self.spec.retry, item, partial(self._attempt, item, index, call), self._pause)
            self._succeeded(index, update, chunk)
        except Closed:
            raise
        except GraphBubbleUp:
            self._check_bubble(index, chunk)
            raise
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  the policy decides
            self._failed(index, error, chunk, item.attempts)
        finally:
            self._open.release()

    def _attempt(self, item: Item, index: int, call: SyncCall) -> Update:
        item.take()
        try:
            return _tasks.call(partial(call, self._state_of(index)), self.spec.timeout, self._inside.stoppable)
        except futures.CancelledError:
            self._open.check()  # the run was stopped
            raise
        finally:
            item.give()

    def _pause(self, seconds: float) -> None:
        """Wait between two attempts, unless the run is stopped.

        Raises:
            Closed: when it is.
        """
        self._stopped.wait(seconds)
        self._open.check()

    # What becomes of an item.

    def _state_of(self, index: int) -> State:
        return {**self.state, **self.spec.overlay(self.items[index])}

    def _succeeded(self, index: int, update: Update, chunk: Chunk) -> None:
        chunk["values"][index - chunk["lo"]] = self.spec.entry(plain_update(update))
        self._ended(index, chunk, failed=False)

    def _failed(self, index: int, error: BaseException, chunk: Chunk, attempts: int = 1) -> None:
        spec, total = self.spec, len(self.items)
        error.add_note(f"mahsm: {spec.name}, item {index} of {total}, attempt {attempts}")
        if spec.on_error == "raise":
            self.stop(error)
            raise error
        failure = item_error(error, edge=spec.name, index=index, item=self.items[index], attempts=attempts)
        chunk["errors"].append(failure)
        self._ended(index, chunk, failed=True)
        with self._lock:
            self._failures += 1
            failures = self._failures
        if failures > self._failures_allowed:
            reason = spec.too_few(failures, total)
            self.stop(reason)
            raise reason from error

    def _ended(self, index: int, chunk: Chunk, *, failed: bool) -> None:
        chunk["ranks"][index - chunk["lo"]] = next(self._ranks)
        self.progress.step(failed=failed)

    def _check_bubble(self, index: int, chunk: Chunk) -> None:
        if len(chunk["values"]) > 1:
            error = EdgeError(
                f"{self.spec.name}: item {index} called interrupt(), but {len(chunk['values'])} items share a task, and "
                "LangGraph cannot tell their answers apart. Pass chunk_size=1, so that each item is a task of its own."
            )
            self.stop(error)
            raise error

    # What the target is called with.

    def _bind(self) -> tuple[Any, Any]:
        target = self.spec.target
        if not target.injected:
            return target.sync, target.async_
        runtime = get_runtime()
        if self._writer is not None:  # an inner graph's own writer reaches nobody who does not stream its subgraphs
            runtime = runtime.override(stream_writer=self._writer)
        return target.bind(runtime)

    async def _call_in_pool(self, sync: SyncCall, state: State) -> Update:
        may_be_left = self.spec.timeout is not None
        update = await _tasks.call_in_thread(partial(sync, state), self._pool, may_be_left=may_be_left)
        return await update if inspect.isawaitable(update) else update

    def _item_config(self, config: RunnableConfig) -> RunnableConfig:
        """The task's config with the user's bounds in place of those that the subgraph runs under."""
        own = {key: value for key, value in config.items() if key not in _BOUNDS}
        return cast("RunnableConfig", own | self._bounds)

    @property
    def _most_open(self) -> int:
        """Items that may be open: more than may be called at once where some wait for their next attempt."""
        return self.spec.max_concurrency * (_WAITING if self.spec.retry else 1)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(min(self._most_open, len(self.items)), thread_name_prefix="mahsm-item")

    def stop(self, reason: BaseException) -> None:
        """Begin no item any more, in any chunk or in an edge inside."""
        self._open.close(reason)
        self._stopped.set()
        self._inside.stop(reason)

    def stop_from_outside(self, reason: BaseException) -> None:
        """The same, because the edge run around this one was stopped."""
        self.stopped_from_outside = True
        self.stop(reason)

    def close(self, *, wait: bool) -> None:
        """End the threads; with `wait`, not before they are done with the item they are in."""
        if "_pool" in self.__dict__:
            self._pool.shutdown(wait=wait, cancel_futures=True)


_WAITING = 4
"""Open items for each that may be called at once, with retries: when three of four wait for their next attempt, all slots are
still in use."""

_BOUNDS = ("max_concurrency", "recursion_limit")


def _empty(lo: int, hi: int) -> Chunk:
    return Chunk(lo=lo, values=[None] * (hi - lo), errors=[], ranks=[0] * (hi - lo))
