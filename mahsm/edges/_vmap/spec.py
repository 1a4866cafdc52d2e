"""What one `vmap` edge was asked to do: its arguments, and what they mean for an item."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from langgraph.cache.base import BaseCache
from langgraph.types import Command

from mahsm._common import Overlay, State, Update, as_dict, batch, batch_of, missing, read, shown
from mahsm.edges._reduce import StopWhen
from mahsm.edges._shared.edge import StateReducer
from mahsm.edges._shared.writes import update_of
from mahsm.edges._vmap.cache import DedupeKey
from mahsm.errors import MissingKeyError, StateError, TooFewSucceeded
from mahsm.limits import RateLimit
from mahsm.nodes._internal import Target, item_keys
from mahsm.policies import Budget, Hedge, Retry

OnError: TypeAlias = Literal["raise", "collect", "drop"]
_MAPPINGS = (dict, Mapping)  # dict is quicker to see


@dataclass(frozen=True)
class VmapSpec:
    """The arguments of `vmap`, checked, with the target made ready."""

    name: str
    target: Target
    batch_key: str | None
    batch: Callable[[State], Any] | None
    sample: int | None
    out_key: str | tuple[str, ...]
    item_to_state: Callable[[Any], Overlay] | None
    inherit: bool | frozenset[str]
    max_concurrency: int
    preserve_order: bool
    timeout: float | None
    retry: Retry | None
    rate_limit: RateLimit | str | None
    adaptive: tuple[int, int] | None
    hedge: Hedge | None
    budget: Budget | None
    deadline: float | None
    dedupe_key: DedupeKey | None
    cache: BaseCache[Any] | None
    stop_when: StopWhen | None
    on_error: OnError
    errors_key: str | None
    min_success: int | float | None
    result: str | Callable[[Any], Any] | None
    chunk_size: int | None
    progress: bool | Literal["items"]
    reducers: Mapping[str, StateReducer] | None = None

    @property
    def items_label(self) -> str:
        """What drawings say that goes to the target."""
        if self.batch is not None:
            return "each of batch"
        return f"{self.sample} samples" if self.batch_key is None else f"each of {self.batch_key}"

    @property
    def out_keys(self) -> tuple[str, ...]:
        """The keys that get what items give."""
        return (self.out_key,) if isinstance(self.out_key, str) else self.out_key

    def items(self, state: State) -> list[Any]:
        """What the target is called for: the batch, or the numbers of the samples."""
        if self.batch is not None:
            return batch_of(self.batch(state), self.name, "batch(state)")
        if self.batch_key is None:
            return list(range(self.sample or 0))
        return batch(
            read(state, self.batch_key, self.name, "batch_key"), self.name, self.batch_key, "batch_key"
        )

    def inherited(self, state: State) -> State:
        """What of the parent's state a target sees."""
        if isinstance(self.inherit, bool):
            return state if self.inherit else {}
        return {key: value for key, value in state.items() if key in self.inherit}

    def overlay(self, item: Any) -> Overlay:
        """The keys laid over the parent's state for an item."""
        if self.item_to_state is None:
            return item_keys(item)
        overlay = self.item_to_state(item)
        if not isinstance(overlay, _MAPPINGS):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise StateError(
                f"{self.name}: item_to_state returned {shown(overlay)}; expected a dict of state keys."
            )
        return overlay

    def item_key(self, item: Any) -> Any:
        """What tells an item from others in a cache."""
        return self.overlay(item) if self.dedupe_key is None else self.dedupe_key(item)

    def entry(self, update: Update) -> Any:
        """What an item leaves in `out_key`; of several keys, a dict of those that it has written, perhaps of
        none.
        """
        found = self._result(update)
        return found if isinstance(self.out_key, str) else self._of_keys(found)

    def _of_keys(self, update: Any) -> State:
        """What an item writes of the keys; nothing, if it gave nothing, or is a graph, whose state has keys
        of its own.

        Raises:
            MissingKeyError: if what it gave would be lost.
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
            f"{self.name}: out_key has {keys}, but the target gave {given}. Return a dict with one of these "
            "keys, or None where there is nothing to write."
        )

    def _result(self, update: Update) -> Any:
        if self.result is None:
            return update
        if callable(self.result):
            return self.result(update)
        if isinstance(update, _MAPPINGS) and self.result in update:
            return cast("Mapping[str, Any]", update)[self.result]
        found, how = f"the target gave {shown(cast('object', update))}.", "pass a function of it."
        if isinstance(update, Mapping):
            found = missing(cast("Mapping[str, Any]", update), self.result, "the update")
        if update is None or isinstance(update, Mapping):
            how = f"let items lack it: result=lambda update: (update or {{}}).get({self.result!r})."
        raise MissingKeyError(f"{self.name}: result={self.result!r}, but {found} Name a key of it, or {how}")

    def update(self, entries: list[Any], state: State, *, as_writes: bool) -> State | Command[Any]:
        """What the edge gives back of its entries.

        Of several keys, each value that an item has written goes through the parent's reducer; a key without
        one gets the list. With `as_writes` each is written as by a `Send`, where nobody knows what the parent
        reduces.
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
        """How many items may fail; negative if even without a failure too few could succeed."""
        if self.min_success is None:
            return total
        return total - (
            math.ceil(self.min_success * total) if isinstance(self.min_success, float) else self.min_success
        )

    def too_few(self, failures: int, total: int) -> TooFewSucceeded:
        """The error that says that `min_success` cannot be reached."""
        return TooFewSucceeded(
            f"{self.name}: {failures} of {total} items failed, and min_success={self.min_success!r} cannot "
            "be reached. Lower it to go on with what there is."
        )
