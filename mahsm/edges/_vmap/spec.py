"""The checked arguments of one `vmap` edge, and what they mean for an item."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias, cast

from langgraph.types import Command

from mahsm._common import Overlay, State, Update, as_dict, batch, batch_of, missing, read, shown
from mahsm.data._internal import Cut
from mahsm.edges._shared.call_spec import CallSpec
from mahsm.edges._shared.edge import StateReducer
from mahsm.edges._shared.failures import Failures
from mahsm.edges._shared.writes import update_of
from mahsm.edges._vmap.batch import Batch
from mahsm.edges._vmap.concurrency import Concurrency
from mahsm.edges._vmap.results import Taker
from mahsm.edges._vmap.streamed import Sink, check_sink
from mahsm.edges._vmap.warm import Warm
from mahsm.errors import MissingKeyError, StateError, TooFewSucceeded
from mahsm.limits import RateLimit
from mahsm.nodes._internal import has_blocking_nodes, item_keys

OnError: TypeAlias = Literal["raise", "collect", "drop"]
# `dict` comes first, since it is the common case and the cheaper check.
_MAPPINGS = (dict, Mapping)

_WAITING = 4
"""Number of open items for each call at a time, with retries: when three of four items wait for their next
attempt, all slots are still in use."""

_WAITING_FOR_KEYS = 256
"""Least number of open items, if each key has a bucket: that many may wait for a slow key before they hold up
items of fast keys."""


class Workers(Protocol):
    """Workers that run the items, in other processes."""

    async def run(self, run: Any, sink: Taker, blocks: AsyncIterator[Sequence[int]], count: int) -> None:
        """Run the items of a run whose places the blocks have, and hand their results to the sink."""
        ...


@dataclass(frozen=True)
class VmapSpec(CallSpec):
    """The arguments of `vmap`, checked, with the target made ready."""

    batch: Batch
    out_key: str | tuple[str, ...]
    inherit: bool | frozenset[str]
    result: str | Callable[[Any], Any] | None
    concurrency: Concurrency
    failures: Failures
    progress: bool | Literal["items"]
    warm: Warm
    sink: Sink | None = None
    workers: "Workers | None" = None
    reducers: Mapping[str, StateReducer] | None = None

    def check_target(self, edge: str) -> None:
        """Refuse options that cannot work with a target that is called for each item."""
        self.batch.check_target(edge, self.target)
        self.tries.check_target(edge, self.target)
        saved = self.sink is None and self.workers is None
        self.concurrency.check_target(
            edge, self.target, retries=self.tries.retry is not None, saves_items=saved
        )
        if self.sink is not None:
            check_sink(edge, self.sink, self._refused_with_sink())

    def _refused_with_sink(self) -> dict[str, str]:
        """Return the options that have no effect with a sink, as they are given, and why."""
        given = {
            "preserve_order=False": (
                not self.concurrency.preserve_order,
                "a sink has the order of the items",
            ),
            "dedupe_key=": (
                self.batch.dedupe_key is not None,
                "a sink is written while it is not known which items are equal; pass cache=",
            ),
            "stop_when=": (self.ends.stop_when is not None, "a sink is complete, or goes on later"),
            "errors_key=": (self.failures.errors_key is not None, "errors.jsonl of the sink has the errors"),
            "several keys in out_key": (
                not isinstance(self.out_key, str),
                "a sink has one result for an item",
            ),
        }
        return {option: why for option, (is_given, why) in given.items() if is_given}

    @property
    def reads(self) -> list[str]:
        """The state keys that the edge is known to read."""
        return [*self.batch.reads, *(() if isinstance(self.inherit, bool) else self.inherit)]

    @property
    def writes(self) -> list[str]:
        """The state keys that the edge writes."""
        return [*self.out_keys, *([self.failures.errors_key] if self.failures.errors_key else [])]

    @property
    def out_keys(self) -> tuple[str, ...]:
        """The state keys that get the entries."""
        return (self.out_key,) if isinstance(self.out_key, str) else self.out_key

    def items(self, state: State) -> list[Any]:
        """Return the items as a list: the batch, or the numbers of the samples."""
        return self.listed(self.given(state))

    def given(self, state: State) -> Any:
        """Return what the batch is: a list, or anything else that has items."""
        given = self.batch
        if given.batch is not None:
            return given.batch(state)
        if given.batch_key is None:
            return list(range(given.sample or 0))
        return read(state, given.batch_key, self.name, "batch_key")

    def listed(self, found: Any) -> list[Any]:
        """Return the items of what `given` returned as a list.

        Raises:
            StateError: if it has no items.
        """
        if self.batch.batch_key is None:
            return batch_of(found, self.name, "batch(state)")
        return batch(found, self.name, self.batch.batch_key, "batch_key")

    @property
    def cut(self) -> Cut:
        """How a streamed batch is cut into ranges: each as large that its items fill the width of the run."""
        width = self.concurrency.max_concurrency
        if self.concurrency.chunk_size is not None:
            return Cut(rows=self.concurrency.chunk_size, least=self.concurrency.chunk_size)
        return Cut(rows=max(Cut().rows, width), least=width)

    @property
    def most_open(self) -> int:
        """The number of items that may be open, if their calls are not collected for batch jobs.

        It is larger than the number of calls at a time if items may wait for something other than a slot.
        """
        most = self.concurrency.max_concurrency * (_WAITING if self.tries.retry else 1)
        limit = self.tries.rate_limit
        return (
            max(most, _WAITING_FOR_KEYS) if isinstance(limit, RateLimit) and limit.key is not None else most
        )

    @property
    def collected(self) -> "VmapSpec":
        """The specification where calls are collected, so that each item waits for those of all others."""
        if not has_blocking_nodes(self.target.source):
            return self
        # On a loop, LangGraph would run the nodes in the few threads of the loop's executor, where they wait.
        return replace(self, target=replace(self.target, async_=None))

    def inherited(self, state: State) -> State:
        """Return the part of the parent's state that a target sees."""
        if isinstance(self.inherit, bool):
            return state if self.inherit else {}
        return {key: value for key, value in state.items() if key in self.inherit}

    def overlay(self, item: Any) -> Overlay:
        """Return the state keys that a target sees on top of the parent's state for an item."""
        to_state = self.batch.item_to_state
        if to_state is None:
            return item_keys(item)
        overlay = to_state(item)
        if not isinstance(overlay, _MAPPINGS):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise StateError(
                f"{self.name}: item_to_state returned {shown(overlay)}; expected a dict of state keys."
            )
        return overlay

    def item_key(self, item: Any) -> Any:
        """Return the value by which a cache tells an item from others."""
        key = self.batch.dedupe_key
        return self.overlay(item) if key is None else key(item)

    def entry(self, update: Update) -> Any:
        """Return an item's entry in `out_key`; with several keys, a dict of those that it has written."""
        found = self._result(update)
        return found if isinstance(self.out_key, str) else self._of_keys(found)

    def _of_keys(self, update: Any) -> State:
        """Return the values that an item writes to the keys.

        They may be none: of an update of None, or of a graph, whose state has keys of its own.

        Raises:
            MissingKeyError: if any other update has none of the keys, and would be lost.
        """
        try:
            written: State | None = {} if update is None else as_dict(cast("object", update))
        except StateError:
            written = None
        found = {key: written[key] for key in self.out_keys if key in written} if written else {}
        if found or written == {} or (written is not None and self.target.is_graph):
            return found
        keys = ", ".join(map(repr, self.out_keys))
        given = shown(cast("object", update))
        raise MissingKeyError(
            f"{self.name}: out_key has {keys}, but the target returned {given}. Return a dict with one of "
            "these keys, or None to write nothing."
        )

    def _result(self, update: Update) -> Any:
        if self.result is None:
            return update
        if callable(self.result):
            return self.result(update)
        if isinstance(update, _MAPPINGS) and self.result in update:
            return cast("Mapping[str, Any]", update)[self.result]
        found, how = f"the target returned {shown(cast('object', update))}.", "pass a function of it."
        if isinstance(update, Mapping):
            found = missing(cast("Mapping[str, Any]", update), self.result, "the update")
        if update is None or isinstance(update, Mapping):
            how = f"allow items without it: result=lambda update: (update or {{}}).get({self.result!r})."
        raise MissingKeyError(f"{self.name}: result={self.result!r}, but {found} Name a key of it, or {how}")

    def update(self, entries: list[Any], state: State, *, as_writes: bool) -> State | Command[Any]:
        """Return the edge's update.

        With several keys, each value that an item has written goes through the parent's reducer; a key
        without a reducer gets the list of values. With `as_writes`, each value is written as by a `Send`,
        since it is not known which keys the parent reduces.
        """
        if isinstance(self.out_key, str):
            return {self.out_key: entries}
        lists: State = {key: [entry[key] for entry in entries if key in entry] for key in self.out_key}
        if self.reducers is None and not as_writes:
            return lists
        one_by_one = lists.keys() if self.reducers is None else lists.keys() & self.reducers.keys()
        if not one_by_one:
            return lists
        writes = [(key, value) for entry in entries for key, value in entry.items() if key in one_by_one]
        rest = [(key, values) for key, values in lists.items() if key not in one_by_one]
        if self.reducers is None:
            return Command(update=[*rest, *writes])
        return update_of([*rest, *writes], self.reducers, state)

    def failures_allowed(self, total: int) -> int:
        """Return how many items may fail; negative if too few could succeed even without a failure."""
        return self.ends.failures_allowed(total)

    def too_few(self, failures: int, total: int) -> TooFewSucceeded:
        """Return the error for a `min_success` that cannot be reached."""
        return TooFewSucceeded(
            f"{self.name}: {failures} of {total} items failed, and min_success={self.ends.min_success!r} "
            "cannot be reached. Lower it to go on with fewer results."
        )
