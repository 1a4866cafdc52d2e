"""The outcomes of the items of one `vmap` run: which items have one, how many failed, whom it tells."""

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mahsm._progress import Progress
from mahsm.edges._vmap.cut import Record
from mahsm.edges._vmap.results import Taker
from mahsm.nodes._internal import Finished
from mahsm.policies import ItemError


class Tally:
    """The outcomes of a run's items so far.

    Args:
        total: The number of items.
        equal: The places of equal items by the first of them, if equal items are called once.
        progress: The progress of the run.
        finished: Called with each item that has an outcome: its index, and its entry or `ItemError`.
        decide: Ends the run if an entry decides it, and returns whether it does; None if no entry can.
        counts: Count successes, too, which only traces show.

    Attributes:
        finished: The number of items that have an outcome; exact only with `counts`.
        failed: The number of items that failed.
    """

    def __init__(
        self,
        total: int,
        equal: Mapping[int, Sequence[int]] | None,
        progress: Progress,
        finished: Sequence[Finished],
        decide: Callable[[Any], bool] | None,
        *,
        counts: bool,
    ) -> None:
        self._total = total
        self._equal = equal
        self._progress = progress
        self._told = finished
        self._decide = decide
        self._counts = counts
        self._has_outcome = bytearray(total)
        # Ranks begin at the clock, so that those of a resumed run come after those of the process before.
        self._ranks = itertools.count(time.time_ns())
        self._lock = threading.Lock()
        self.finished = 0
        self.failed = 0

    def equal_to(self, place: int) -> Sequence[int]:
        """Return the places of the items that equal the one at this place, its own included."""
        return (place,) if self._equal is None else self._equal.get(place, (place,))

    def has_outcome(self, place: int) -> bool:
        """Return whether the item at this place has an outcome."""
        return bool(self._has_outcome[place])

    # Items that are done already, perhaps by a process before this one.

    def learn(self, records: Iterable[Record]) -> None:
        """Count the outcomes that an earlier run of the edge has recorded."""
        for record in records:
            failed = {error["index"] for error in record["errors"]}
            self.finished += sum(len(self.equal_to(place)) for place in record["places"])
            self.failed += sum(len(self.equal_to(place)) for place in failed)
            for place, value in zip(record["places"], record["values"], strict=True):
                if self._decide is not None and place not in failed:
                    self._look_at(place, value, self._decide)

    def missing(self, records: Sequence[Record], firsts: Sequence[int]) -> Sequence[int]:
        """Return those of the places `firsts` that have no outcome in these records."""
        if sum(len(record["places"]) + len(record["skipped"]) for record in records) >= self._total:
            return ()
        found = bytearray(self._total)
        for record in records:
            for place in (*record["places"], *record["skipped"]):
                found[place] = True
        return [place for place in firsts if not any(found[equal] for equal in self.equal_to(place))]

    def unknown(self, places: Sequence[int]) -> Sequence[int]:
        """Return those of these places that have no outcome in this run yet.

        A wave that went on meanwhile may have given some of them an outcome.
        """
        return (
            [place for place in places if not self._has_outcome[place]]
            if True in self._has_outcome
            else places
        )

    # New outcomes.

    def succeeded(self, place: int, entry: Any, sink: Taker, *, called: bool = False) -> None:
        """Record the entry of an item; `called` says that it counts as a call that is not saved."""
        self._has_outcome[place] = True
        if self._counts:
            self._count(place, failed=False)
        sink.add(place, entry, next(self._ranks), None, called=called)
        self._progress.step()
        if self._told:
            self._tell(place, entry)
        if self._decide is not None:
            self._look_at(place, entry, self._decide)

    def all_succeeded(self, places: Sequence[int], entries: Sequence[Any], sink: Taker) -> None:
        """Record the entries of many items, whose calls do not count as not saved."""
        if self._decide is not None or self._counts or self._told:
            for place, entry in zip(places, entries, strict=True):
                self.succeeded(place, entry, sink)
            return
        for place in places:
            self._has_outcome[place] = True
        sink.add_all(places, entries, self._ranks)
        self._progress.step(count=len(places))

    def has_failed(self, place: int, error: ItemError, sink: Taker, *, called: bool = False) -> int:
        """Record the failure of an item; return how many items have failed."""
        self._has_outcome[place] = True
        failures = self._count(place, failed=True)
        sink.add(place, None, next(self._ranks), error, called=called)
        self._progress.step(failed=True)
        self._tell(place, error)
        return failures

    def count_failure(self, place: int) -> None:
        """Count the failure of an item that ends the run, so that no result of it is kept."""
        self._count(place, failed=True)

    def settled(self, place: int) -> None:
        """Note that an item has an outcome that is kept elsewhere."""
        self._has_outcome[place] = True

    def skip(self, place: int, sink: Taker) -> None:
        """Record that an item is left out, since the run was decided without it."""
        self._has_outcome[place] = True
        sink.skip(place)

    def count_all(self, *, finished: int, failed: int) -> None:
        """Set the final counts of outcomes, those from a process before this one included."""
        self.finished, self.failed = finished, failed

    def _count(self, place: int, *, failed: bool) -> int:
        equal = len(self.equal_to(place))
        with self._lock:
            self.finished += equal
            self.failed += equal * failed
            return self.failed

    def _tell(self, place: int, outcome: Any) -> None:
        for tell in self._told:
            for equal in self.equal_to(place):
                tell(equal, outcome)

    def _look_at(self, place: int, entry: Any, decide: Callable[[Any], bool]) -> None:
        any(decide(entry) for _ in self.equal_to(place))
