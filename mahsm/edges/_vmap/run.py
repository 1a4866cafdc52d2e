"""One run of a `vmap` edge: lets items in, calls the target, keeps what came out."""

import asyncio
import itertools
import math
import threading
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from langgraph.errors import GraphBubbleUp

from mahsm._common import Overlay, State, Update, add_note
from mahsm._model_calls import calls, usage_of_edge_run
from mahsm._progress import Progress
from mahsm._waiting import Closed, Decided, Slots, tasks
from mahsm.edges._shared.adaptive import Adaptive
from mahsm.edges._shared.attempts import AnyCall, AttemptRunner
from mahsm.edges._shared.finished import ItemEvent
from mahsm.edges._shared.items import Item
from mahsm.edges._shared.reducer import decider
from mahsm.edges._shared.run import EdgeRun, is_saved, needs_no_tasks, to_nobody
from mahsm.edges._shared.saving import ends_all
from mahsm.edges._shared.session import Session
from mahsm.edges._shared.streams import is_inside_item
from mahsm.edges._vmap.cache import Stored, equal_places
from mahsm.edges._vmap.cut import Record, batch_id
from mahsm.edges._vmap.results import ResultPart, Results, Sink
from mahsm.edges._vmap.spec import VmapSpec
from mahsm.errors import EdgeError
from mahsm.limits import RateLimit
from mahsm.nodes._internal import Finished, is_substituted, plain_update
from mahsm.policies import ItemError, is_item_error
from mahsm.policies._internal import item_error

T = TypeVar("T")

_PARTS = (128, 64)
"""Parts that the results of a batch are saved in: of up to 1,024 items, and of more. More lose less in a
crash, fewer cost less: a part is a task of LangGraph, which takes 200 to 400 us. So a part has at most 8 of
few results, and 1/64 of many."""

_TASKS_UNSAVED = 16
"""Up to so many items, each is a task where nothing is saved, too: then those who stream subgraphs see each
of them."""


