"""Slots: a counting semaphore that serves waiters in order, across threads and event loops."""

import heapq
import itertools
import threading
from collections.abc import Sequence
from contextlib import nullcontext

from mahsm._waiting.turns import OnStop, Turn
from mahsm._waiting.ways import Way

Order = tuple[int, ...]


class Closed(Exception):
    """Nobody gets a slot any more; `reason` is what ended the work."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(f"closed by {reason!r}")
        self.reason = reason


class _Waiter:
    """One caller in the line, who wants `wanted` slots and takes what there is when its turn comes.

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
    """At most `limit` slots are held at once; who waits with the lowest `order` is next.

    `order` is the path of an item through nested edges, such as `(3, 0)` for the first item inside the
    fourth. Lower paths first means that what was begun is finished before something new is begun. One caller
    can take several slots at once: when many are given back together, they all go to the first in line and
    not one to each.

    Args:
        limit: How many slots there are, >= 1.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free = limit  # more than 0 only while nobody waits, less only after the limit was lowered
        self._lock = threading.Lock()
        self._line: list[tuple[Order, int, _Waiter]] = []
        self._arrivals = itertools.count()
        self._closed: BaseException | None = None

    @property
    def limit(self) -> int:
        """How many slots there are."""
        return self._limit

    @property
    def free(self) -> int:
        """Slots that nobody holds."""
        return self._free

    def try_acquire(self, wanted: int = 1) -> int:
        """Take up to `wanted` slots if that needs no waiting; how many were taken."""
        with self._lock:
            return self._take_free(wanted)

    async def acquire(self, way: Way, order: Order, wanted: int = 1, on_stop: OnStop | None = None) -> int:
        """Take 1 to `wanted` slots, waiting in line; return how many were taken.

        Args:
            way: How to wait.
            order: The place in the line.
            wanted: How many.
            on_stop: Registers what ends the wait.

        Raises:
            Closed: when the slots have been closed, or the wait was stopped.
        """
        if taken := self.try_acquire(wanted):
            return taken
        turn = way.turn()
        waiter = _Waiter(wanted, turn)
        self._join(order, waiter)
        try:
            with nullcontext() if on_stop is None else on_stop(lambda reason: self._stop(waiter, reason)):
                await turn.wait()
        except BaseException:  # a cancellation, or KeyboardInterrupt in the main thread
            self._leave(waiter)
            raise
        return self._granted(waiter)

    def release(self) -> None:
        """Give one slot back, to the first in line if somebody waits."""
        with self._lock:
            self._free += 1
            turn = self._hand_out() if self._line else None
        if turn is not None:
            turn.wake()

    def resize(self, limit: int) -> None:
        """Have another number of slots; who holds one that is now too many keeps it until it is given
        back.
        """
        turns: list[Turn] = []
        with self._lock:
            self._free += limit - self._limit
            self._limit = limit
            while self._free > 0 and self._first() is not None:
                turn = self._hand_out()
                if turn is not None:
                    turns.append(turn)
        for turn in turns:
            turn.wake()

    def _hand_out(self) -> Turn | None:
        """Give a free slot to the first in line; who is to be woken for it."""
        waiter = self._first() if self._free > 0 else None
        if waiter is None:
            return None
        self._free -= 1
        waiter.granted += 1
        if waiter.granted == waiter.wanted:
            heapq.heappop(self._line)
        return waiter.turn if waiter.granted == 1 else None

    def close(self, reason: BaseException) -> None:
        """Let nobody in any more: who waits, and who comes later, gets `Closed`."""
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

    def _take_free(self, wanted: int) -> int:
        if self._closed is not None:
            return 0
        taken = max(0, min(self._free, wanted))
        self._free -= taken
        return taken

    def _join(self, order: Order, waiter: _Waiter) -> None:
        with self._lock:
            waiter.granted = self._take_free(waiter.wanted)  # some may have been given back just now
            if not waiter.granted and self._closed is None:
                heapq.heappush(self._line, (order, next(self._arrivals), waiter))
                return
        waiter.turn.wake()

    def _first(self) -> _Waiter | None:
        while self._line:
            waiter = self._line[0][2]
            if not waiter.gone:
                return waiter
            heapq.heappop(self._line)
        return None

    def _granted(self, waiter: _Waiter) -> int:
        with self._lock:
            waiter.gone = True
            if not waiter.granted and waiter.stopped is not None:
                raise Closed(waiter.stopped)
            if not waiter.granted:
                self.check()
            return waiter.granted

    def _stop(self, waiter: _Waiter, reason: BaseException) -> None:
        with self._lock:
            if not waiter.granted:
                waiter.gone, waiter.stopped = True, reason
        waiter.turn.wake()

    def _leave(self, waiter: _Waiter) -> None:
        with self._lock:
            waiter.gone = True
            granted = waiter.granted
        for _ in range(granted):
            self.release()


async def acquire_all(way: Way, chain: Sequence[Slots], order: Order, on_stop: OnStop | None = None) -> None:
    """Take a slot of each, innermost first; if that is cut short, none is kept."""
    for position, slots in enumerate(chain):
        try:
            await slots.acquire(way, order, on_stop=on_stop)
        except BaseException:
            release_all(chain[:position])
            raise


def try_acquire_all(chain: Sequence[Slots]) -> bool:
    """Take a slot of each if that needs no waiting, else none; whether they were taken."""
    for position, slots in enumerate(chain):
        if not slots.try_acquire():
            release_all(chain[:position])
            return False
    return True


def release_all(chain: Sequence[Slots]) -> None:
    """Give back a slot of each."""
    for slots in chain:
        slots.release()
