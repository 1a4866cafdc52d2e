"""One run of a `vmap` edge: admits items, calls the target, keeps the results."""

import asyncio
import math
import threading
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from langgraph.errors import GraphBubbleUp

from mahsm._common import AsyncCall, Update, add_note, cached
from mahsm._model_calls import calls, observed, usage_of_edge_run
from mahsm._progress import Progress
from mahsm._spans import NOTHING
from mahsm._waiting import TASK, THREAD, Closed, Decided, SlotsInOrder, here, tasks
from mahsm.edges._shared.adaptive import Adaptive
from mahsm.edges._shared.attempts import AnyCall, AttemptRunner
from mahsm.edges._shared.finished import ItemEvent
from mahsm.edges._shared.items import Item, enter_item
from mahsm.edges._shared.reducer import decider
from mahsm.edges._shared.run import EdgeRun, is_saved, needs_no_tasks, to_nobody
from mahsm.edges._shared.saving import ends_all
from mahsm.edges._shared.session import Session
from mahsm.edges._shared.streams import is_inside_item
from mahsm.edges._vmap.cache import Stored, equal_places
from mahsm.edges._vmap.cut import BatchId, batch_id
from mahsm.edges._vmap.item_states import ItemStates
from mahsm.edges._vmap.results import Results, Taker
from mahsm.edges._vmap.spec import VmapSpec
from mahsm.edges._vmap.streamed import OpenRanges, Streamed
from mahsm.edges._vmap.tally import Tally
from mahsm.edges._vmap.warm import Warming
from mahsm.errors import EdgeError
from mahsm.nodes._internal import Finished, is_substituted, plain_update
from mahsm.policies import is_item_error
from mahsm.policies._internal import item_error

T = TypeVar("T")

_PARTS = (128, 64)
"""Number of parts in which the results of a batch are saved: for up to 1,024 items, and for more. With more
parts a crash loses less; with fewer the run costs less, since each part is a task of LangGraph, which takes
200 to 400 us. So a part has at most 8 results of a small batch, and 1/64 of a large one."""

_TASKS_UNSAVED = 16
"""Up to this many items, each is a task even where nothing is saved, so that streams of subgraphs show it."""