class VmapRun(EdgeRun):
    """What the items of one run share. An item is known by its place in the batch; of equal ones, by the
    first place.

    Two bounds hold at once: an item that has begun and not ended is *open*, and while its target is called it
    holds slots. An item with an edge inside stays open but lends its slots.

    Args:
        spec: The specification.
        around: Its session.
        batch: The batch.
        concurrency: What the run before has found out, for an adaptive edge.
        finished: Who gets each item when it has finished.

    Attributes:
        firsts: The places of the items that are to be called, ascending.
        size: How many results are saved together.
        alone: Whether each item is a task of LangGraph.
        direct: Whether there are no tasks, since nothing is saved and nobody looks inside.
        id: Tells this run from others, which resume it.
        batch_id: Tells the batch from others.
    """

    def __init__(
        self,
        spec: VmapSpec,
        around: Session,
        batch: list[Any],
        concurrency: float | None = None,
        finished: Finished | None = None,
    ) -> None:
        self.spec = spec
        self._inherited = spec.inherited(around.state)
        self.batch = batch
        self.total = len(batch)
        self._equal = (
            None if spec.batch.dedupe_key is None else equal_places(batch, spec.batch.dedupe_key, spec.name)
        )
        self.firsts: Sequence[int] = range(self.total) if self._equal is None else list(self._equal)
        saved, count = is_saved(around.config), len(self.firsts)
        chunk_size = spec.concurrency.chunk_size
        few = chunk_size is None and count <= (_PARTS[0] if saved else _TASKS_UNSAVED)
        self.alone = chunk_size == 1 or spec.target.graph is not None or few
        self.size = 1 if self.alone else chunk_size or math.ceil(count / _PARTS[count > 1024])
        most = spec.concurrency.max_concurrency
        super().__init__(spec.name, around, slots=most, unsaved=most + 2 * self.size)
        self._may_ask = self.alone
        self.direct = (
            count > 0 and chunk_size != 1 and spec.target.graph is None and needs_no_tasks(around.config)
        )
        if self.direct:
            self._item_writer = to_nobody
        self.id = uuid.uuid4().hex[:12]
        self.batch_id = batch_id(batch, digest=saved)
        self._made: dict[int, Any] = {}
        self.progress = Progress(spec.name, len(self.firsts), self.progress_writer, usage_of_edge_run())
        self._finished = [finished] if finished else []
        if spec.progress == "items" and self.writer is not None:
            self._finished.append(self._tell_item)
        self.begun_slots = Slots(self.most_open)
        # On resume they go on where the process before had to stop.
        self._ranks = itertools.count(time.time_ns())
        self._has_result = bytearray(self.total)
        self._finished_items = 0
        self._failures = 0
        self._cached_items = 0
        self._failures_allowed = spec.failures_allowed(self.total)
        self._lock = threading.Lock()
        self._overlays: dict[int, Overlay] = {}
        bounds = spec.concurrency.bounds
        self.adaptive = Adaptive(self.call_slots, *bounds, concurrency) if bounds else None
        self._attempts = AttemptRunner(
            spec, self.way, self.span, self.not_begun, self.left, self.end_late, self.adaptive
        )
        self._stored = (
            Stored(spec.batch.cache, spec.name, spec.item_key)
            if spec.batch.cache and not is_substituted()
            else None
        )
        self._sample = calls.here().sample
        self._decides = decider(spec.ends.stop_when, self.total) if spec.ends.stop_when is not None else None

    @property
    def label(self) -> str:
        """What items are called by those who listen: as under a `Send`, by the node's name."""
        node = None if is_inside_item(self.config) else self.config.get("metadata", {}).get("langgraph_node")
        return self.config.get("run_name") or node or self.name

    def equal_to(self, place: int) -> Sequence[int]:
        """The places of the items that are called with the one at this place, its own included."""
        return (place,) if self._equal is None else self._equal.get(place, (place,))

    def from_place(self, place: int) -> Sequence[int]:
        """The items to be called from a place on."""
        return self.firsts[bisect_left(self.firsts, place) :]

    def item(self, index: int) -> Item:
        if self.spec.batch.sample is not None:
            drawn = calls.Sample(index, self.spec.batch.sample)
            calls.change(sample=drawn.nested_in(self._sample))
        return super().item(index)

    # What has been done already, perhaps by a process before this one.

    def learn(self, records: Iterable[Record]) -> None:
        """What another run of the edge has left counts in this one, too."""
        for record in records:
            failed = {error["index"] for error in record["errors"]}
            self._finished_items += sum(len(self.equal_to(place)) for place in record["places"])
            self._failures += sum(len(self.equal_to(place)) for place in failed)
            for place, value in zip(record["places"], record["values"], strict=True):
                if self._decides is not None and place not in failed:
                    self._decide(place, value)

    def missing(self, records: Sequence[Record]) -> Sequence[int]:
        """The items to be called of which these records say nothing."""
        if sum(len(record["places"]) + len(record["skipped"]) for record in records) >= self.total:
            return ()
        has_result = bytearray(self.total)
        for record in records:
            for place in (*record["places"], *record["skipped"]):
                has_result[place] = True
        return [
            place for place in self.firsts if not any(has_result[equal] for equal in self.equal_to(place))
        ]

    def unknown(self, places: Sequence[int]) -> Sequence[int]:
        """Those of these items that have no result of this run, such as of a wave that went on meanwhile."""
        return (
            [place for place in places if not self._has_result[place]] if True in self._has_result else places
        )

    def once(self, place: int, make: Callable[[], T]) -> T:
        """What was made for this place, or else is made now."""
        with self._lock:
            if place not in self._made:
                self._made[place] = make()
            return self._made[place]

    def hand_in(self, part: ResultPart) -> None:
        """A task is going to return this part; an empty one is not written, and nobody must wait for that."""
        if self.saving is not None and not part.is_empty:
            self.saving.hand_in(part.record, part.called)

    # One item.

    def call_of_target(self) -> AnyCall:
        spec = self.spec
        return self.bind(spec.target, self.label, may_be_left=spec.may_be_left)

    async def run_item(self, place: int, call: AnyCall, sink: Sink, item: Item | None = None) -> None:
        """Run an item that has begun, which `call` calls."""
        item = item or self.item(place)
        try:
            with self.part(self.spec.target.name, place, self.total):
                update = plain_update(await self._attempts.run(item, partial(self._state_of, place), call))
            if self._stored is not None:
                await self._store(place, update)
            self._succeeded(place, update, sink, called=item.is_unsaved)
        except BaseException as error:  # noqa: BLE001  the policy decides
            self._did_not_succeed(error, item, place, sink)
        finally:
            self.begun_slots.release()

    async def _store(self, place: int, update: Update) -> None:
        """Put into the cache what an item gave, which counts also if the run is over meanwhile."""
        assert self._stored is not None
        try:
            await self._stored.put(self.way, self.batch[place], update)
        except asyncio.CancelledError:
            if not tasks.is_cancelled_here():
                raise

    def _did_not_succeed(self, error: BaseException, item: Item, place: int, sink: Sink) -> None:
        """What becomes of an item that was called, or was to be."""
        if isinstance(error, Closed):
            self._not_begun(item, place, sink)
        elif isinstance(error, GraphBubbleUp):
            item.has_nothing()
            self._check_bubble(place, sink)
            raise error
        elif isinstance(error, Exception) or (
            isinstance(error, asyncio.CancelledError) and not tasks.is_cancelled_here()
        ):
            self._failed(place, error, sink, item.attempts, called=item.is_unsaved)
        elif isinstance(error, asyncio.CancelledError):
            raise error
        else:
            self.stop(error)
            raise error

    # What becomes of an item.

    def _state_of(self, place: int) -> tuple[State, Overlay]:
        overlay = self._overlays.get(place) or self.spec.overlay(self.batch[place])
        return {**self._inherited, **overlay}, overlay

    def check_first(self) -> None:
        """Look whether the first item reaches the target, if that is a graph: such a mistake is no failed
        item.

        Raises:
            EdgeError: if it has none of the graph's keys, of which LangGraph would say nothing.
        """
        keys = self.spec.target.input_keys
        if keys is None or not self.firsts:
            return
        with suppress(Exception):  # of an item whose state cannot be made: it fails when it is its turn
            self._overlays[self.firsts[0]] = self.spec.overlay(self.batch[self.firsts[0]])
        overlay = self._overlays.get(self.firsts[0], {})
        if overlay and keys.isdisjoint(overlay):
            raise EdgeError(
                f"{self.name}: an item has {', '.join(map(repr, overlay))}, and none of it is in the input "
                f"of the graph {self.spec.target.name!r}, which has {', '.join(map(repr, sorted(keys)))}. "
                "Pass item_to_state= with a key that it has."
            )

    def compute_for_all(self) -> None:
        """Let the target compute what it can compute for all items at once, and lay that over the state of
        each.
        """
        if self.spec.target.batched is None:
            return
        found: dict[int, Overlay] = {}
        for place in self.firsts:
            with suppress(Exception):  # of an item whose state cannot be made: it fails when it is its turn
                found[place] = self.spec.overlay(self.batch[place])
        self._overlays = dict(
            zip(found, self.spec.target.batched(self.state, list(found.values())), strict=True)
        )

    def _succeeded(self, place: int, update: Update, sink: Sink, *, called: bool = False) -> None:
        entry = self.spec.entry(update)
        self._keep(place, entry, sink, None, called=called)
        if self._decides is not None:
            self._decide(place, entry)

    def _decide(self, place: int, entry: Any) -> None:
        decides = self._decides
        assert decides is not None
        if any(decides(entry) for _ in self.equal_to(place)):
            self.end(Decided(f"{self.spec.name}: stop_when has decided"), cancel=True)

    def _failed(
        self, place: int, error: BaseException, sink: Sink, attempts: int, *, called: bool = False
    ) -> None:
        spec = self.spec
        add_note(error, f"{spec.name}, item {place} of {self.total}, attempt {attempts}")
        if spec.failures.on_error == "raise" or ends_all(error):
            self._count(place, failed=True)
            if not self._ended:  # else what runs may finish, since it is paid for
                self.stop(error)
            self.break_off.stop(error)
            raise error
        failure = item_error(error, edge=spec.name, index=place, item=self.batch[place], attempts=attempts)
        failures = self._keep(place, None, sink, failure, called=called)
        if failures > self._failures_allowed:
            reason = spec.too_few(failures, self.total)
            reason.__cause__ = error
            self.stop(reason)
            raise reason

    def _not_begun(self, item: Item, place: int, sink: Sink) -> None:
        """The item's wait was cut short: if the run was ended, what stood in its way last time is its
        error.
        """
        if not self._ended:
            raise Closed(self.not_begun.reason or RuntimeError("the run was stopped"))
        if item.failure is not None:
            self._failed(place, item.failure, sink, item.attempts)

    def close_items(self, places: Iterable[int], sink: Sink) -> None:
        """Say of each item without an outcome why it has none.

        Raises:
            Closed: if the run broke off before there was one.
        """
        for place in places:
            if self._has_result[place]:
                continue
            if self.break_off.reason is not None:
                raise Closed(self.break_off.reason)
            reason = self.ended
            if isinstance(reason, Decided):
                self._has_result[place] = True
                sink.skip(place)
            elif reason is not None:
                self._failed(place, type(reason)(*reason.args), sink, attempts=0)
            else:  # its task was cancelled, though the run was not
                self._failed(
                    place, asyncio.CancelledError("the target cancelled its own task"), sink, attempts=1
                )

    def _count(self, place: int, *, failed: bool) -> int:
        """An item has an outcome; how many have failed now. Who has not failed counts for traces alone."""
        if self.span is None and not failed:
            return self._failures
        equal = len(self.equal_to(place))
        with self._lock:
            self._finished_items += equal
            self._failures += equal * failed
            return self._failures

    def count_all(self, *, finished: int, failed: int) -> None:
        """The run is over: so many items have an outcome, perhaps from a process before this one."""
        self._finished_items, self._failures = finished, failed

    def _keep(self, place: int, value: Any, sink: Sink, error: ItemError | None, *, called: bool) -> int:
        """Hand on the outcome of an item; how many have failed now."""
        self._has_result[place] = True
        failures = self._count(place, failed=error is not None)
        sink.add(place, value, next(self._ranks), error, called=called)
        self.progress.step(failed=error is not None)
        for tell in self._finished:
            for equal in self.equal_to(place):
                tell(equal, value if error is None else error)
        return failures

    def _tell_item(self, index: int, outcome: Any) -> None:
        event = ItemEvent(edge=self.name, item=(*self._order, index), index=index)
        event["error" if is_item_error(outcome) else "value"] = outcome
        assert self.writer is not None
        self.writer(event)

    async def uncached(self, places: Sequence[int], sink: Sink) -> Sequence[int]:
        """Take what a cache has found, if there is one; return the items that are still to do."""
        if self._stored is None or not places:
            return places
        found = await self._stored.get(self.way, {place: self.batch[place] for place in places})
        return self._take(found, places, sink)

    def _take(self, found: Mapping[int, Update], places: Sequence[int], sink: Sink) -> Sequence[int]:
        for place, update in found.items():
            self._cached_items += len(self.equal_to(place))
            try:
                self._succeeded(place, update, sink)
            except Exception as error:  # noqa: BLE001  the policy decides
                self._failed(place, error, sink, attempts=0)
        return [place for place in places if place not in found]

    def _check_bubble(self, place: int, sink: Sink) -> None:
        if isinstance(sink, Results) and not (self.direct and self._may_ask):
            error = EdgeError(
                f"{self.spec.name}: item {place} called interrupt(), but {min(self.size, self.total)} items "
                "share a task, and LangGraph cannot tell their answers apart. Pass chunk_size=1, so that "
                "each item is a task of its own."
            )
            self.stop(error)
            raise error

    def facts(self) -> dict[str, Any]:
        found = self.facts_of(self.total, finished=self._finished_items, failed=self._failures)
        found["fan_in"] = self._finished_items - (
            self._failures if self.spec.failures.on_error != "collect" else 0
        )
        found["concurrency"] = (
            self.spec.concurrency.max_concurrency if self.adaptive is None else int(self.adaptive.limit)
        )
        if self.spec.tries.hedge is not None and self.span is not None:
            found["hedges"] = len(self.span.timings.hedges)
        if self._stored is not None:
            found["cached_items"] = self._cached_items
        return found

    @property
    def most_open(self) -> int:
        """Items that may be open: more than may be called at once where some wait for something else than a
        slot.
        """
        most = self.spec.concurrency.max_concurrency * (_WAITING if self.spec.tries.retry else 1)
        keyed = (
            isinstance(self.spec.tries.rate_limit, RateLimit) and self.spec.tries.rate_limit.key is not None
        )
        return max(most, _WAITING_FOR_KEYS) if keyed else most

    @property
    def threads(self) -> int:
        return min(self.most_open, len(self.firsts))

    @property
    def is_empty(self) -> bool:
        return not self.batch

    def stop(self, reason: BaseException) -> None:
        super().stop(reason)  # before the line is closed: whoever waits in it looks at the reason
        self.begun_slots.close(reason)

    def end(self, reason: BaseException, *, cancel: bool = False) -> None:
        super().end(reason, cancel=cancel)
        self.begun_slots.close(reason)


_WAITING = 4
"""Open items for each that may be called at once, with retries: when three of four wait for their next
attempt, all slots are still in use."""

_WAITING_FOR_KEYS = 256
"""Open items at least, where each key has a bucket: so many may wait for a slow key before the quick ones
wait for them."""
