"""One run of a `vmap` edge: lets items in, calls the target, keeps what came out."""

import asyncio
import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import set_config_context
from langgraph.errors import GraphBubbleUp
from typing_extensions import TypedDict

from mahsm import _calls, _tasks
from mahsm._ledger import of_edge_run
from mahsm._notes import add_note
from mahsm._progress import Progress
from mahsm._slots import Closed, Slots
from mahsm._types import AsyncCall, Overlay, State, SyncCall, Update
from mahsm.edges._adaptive import Adaptive
from mahsm.edges._attempts import Attempts
from mahsm.edges._cache import Stored, places_of
from mahsm.edges._edge_run import EdgeRun
from mahsm.edges._items import Item
from mahsm.edges._stop_when import decider
from mahsm.edges._vmap_spec import VmapSpec
from mahsm.errors import EdgeError, TooManyHanging
from mahsm.limits import RateLimit
from mahsm.nodes._held import anything_stands_in
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


class Decided(Exception):
    """`stop_when` has seen enough."""


class VmapRun(EdgeRun):
    """What the chunks of one run share.

    Two bounds hold at once: an item that has begun and not ended is *open*, and while its target is called it holds slots.
    An item with an edge inside stays open but lends its slots.

    Args:
        spec: The specification.
        state: The parent's state.
        batch: The batch.
        config: The config of the node that the edge is.
        shared: The slots of the graph run.
        concurrency: What the run before has found out, for an adaptive edge.
    """

    def __init__(
        self,
        spec: VmapSpec,
        state: State,
        batch: list[Any],
        config: RunnableConfig,
        shared: Sequence[Slots],
        concurrency: float | None = None,
    ) -> None:
        super().__init__(state, config, shared, spec.max_concurrency)
        self.spec = spec
        self.places = places_of(batch, spec.dedupe_key, spec.name)
        self.items = batch if spec.dedupe_key is None else [batch[self.places[index][0]] for index in range(len(self.places))]
        self.total = len(batch)
        self.progress = Progress(spec.name, len(self.items), self.writer, of_edge_run())
        self.open = Slots(self._most_open)
        self._ranks = itertools.count(time.time_ns())  # on resume they go on where the process before had to stop
        self._failures = 0
        self._failures_allowed = spec.failures_allowed(self.total)
        self._lock = threading.Lock()
        self._overlays: dict[int, Overlay] = {}
        self.adaptive = Adaptive(self.slots, *spec.adaptive, concurrency) if spec.adaptive else None
        self._attempts = Attempts(spec, self.waits, self.left, self.adaptive)
        self._stored = Stored(spec.cache, spec.name, spec.item_key) if spec.cache and not anything_stands_in() else None
        self._sample = _calls.sample.get()
        self._decides = decider(spec.stop_when, len(self.items)) if spec.stop_when is not None else None

    def item(self, index: int) -> Item:
        if self.spec.sample is not None:
            drawn = _calls.Sample(index, self.spec.sample)
            _calls.sample.set(drawn.inside(self._sample))
        return super().item(index)

    # Chunks: the side for event loops and the side for threads differ in how they wait, and in nothing else.

    async def chunk_async(self, lo: int, hi: int, config: RunnableConfig) -> Chunk:
        """Run the items from `lo` up to `hi` as tasks of the running event loop."""
        chunk = _empty(lo, hi)
        todo = range(lo, hi)
        if self._stored is not None:
            found = await self._stored.get_async({index: self.items[index] for index in todo})
            todo = self._without(found, todo, chunk)
        tasks: list[asyncio.Task[None]] = []
        stoppable = self.cancellable(tasks) if self._decides else nullcontext()
        with set_config_context(self.item_config(config)) as context, stoppable:
            may_be_left = self.spec.timeout is not None or self.spec.deadline is not None or self.spec.hedge is not None
            call = context.run(partial(self.bind_async, self.spec.target, may_be_left=may_be_left))
            async with _tasks.task_group() as group:
                while todo and not self._ended:
                    with self.quiet_end():
                        opened = await self.open.acquire_async((todo[0],), len(todo))
                        for index in todo[:opened]:
                            task = group.create_task(self._item_async(index, call, chunk), context=context.copy())
                            if self._decides is not None:  # else nobody needs them, and the group lets go of what has ended
                                tasks.append(task)
                        todo = todo[opened:]
        self._close(chunk)
        return chunk

    def chunk(self, lo: int, hi: int, config: RunnableConfig) -> Chunk:
        """Run the items from `lo` up to `hi` in threads; a single item in this one."""
        chunk = _empty(lo, hi)
        todo = range(lo, hi)
        if self._stored is not None:
            todo = self._without(self._stored.get({index: self.items[index] for index in todo}), todo, chunk)
        with set_config_context(self.item_config(config)) as context:
            sync, async_ = context.run(self.bind, self.spec.target)
            call = sync or async_
            begun: list[Future[None]] = []
            alone = hi - lo == 1
            while todo and not self._ended:
                with self.quiet_end():
                    opened = self.open.acquire((todo[0],), len(todo))
                    if alone:
                        context.run(self._item, lo, call, chunk)
                    else:
                        submit = self.pool.submit
                        begun += [submit(context.copy().run, self._item, index, call, chunk) for index in todo[:opened]]
                    todo = todo[opened:]
            for future in begun:
                future.result()
        self._close(chunk)
        return chunk

    async def _item_async(self, index: int, call: AsyncCall, chunk: Chunk) -> None:
        item = self.item(index)
        try:
            with self.part(self.spec.target.name, index, self.total):
                update = plain_update(await self._attempts.run_async(item, partial(self._state_of, index), call))
            if self._stored is not None:
                await self._stored.put_async(self.items[index], update)
            self._succeeded(index, update, chunk)
        except Closed:
            self._not_begun(index, item, chunk)
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
            self.open.release()

    def _item(self, index: int, call: SyncCall, chunk: Chunk) -> None:
        item = self.item(index)
        try:
            with self.part(self.spec.target.name, index, self.total):
                update = plain_update(self._attempts.run(item, partial(self._state_of, index), call))
            if self._stored is not None:
                self._stored.put(self.items[index], update)
            self._succeeded(index, update, chunk)
        except Closed:
            self._not_begun(index, item, chunk)
        except GraphBubbleUp:
            self._check_bubble(index, chunk)
            raise
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  the policy decides
            self._failed(index, error, chunk, item.attempts)
        finally:
            self.open.release()

    # What becomes of an item.

    def _state_of(self, index: int) -> tuple[State, Overlay]:
        overlay = self._overlays.get(index) or self.spec.overlay(self.items[index])
        return {**self.state, **overlay}, overlay

    def compute_for_all(self) -> None:
        """Let the target compute what it can compute for all items at once, and lay that over the state of each."""
        if self.spec.target.batched is None:
            return
        found: dict[int, Overlay] = {}
        for index, item in enumerate(self.items):
            with suppress(Exception):  # of an item whose state cannot be made: it fails when it is its turn
                found[index] = self.spec.overlay(item)
        self._overlays = dict(zip(found, self.spec.target.batched(self.state, list(found.values())), strict=True))

    def _succeeded(self, index: int, update: Update, chunk: Chunk) -> None:
        entry = chunk["values"][index - chunk["lo"]] = self.spec.entry(update)
        self._done(index, chunk, failed=False)
        if self._decides is not None and self._decides(entry):
            self.end(Decided(f"{self.spec.name}: stop_when has decided"), cancel=True)

    def _failed(self, index: int, error: BaseException, chunk: Chunk, attempts: int) -> None:
        spec, places = self.spec, self.places[index]
        add_note(error, f"{spec.name}, item {places[0]} of {self.total}, attempt {attempts}")
        if spec.on_error == "raise" or isinstance(error, TooManyHanging):
            self.stop(error)
            raise error
        failure = item_error(error, edge=spec.name, index=places[0], item=self.items[index], attempts=attempts)
        chunk["errors"].append(failure)
        self._done(index, chunk, failed=True)
        with self._lock:
            self._failures += len(places)
            failures = self._failures
        if failures > self._failures_allowed:
            reason = spec.too_few(failures, self.total)
            self.stop(reason)
            raise reason from error

    def _not_begun(self, index: int, item: Item, chunk: Chunk) -> None:
        """The item's wait was cut short: if the run was ended, what stood in its way last time is its error."""
        if not self._ended:
            raise Closed(self.waits.reason or RuntimeError("the run was stopped"))
        if item.failure is not None:
            self._failed(index, item.failure, chunk, item.attempts)

    def _close(self, chunk: Chunk) -> None:
        """Say of each item without an outcome why it has none."""
        reason = self.waits.reason
        for index in range(chunk["lo"], chunk["lo"] + len(chunk["values"])):
            if chunk["ranks"][index - chunk["lo"]] or isinstance(reason, Decided):
                continue
            if self._ended and reason is not None:
                self._failed(index, type(reason)(*reason.args), chunk, attempts=0)
            else:  # its task was cancelled, though the run was not
                self._failed(index, asyncio.CancelledError("the target cancelled its own task"), chunk, attempts=1)

    def _done(self, index: int, chunk: Chunk, *, failed: bool) -> None:
        chunk["ranks"][index - chunk["lo"]] = next(self._ranks)
        self.progress.step(failed=failed)

    def _without(self, found: Mapping[int, Update], todo: Sequence[int], chunk: Chunk) -> Sequence[int]:
        """Take what a cache has found; the items that are still to do."""
        for index, update in found.items():
            self._succeeded(index, update, chunk)
        return [index for index in todo if index not in found]

    def _check_bubble(self, index: int, chunk: Chunk) -> None:
        if len(chunk["values"]) > 1:
            error = EdgeError(
                f"{self.spec.name}: item {index} called interrupt(), but {len(chunk['values'])} items share a task, and "
                "LangGraph cannot tell their answers apart. Pass chunk_size=1, so that each item is a task of its own."
            )
            self.stop(error)
            raise error

    def facts(self) -> dict[str, Any]:
        succeeded = self.progress.done - self._failures
        return {
            "fan_out": self.total,
            "fan_in": succeeded if self.spec.on_error == "drop" else self.progress.done,
            "errors": self._failures,
            "concurrency": self.spec.max_concurrency if self.adaptive is None else int(self.adaptive.limit),
        }

    @property
    def _most_open(self) -> int:
        """Items that may be open: more than may be called at once where some wait for something else than a slot."""
        most = self.spec.max_concurrency * (_WAITING if self.spec.retry else 1)
        keyed = isinstance(self.spec.rate_limit, RateLimit) and self.spec.rate_limit.key is not None
        return max(most, _WAITING_FOR_KEYS) if keyed else most

    @property
    def threads(self) -> int:
        return min(self._most_open, len(self.items))

    @property
    def is_empty(self) -> bool:
        return not self.items

    def stop(self, reason: BaseException) -> None:
        super().stop(reason)  # before the line is closed: whoever waits in it looks at the reason
        self.open.close(reason)

    def end(self, reason: BaseException, *, cancel: bool = False) -> None:
        super().end(reason, cancel=cancel)
        self.open.close(reason)


_WAITING = 4
"""Open items for each that may be called at once, with retries: when three of four wait for their next attempt, all slots are
still in use."""

_WAITING_FOR_KEYS = 256
"""Open items at least, where each key has a bucket: so many may wait for a slow key before the quick ones wait for them."""


def _empty(lo: int, hi: int) -> Chunk:
    return Chunk(lo=lo, values=[None] * (hi - lo), errors=[], ranks=[0] * (hi - lo))
