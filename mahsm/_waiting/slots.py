"""Slots: a counting semaphore that serves its waiters in order, across threads and event loops."""

import heapq
import itertools
import threading
from collections.abc import Sequence
from contextlib import nullcontext

from mahsm._waiting.turns import OnStop, Turn
from mahsm._waiting.ways import Way

Order = tuple[int, ...]


class Closed(Exception):
    """The slots are closed, or the wait was stopped; `reason` is the error or end that did it."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(f"closed by {reason!r}")
        self.reason = reason


class Waiter:
    """A caller in the line that wants up to `wanted` slots.

    `granted`, `gone` and `stopped` change under the lock of its `Slots`.
    """

    __slots__ = ("gone", "granted", "stopped", "turn", "wanted")

    def __init__(self, wanted: int, turn: Turn) -> None:
        self.wanted = wanted
        self.turn = turn
        self.granted = 0
        self.gone = False
        self.stopped: BaseException | None = None


class Slots:
    """A semaphore: at most `limit` slots are held at a time, and the waiter with the lowest order is next.

    The order is the path of an item through nested edges, such as `(3, 0)` for the first item inside the
    fourth. Lower paths come first, so that items that have begun are finished before new ones begin. A caller
    may take several slots together.

    Args:
        limit: The number of slots, >= 1.
    """

    # Fairness.
    #
    # Invariant: `_free` is above 0 only while no waiter is in the line (it is below 0 only after `resize` has
    # lowered the limit). So a caller that finds a free slot may take it without looking at the line: there is
    # no waiter that it could overtake.
    #
    # The invariant holds because a slot that is given back is handed over: `release` gives it to the first
    # waiter under the lock, and it is never free in between. If the waiter were only woken, to take the slot
    # itself, a newcomer could take it first, and the waiter might starve. `_join` keeps the other half: it
    # looks for free slots once more, under the lock, before a waiter enters the line.
    #
    # A waiter that wants several slots is woken by the first one, and stays at the head of the line until it
    # runs or has all of them. When many slots are given back in a burst, they go to it together, and not one
    # each to many waiters: a `vmap` then begins many items in one step.
    #
    # A waiter may be cancelled after slots were handed over to it and before it runs. `_leave` gives these
    # back, so they go to the next waiter. `gone` is set under the lock and checked at the head of the line,
    # so no slot is handed to a waiter that has left.

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free = limit
        self._lock = threading.Lock()
        self._line: list[tuple[Order, int, Waiter]] = []
        self._arrivals = itertools.count()
        self._closed: BaseException | None = None

    @property
    def limit(self) -> int:
        """The number of slots."""
        return self._limit

    @property
    def free(self) -> int:
        """The number of free slots."""
        return self._free

    def try_acquire(self, wanted: int = 1) -> int:
        """Take up to `wanted` slots that are free; return how many were taken."""
        # The most common call, for one slot, is here and not in another function.
        with self._lock:
            if wanted == 1:
                if self._free <= 0 or self._closed is not None:
                    return 0
                self._free -= 1
                return 1
            return self._take_free(wanted)

    async def acquire(self, way: Way, order: Order, wanted: int = 1, on_stop: OnStop | None = None) -> int:
        """Wait in line, and take 1 to `wanted` slots; return how many were taken.

        Args:
            way: How to wait.
            order: The place in the line.
            wanted: The most slots to take.
            on_stop: Registers a callback that ends the wait.

        Raises:
            Closed: when the slots have been closed, or the wait was stopped.
        """
        if taken := self.try_acquire(wanted):
            return taken
        turn = way.turn()
        waiter = Waiter(wanted, turn)
        self._join(order, waiter)
        try:
            with nullcontext() if on_stop is None else on_stop(lambda reason: self._stop(waiter, reason)):
                await self._wait(waiter)
        except BaseException:
            # A cancellation, or a `KeyboardInterrupt` in the main thread.
            self._leave(waiter)
            raise
        return self._granted(waiter)

    def release(self) -> None:
        """Give one slot back; the first waiter in line gets it."""
        with self._lock:
            self._free += 1
            if not self._line:
                return
            turn = self._hand_out()
        if turn is not None:
            turn.wake()

    def resize(self, limit: int) -> None:
        """Change the number of slots; slots above a lower limit stay held until they are given back."""
        with self._lock:
            self._free += limit - self._limit
            self._limit = limit
            turns = self._hand_out_free()
        for turn in turns:
            turn.wake()

    def _hand_out_free(self) -> list[Turn]:
        """Hand all free slots over; return the turns to wake."""
        turns: list[Turn] = []
        while self._free > 0 and self._first() is not None:
            turn = self._hand_out()
            if turn is not None:
                turns.append(turn)
        return turns

    def _hand_out(self) -> Turn | None:
        """Hand a free slot over to the first in line; return the turn to wake, if it was its first slot."""
        waiter = self._first() if self._free > 0 else None
        if waiter is None:
            return None
        self._free -= 1
        waiter.granted += 1
        if waiter.granted == waiter.wanted:
            heapq.heappop(self._line)
        return waiter.turn if waiter.granted == 1 else None

    def close(self, reason: BaseException) -> None:
        """Close the slots: waiters and later callers get `Closed`."""
        with self._lock:
            self._closed = self._closed or reason
            waiting = [waiter for _, _, waiter in self._line if not waiter.gone and not waiter.granted]
            self._line.clear()
        for waiter in waiting:
            waiter.turn.wake()

    def check(self) -> None:
        """Do nothing while the slots are open.

        Raises:
            Closed: when they have been closed.
        """
        if self._closed is not None:
            raise Closed(self._closed)

    async def _wait(self, waiter: Waiter) -> None:
        await waiter.turn.wait()

    def _take_free(self, wanted: int) -> int:
        if self._closed is not None:
            return 0
        taken = max(0, min(self._free, wanted))
        self._free -= taken
        return taken

    def _join(self, order: Order, waiter: Waiter) -> None:
        with self._lock:
            # Slots may have become free since the caller tried to take some.
            waiter.granted = self._take_free(waiter.wanted)
            if not waiter.granted and self._closed is None:
                heapq.heappush(self._line, (order, next(self._arrivals), waiter))
                return
        waiter.turn.wake()

    def _first(self) -> Waiter | None:
        while self._line:
            waiter = self._line[0][2]
            if not waiter.gone:
                return waiter
            heapq.heappop(self._line)
        return None

    def _granted(self, waiter: Waiter) -> int:
        with self._lock:
            waiter.gone = True
            if not waiter.granted and waiter.stopped is not None:
                raise Closed(waiter.stopped)
            if not waiter.granted:
                self.check()
            return waiter.granted

    def _stop(self, waiter: Waiter, reason: BaseException) -> None:
        with self._lock:
            if not waiter.granted:
                waiter.gone, waiter.stopped = True, reason
        waiter.turn.wake()

    def _leave(self, waiter: Waiter) -> None:
        with self._lock:
            waiter.gone = True
            granted = waiter.granted
        for _ in range(granted):
            self.release()


async def acquire_all(way: Way, chain: Sequence[Slots], order: Order, on_stop: OnStop | None = None) -> None:
    """Take a slot of each, innermost first; if a wait is cut short, give those that were taken back."""
    for position, slots in enumerate(chain):
        try:
            await slots.acquire(way, order, on_stop=on_stop)
        except BaseException:
            release_all(chain[:position])
            raise


def try_acquire_all(chain: Sequence[Slots]) -> bool:
    """Take a slot of each if all have a free one, otherwise none; return whether they were taken."""
    for position, slots in enumerate(chain):
        if not slots.try_acquire():
            release_all(chain[:position])
            return False
    return True


def release_all(chain: Sequence[Slots]) -> None:
    """Give back a slot of each."""
    for slots in chain:
        slots.release()
