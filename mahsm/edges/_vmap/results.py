"""Results on their way from the items that gave them to the tasks that hand them in."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from mahsm._waiting import Turn, Way
from mahsm.edges._shared.saving import Saving
from mahsm.edges._vmap.cut import Record, new_record
from mahsm.policies import ItemError


class Taker(Protocol):
    """Takes the results of items."""

    def add(self, place: int, value: Any, rank: int, error: ItemError | None, *, called: bool) -> None:
        """Take the value or the error of the item at this place.

        `called` says that it counts as a call that is not saved.
        """
        ...

    def add_all(self, places: Sequence[int], values: Sequence[Any], ranks: Iterator[int]) -> None:
        """Take the values of many items, whose calls do not count as not saved."""
        ...

    def skip(self, place: int) -> None:
        """Take note of an item that is left out."""
        ...


@dataclass
class ResultPart:
    """Results that are saved together.

    Attributes:
        record: The results, as they are saved.
        called: How many of them come from calls that count as not saved.
    """

    record: Record = field(default_factory=new_record)
    called: int = 0

    @property
    def is_empty(self) -> bool:
        """True if there are no results in it."""
        return not self.record["places"] and not self.record["skipped"]

    def add(self, place: int, value: Any, rank: int, error: ItemError | None, *, called: bool) -> None:
        """Add a result."""
        record = self.record
        record["places"].append(place)
        record["values"].append(value)
        record["ranks"].append(rank)
        if error is not None:
            record["errors"].append(error)
        self.called += called

    def add_all(self, places: Sequence[int], values: Sequence[Any], ranks: Iterator[int]) -> None:
        """Add the values of many items."""
        self.record["places"] += places
        self.record["values"] += values
        self.record["ranks"] += islice(ranks, len(places))

    def skip(self, place: int) -> None:
        """Note an item that is left out."""
        self.record["skipped"].append(place)

    def extend(self, more: "ResultPart") -> None:
        """Append the results of another part."""
        mine, theirs = self.record, more.record
        mine["places"] += theirs["places"]
        mine["values"] += theirs["values"]
        mine["ranks"] += theirs["ranks"]
        mine["errors"] += theirs["errors"]
        mine["skipped"] += theirs["skipped"]
        self.called += more.called


def hand_in(saving: Saving | None, part: ResultPart) -> None:
    """Note that a task is going to return this part, if it is saved.

    An empty part is not noted: it is never written, and a wait for that would not end.
    """
    if saving is not None and not part.is_empty:
        saving.hand_in(part.record, part.called)


class _Waiting:
    """A task that waits for a part."""

    __slots__ = ("part", "turn")

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.part: ResultPart | None = None


class Results:
    """Collects results into parts of `size`, in the order in which they arrive, for tasks that take one each.

    It does not matter which task hands in which result. So no result has to wait for a slow item beside it,
    and when the run breaks off, all results that have arrived can still be handed in.

    Args:
        size: Results in a part, >= 1.
        hand_in: Called with each part that a task has got.
    """

    def __init__(self, size: int, hand_in: Callable[[ResultPart], object]) -> None:
        self._size = size
        self._hand_in = hand_in
        self._lock = threading.Lock()
        self._full: deque[ResultPart] = deque()
        self._part = ResultPart()
        self._takers: deque[_Waiting] = deque()
        self._is_closed = False

    def add(self, place: int, value: Any, rank: int, error: ItemError | None, *, called: bool) -> None:
        """Add a result, from any thread."""
        with self._lock:
            self._part.add(place, value, rank, error, called=called)
            if len(self._part.record["places"]) < self._size:
                return
            taker = self._cut()
        if taker is not None:
            taker.turn.wake()

    def add_all(self, places: Sequence[int], values: Sequence[Any], ranks: Iterator[int]) -> None:
        """Add the values of many items, from any thread."""
        done = 0
        while done < len(places):
            with self._lock:
                end = done + self._size - len(self._part.record["places"])
                self._part.add_all(places[done:end], values[done:end], ranks)
                taker = self._cut() if len(self._part.record["places"]) == self._size else None
            if taker is not None:
                taker.turn.wake()
            done = end

    def skip(self, place: int) -> None:
        """Note an item that is left out."""
        with self._lock:
            self._part.skip(place)

    def _cut(self) -> _Waiting | None:
        part, self._part = self._part, ResultPart()
        if not self._takers:
            self._full.append(part)
            return None
        taker = self._takers.popleft()
        self._give(taker, part)
        return taker

    def _give(self, taker: _Waiting, part: ResultPart) -> None:
        taker.part = part
        self._hand_in(part)

    async def take(self, way: Way) -> ResultPart | None:
        """Wait for a part; return None if no further one comes."""
        turn = way.turn()
        taker = self._joined(turn)
        await turn.wait()
        return taker.part

    def _joined(self, turn: Turn) -> _Waiting:
        taker = _Waiting(turn)
        with self._lock:
            if self._full:
                self._give(taker, self._full.popleft())
            elif not self._is_closed:
                self._takers.append(taker)
                return taker
        turn.wake()
        return taker

    def close(self) -> ResultPart:
        """End the collection, after the last result.

        The first waiting task gets the results that are left, and the other ones None. If no task waits, the
        results are returned.
        """
        with self._lock:
            self._is_closed = True
            takers, self._takers = self._takers, deque()
            part, self._part = self._part, ResultPart()
            # Full parts are left only if no task waits, and they come before the part that is not full.
            for full in self._full:
                full.extend(part)
                part = full
            self._full.clear()
            if takers and not part.is_empty:
                self._give(takers[0], part)
                part = ResultPart()
        for taker in takers:
            taker.turn.wake()
        return part