class VmapRun(EdgeRun):
    """One run of a `vmap`, which its items share.

    An item is identified by its place in the batch, and equal items by the first of their places.

    Two bounds hold together. An item that has begun and not ended is *open*; while its target is called, it
    also holds slots. An item with an edge inside stays open, but lends its slots to that edge.

    Args:
        spec: The specification.
        around: The session of the run.
        batch: The batch.
        concurrency: For an adaptive edge, the level that the last run found.
        finished: Called with each item when it has finished.
        streamed: The batch as ranges, and the sink, if it is a stream or has a sink.

    Attributes:
        firsts: The places of the items that are to be called, ascending.
        most_open: The number of items that may be open.
        size: The number of results that are saved together.
        alone: True if each item is a task of LangGraph.
        direct: True if the run needs no tasks, since nothing is saved and no stream shows the subgraph.
        item_way: How items wait.
        states: The states with which the target is called.
        tally: The outcomes of the items so far.
        warming: The items that run before the others, if `warm` is given.
    """

    def __init__(
        self,
        spec: VmapSpec,
        around: Session,
        batch: Sequence[Any],
        concurrency: float | None = None,
        finished: Finished | None = None,
        streamed: Streamed | None = None,
    ) -> None:
        # Where calls are collected, all items are open at the same time, and each waits for all others.
        batched = spec.tries.batch_api is not None or calls.here().batched is not None
        self.spec = spec = spec.collected if batched else spec
        self.states = ItemStates(spec, around.state, batch)
        self.batch = batch
        self.total = len(batch)
        key = spec.batch.dedupe_key
        equal = None if key is None else equal_places(batch, key, spec.name)
        self._streamed = streamed
        self.open_ranges = None if streamed is None else OpenRanges(streamed)
        self.sink = None if streamed is None else streamed.sink
        self.firsts: Sequence[int] = range(self.total)
        if equal is not None:
            self.firsts = list(equal)
        elif streamed is not None:
            self.firsts = streamed.places
        saved, count = is_saved(around.config) and self.sink is None, len(self.firsts)
        chunk_size = spec.concurrency.chunk_size
        few = chunk_size is None and count <= (_PARTS[0] if saved else _TASKS_UNSAVED)
        is_here = self.sink is None and spec.workers is None
        self.alone = is_here and not batched and (chunk_size == 1 or spec.target.graph is not None or few)
        self.size = 1 if self.alone else chunk_size or math.ceil(count / _PARTS[count > 1024])
        most = spec.concurrency.max_concurrency
        super().__init__(
            spec.name, around, slots=most, unsaved=2 * self.size + (self.total if batched else most)
        )
        self._may_ask = self.alone
        self.direct = (
            count > 0
            and (chunk_size != 1 or not is_here)
            and spec.target.graph is None
            and needs_no_tasks(around.config)
        )
        # Items of an async target that share a task run on the background loop together: a hop to it for each
        # would take most of their time.
        shares = self.direct or not self.alone
        awaits = spec.target.sync is None or (
            batched and spec.target.async_ is not None and not spec.target.is_graph
        )
        self.item_way = TASK if spec.workers is None and shares and awaits else self.way
        self.most_open = self._most_collected if batched else spec.most_open
        if self.sink is not None:
            # The sink keeps the results, and no checkpoint has to.
            self.saved, self.saving = False, None
        if self.direct:
            self._item_writer = to_nobody
        self._made: dict[int, Any] = {}
        self.progress = Progress(spec.name, len(self.firsts), self.progress_writer, usage_of_edge_run())
        self.tally = self._new_tally(finished, equal)
        self.begun_slots = SlotsInOrder(self.most_open)
        self._cached_items = 0
        self.has_returned = False  # True when a call of the target has returned
        self._failures_allowed = spec.failures_allowed(self.total)
        self._lock = threading.Lock()
        bounds = spec.concurrency.bounds
        self.adaptive = Adaptive(self.call_slots, *bounds, concurrency) if bounds else None
        self._attempts = AttemptRunner(
            spec, self.item_way, self.span, self.not_begun, self.left, self.end_late, self.adaptive
        )
        cache = None if is_substituted() else spec.batch.cache
        self._stored = Stored(cache, spec.name, spec.item_key) if cache else None
        self._sample = calls.here().sample
        # Calls of a batch job are answered together, and none of them can be the first.
        warms = spec.warm.warm > 0 and not batched
        self.warming = Warming(spec.warm, spec.name, batch, self.not_begun) if warms else None

    def _new_tally(self, finished: Finished | None, equal: Mapping[int, Sequence[int]] | None) -> Tally:
        spec, told = self.spec, [finished] if finished else []
        if spec.progress == "items" and self.writer is not None:
            told.append(self._tell_item)
        decides = decider(spec.ends.stop_when, self.total) if spec.ends.stop_when is not None else None
        # Only where it is needed: it refers to the run, and such a cycle would leave the memory of each run
        # to the garbage collector.
        decide = None if decides is None else partial(self._decide, decides)
        tally = Tally(self.total, equal, self.progress, told, decide, counts=self.span is not None)
        if self.sink is not None:
            tally.count_all(finished=self.total - len(self.firsts), failed=self.sink.failed)
        return tally

    @cached
    def id(self) -> str:
        """The identity of the run: it tells the run from later ones that resume it."""
        return uuid.uuid4().hex[:12]

    @cached
    def batch_id(self) -> BatchId:
        """The identity of the batch, which tells it from others."""
        return batch_id(self.batch, digest=self.saved)

    @property
    def label(self) -> str:
        """The name of the items in streams and callbacks: that of the node, as under a `Send`."""
        node = None if is_inside_item(self.config) else self.config.get("metadata", {}).get("langgraph_node")
        return self.config.get("run_name") or node or self.name

    def from_place(self, place: int) -> Sequence[int]:
        """Return the places of the items to call, from this one on."""
        return self.firsts[bisect_left(self.firsts, place) :]

    def item(self, index: int) -> Item:
        if self.spec.batch.sample is not None:
            drawn = calls.Sample(index, self.spec.batch.sample)
            calls.change(sample=drawn.nested_in(self._sample))
        return super().item(index)

    def once(self, place: int, make: Callable[[], T]) -> T:
        """Return the object that was made for this place; the first caller makes it."""
        with self._lock:
            if place not in self._made:
                self._made[place] = make()
            return self._made[place]

    # One item.

    def call_of_target(self) -> AnyCall:
        spec = self.spec
        return self.bind(spec.target, self.label, may_be_left=spec.may_be_left, way=self.item_way)

    async def run_item(self, place: int, call: AnyCall, sink: Taker, item: Item | None = None) -> None:
        """Run an item that has begun, by calling the target with `call`."""
        item = item or self.item(place)
        try:
            warms = NOTHING if self.warming is None else self.warming.item(place)
            # Threads that DSPy starts in the item get the context of the innermost observed block.
            batched = NOTHING if calls.here().batched is None else observed()
            with self.part(self.spec.target.name, place, self.total), warms, batched:
                update = plain_update(await self._attempts.run(item, partial(self.states.of, place), call))
            self.has_returned = True
            if self._stored is not None:
                await self._store(place, update)
            self._succeeded(place, update, sink, called=item.is_unsaved)
        except BaseException as error:  # noqa: BLE001  the policy decides
            self._did_not_succeed(error, item, place, sink)
        finally:
            self.begun_slots.release()
        if self.open_ranges is not None and self.tally.has_outcome(place):
            await self.ended_in_range(place)

    @property
    def is_plain(self) -> bool:
        """True if items are awaited, and nothing is done for each besides a call of the target."""
        return (
            self.item_way is TASK
            and self._attempts.is_plain
            and self.span is None
            and self.saving is None
            and self._stored is None
            and self.open_ranges is None
            and self.spec.batch.sample is None
            and self.warming is None
            and calls.here().batched is None
            and here.get().call is None
        )

    async def run_plain_item(self, place: int, call: AsyncCall, sink: Taker) -> None:
        """Do what `run_item` does, for a plain run.

        It is one function, since its parts would take most of the time of an item whose target does little.
        """
        item = Item((*self._order, place), self._chain, self.running, None, self._item_writer)
        enter_item(item)
        try:
            if not item.take_now():
                await item.take(TASK)
            try:
                if (reason := self.not_begun.reason) is not None:
                    raise Closed(reason)
                update = await call(self.states.of(place)[0])
            finally:
                item.give()
            self._succeeded(place, plain_update(update), sink)
        except BaseException as error:  # noqa: BLE001  the policy decides
            self._did_not_succeed(error, item, place, sink)
        finally:
            self.begun_slots.release()

    async def ended_in_range(self, place: int) -> None:
        """Write the part of a streamed batch that is complete with this item, if one is."""
        if self.open_ranges is None:
            return
        number = self.open_ranges.ended(place)
        if number is None:
            return
        try:
            await self.open_ranges.finish(self.item_way, number)
        except BaseException as error:
            # Otherwise a thread that waits for its range would wait for ever. A cancellation has a reason of
            # its own, which the run ends with.
            if not (isinstance(error, asyncio.CancelledError) and tasks.is_cancelled_here()):
                self.stop(error)
            raise

    async def _store(self, place: int, update: Update) -> None:
        """Store an item's update in the cache; it counts even if the run ends meanwhile."""
        assert self._stored is not None
        try:
            await self._stored.put(self.item_way, self.batch[place], update)
        except asyncio.CancelledError:
            if not tasks.is_cancelled_here():
                raise

    def _did_not_succeed(self, error: BaseException, item: Item, place: int, sink: Taker) -> None:
        """Handle the error of an item, whether its target was called or not."""
        if isinstance(error, Closed):
            self._not_begun(item, place, sink)
        elif isinstance(error, GraphBubbleUp):
            item.has_nothing()
            self._check_bubble(place, sink)
            raise error
        elif isinstance(error, Exception) or (
            isinstance(error, asyncio.CancelledError) and not tasks.is_cancelled_here()
        ):
            try:
                self._failed(place, error, sink, item.attempts, called=item.is_unsaved)
            except BaseException as fault:
                # It may be another error, of the sink or the source. Threads that wait have to end with it.
                self.stop(fault)
                raise
        elif isinstance(error, asyncio.CancelledError):
            raise error
        else:
            self.stop(error)
            raise error

    # The outcome of an item.

    def _succeeded(self, place: int, update: Update, sink: Taker, *, called: bool = False) -> None:
        self.tally.succeeded(place, self.spec.entry(update), sink, called=called)

    # Outcomes that come from workers.

    async def keep_update(self, place: int, update: Update, sink: Taker) -> None:
        """Record the update of an item, and store it in the cache."""
        try:
            if self._stored is not None:
                await self._store(place, update)
            self._succeeded(place, update, sink)
        except Exception as error:  # noqa: BLE001  the policy decides
            self._failed(place, error, sink, attempts=1)

    def fail_item(self, place: int, error: BaseException, attempts: int, sink: Taker) -> None:
        """Handle the error of an item.

        Raises:
            BaseException: that error, or another one, if the run ends with it.
        """
        self._failed(place, error, sink, attempts)

    def _failed(
        self, place: int, error: BaseException, sink: Taker, attempts: int, *, called: bool = False
    ) -> None:
        spec = self.spec
        if self.open_ranges is not None and self.open_ranges.is_fault(error):
            self.stop(error)  # the item did not fail; a later run calls it again
            raise error
        add_note(error, f"{spec.name}, item {place} of {self.total}, attempt {attempts}")
        if spec.failures.on_error == "raise" or ends_all(error):
            self.tally.count_failure(place)
            # If the run was ended, calls in progress may finish, since they are paid for.
            if not self._ended:
                self.stop(error)
            self.break_off.stop(error)
            raise error
        if self.sink is not None and self._ended:
            return  # a resumed run calls it again
        failure = item_error(error, edge=spec.name, index=place, item=self.batch[place], attempts=attempts)
        failures = self.tally.has_failed(place, failure, sink, called=called)
        if failures > self._failures_allowed:
            reason = spec.too_few(failures, self.total)
            reason.__cause__ = error
            self.stop(reason)
            raise reason

    def _not_begun(self, item: Item, place: int, sink: Taker) -> None:
        """Handle an item whose wait was cut short: if the run was ended, its last failure is its error."""
        if not self._ended:
            raise Closed(self.not_begun.reason or RuntimeError("the run was stopped"))
        if item.failure is not None:
            self._failed(place, item.failure, sink, item.attempts)

    def close_items(self, places: Iterable[int], sink: Taker) -> None:
        """Give each item that has no outcome one that says why.

        Raises:
            Closed: if there is such an item because the run broke off.
        """
        for place in places:
            if self.tally.has_outcome(place):
                continue
            if self.break_off.reason is not None:
                raise Closed(self.break_off.reason)
            reason = self.ended
            if self.sink is not None and reason is not None:
                raise reason
            if isinstance(reason, Decided):
                self.tally.skip(place, sink)
            elif reason is not None:
                self._failed(place, type(reason)(*reason.args), sink, attempts=0)
            else:
                # The item's task was cancelled, but the run was not.
                self._failed(
                    place, asyncio.CancelledError("the target cancelled its own task"), sink, attempts=1
                )

    def _decide(self, decides: Callable[[Any], bool], entry: Any) -> bool:
        decided = decides(entry)
        if decided:
            self.end(Decided(f"{self.spec.name}: stop_when has decided"), cancel=True)
        return decided

    def _tell_item(self, index: int, outcome: Any) -> None:
        event = ItemEvent(edge=self.name, item=(*self._order, index), index=index)
        event["error" if is_item_error(outcome) else "value"] = outcome
        assert self.writer is not None
        self.writer(event)

    async def load(self, place: int) -> None:
        """Read the range of a streamed batch that a place is in, apart from the event loop."""
        streamed = self._streamed
        if streamed is not None:
            await self.way.call_blocking(lambda: streamed.ranges.load(streamed.ranges.number(place)))

    @property
    def has_cache(self) -> bool:
        """True if results are looked up in a cache."""
        return self._stored is not None

    async def uncached(self, places: Sequence[int], sink: Taker) -> Sequence[int]:
        """Record the results that the cache has, if there is one; return the places that are left."""
        if self._stored is None or not places:
            return places
        found = await self._stored.get(self.item_way, {place: self.batch[place] for place in places})
        left = self._take(found, places, sink)
        for place in found if self.open_ranges is not None else ():
            await self.ended_in_range(place)
        return left

    def _take(self, found: Mapping[int, Update], places: Sequence[int], sink: Taker) -> Sequence[int]:
        for place, update in found.items():
            self._cached_items += len(self.tally.equal_to(place))
            try:
                self._succeeded(place, update, sink)
            except Exception as error:  # noqa: BLE001  the policy decides
                self._failed(place, error, sink, attempts=0)
        return [place for place in places if place not in found]

    def _check_bubble(self, place: int, sink: Taker) -> None:
        if self.sink is not None:
            error = EdgeError(
                f"{self.spec.name}: item {place} called interrupt(), but with sink= no checkpoint keeps its "
                "place. Leave sink= out, or ask in a node before or after the edge."
            )
            self.stop(error)
            raise error
        if isinstance(sink, Results) and not (self.direct and self._may_ask):
            is_batched = calls.here().batched is not None
            count = self.total if is_batched else min(self.size, self.total)
            hint = "Leave batch_api= out" if is_batched else "Pass chunk_size=1"
            error = EdgeError(
                f"{self.spec.name}: item {place} called interrupt(), but {count} items share a task, and "
                f"LangGraph cannot tell their answers apart. {hint}, so that each item is a task of its own."
            )
            self.stop(error)
            raise error

    def facts(self) -> dict[str, Any]:
        tally = self.tally
        found = self.facts_of(self.total, finished=tally.finished, failed=tally.failed)
        found["fan_in"] = tally.finished - (tally.failed if self.spec.failures.on_error != "collect" else 0)
        found["concurrency"] = (
            self.spec.concurrency.max_concurrency if self.adaptive is None else int(self.adaptive.limit)
        )
        if self.spec.tries.hedge is not None and self.span is not None:
            found["hedges"] = len(self.span.timings.hedges)
        if self._stored is not None:
            found["cached_items"] = self._cached_items
        return found

    @property
    def _most_collected(self) -> int:
        """The number of items that may be open, if their calls are collected.

        Each waits for the others. If it did so in a line for a thread, it would hold slots that those need
        which have threads.
        """
        blocks = self.item_way is THREAD or self.spec.target.async_ is None
        return max(1, min(self.total, _MOST_BLOCKING) if blocks else self.total)

    @property
    def threads(self) -> int:
        return min(self.most_open, len(self.firsts))

    @property
    def is_empty(self) -> bool:
        return not self.batch or (self.sink is not None and not self.firsts)

    def stop(self, reason: BaseException) -> None:
        # First, since a caller that is woken by the close looks at the reasons that this sets.
        super().stop(reason)
        self.begun_slots.close(reason)
        if self.open_ranges is not None:
            self.open_ranges.stop(reason)

    def end(self, reason: BaseException, *, cancel: bool = False) -> None:
        super().end(reason, cancel=cancel)
        self.begun_slots.close(reason)
        if self.open_ranges is not None:
            self.open_ranges.stop(reason)


_MOST_BLOCKING = 1024
"""Most items that block threads and are open, if their calls are collected."""
