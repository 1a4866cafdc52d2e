"""What one `vmap` edge was asked to do: its arguments, and what they mean for an item."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from langgraph.types import Command

from mahsm._common import Overlay, State, Update, as_dict, batch, batch_of, missing, read, shown
from mahsm.edges._shared.call_spec import CallSpec
from mahsm.edges._shared.edge import StateReducer
from mahsm.edges._shared.failures import Failures
from mahsm.edges._shared.writes import update_of
from mahsm.edges._vmap.batch import Batch
from mahsm.edges._vmap.concurrency import Concurrency
from mahsm.errors import MissingKeyError, StateError, TooFewSucceeded
from mahsm.nodes._internal import item_keys

OnError: TypeAlias = Literal["raise", "collect", "drop"]
_MAPPINGS = (dict, Mapping)  # dict is quicker to see


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
    reducers: Mapping[str, StateReducer] | None = None

    def check_target(self, edge: str) -> None:
        """Refuse options that cannot work with a target that is called for each item."""
        self.batch.check_target(edge, self.target)
        self.tries.check_target(edge, self.target)
        self.concurrency.check_target(edge, self.target, retries=self.tries.retry is not None)

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
        """The keys that get what items give."""
        return (self.out_key,) if isinstance(self.out_key, str) else self.out_key

    def items(self, state: State) -> list[Any]:
        """What the target is called for: the batch, or the numbers of the samples."""
        given = self.batch
        if given.batch is not None:
            return batch_of(given.batch(state), self.name, "batch(state)")
        if given.batch_key is None:
            return list(range(given.sample or 0))
        return batch(
            read(state, given.batch_key, self.name, "batch_key"), self.name, given.batch_key, "batch_key"
        )

    def inherited(self, state: State) -> State:
        """What of the parent's state a target sees."""
        if isinstance(self.inherit, bool):
            return state if self.inherit else {}
        return {key: value for key, value in state.items() if key in self.inherit}

    def overlay(self, item: Any) -> Overlay:
        """The keys laid over the parent's state for an item."""
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
        """What tells an item from others in a cache."""
        key = self.batch.dedupe_key
        return self.overlay(item) if key is None else key(item)

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
        return self.ends.failures_allowed(total)

    def too_few(self, failures: int, total: int) -> TooFewSucceeded:
        """The error that says that `min_success` cannot be reached."""
        return TooFewSucceeded(
            f"{self.name}: {failures} of {total} items failed, and min_success={self.ends.min_success!r} "
            "cannot be reached. Lower it to go on with what there is."
        )
