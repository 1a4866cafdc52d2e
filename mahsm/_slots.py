"""Slots: a counting semaphore that serves waiters in order, across threads and event loops."""

import asyncio
import heapq
import itertools
import threading
from collections.abc import Sequence

Order = tuple[int, ...]


class Closed(Exception):
    """Nobody gets a slot any more; `reason` is what ended the work."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(f"closed by {reason!r}")
        self.reason = reason


class _Waiter:
    """One caller in the line, who wants `wanted` slots and takes what there is when its turn comes.

    `granted` and `gone` change under the lock of its `Slots`.
    """

    __slots__ = ("gone", "granted", "wanted")

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.granted = 0
        self.gone = False

    def wake(self) -> None:
        raise NotImplementedError


class _Task(_Waiter):
    """A task of the running event loop."""

    __slots__ = ("_loop", "_thread", "turn")

    def __init__(self, wanted: int) -> None:
        super().__init__(wanted)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.turn: asyncio.Future[None] = self._loop.create_future()

    def wake(self) -> None:
        if threading.get_ident() == self._thread:
            _settle(self.turn)
        else:
            self._loop.call_soon_threadsafe(_settle, self.turn)


class _Thread(_Waiter):
    """A thread that blocks."""

    __slots__ = ("turn",)

    def __init__(self, wanted: int) -> None:
        super().__init__(wanted)
        self.turn = threading.Event()

    def wake(self) -> None:
        self.turn.set()


class Slots:
    """At most `limit` slots are held at once; who waits with the lowest `order` is next.

    `order` is the path of an item through nested edges, such as `(3, 0)` for the first item inside the fourth. Lower paths
    first means that what was begun is finished before something new is begun. One caller can take several slots at once:
    when many are given back together, they all go to the first in line and not one to each.

    Args:
        limit: How many slots there are, >= 1.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit  # more than 0 only while nobody waits
        self._lock = threading.Lock()
        self._line: list[tuple[Order, int, _Waiter]] = []
        self._arrivals = itertools.count()
        self._closed: BaseException | None = None

    @property
    def free(self) -> int:
        """Slots that nobody holds."""
        return self._free

    def try_acquire(self, wanted: int = 1) -> int:
        """Take up to `wanted` slots if that needs no waiting; how many were taken."""
        with self._lock:
            return self._take_free(wanted)

    async def acquire_async(self, order: Order, wanted: int = 1) -> int:
        """Take 1 to `wanted` slots, waiting in line on the running event loop; how many were taken.

        Raises:
            Closed: when the slots have been closed.
        """
        if taken := self.try_acquire(wanted):
            return taken
        waiter = _Task(wanted)
        self._join(order, waiter)
        try:
            await waiter.turn
        except BaseException:
            self._leave(waiter)
            raise
        return self._granted(waiter)

    def acquire(self, order: Order, wanted: int = 1) -> int:
        """Take 1 to `wanted` slots, blocking this thread in line; how many were taken.

        Raises:
            Closed: when the slots have been closed.
        """
        if taken := self.try_acquire(wanted):
            return taken
        waiter = _Thread(wanted)
        self._join(order, waiter)
        try:
            waiter.turn.wait()
        except BaseException:  # KeyboardInterrupt in the main thread
            self._leave(waiter)
            raise
        return self._granted(waiter)

    def release(self) -> None:
        """Give one slot back, to the first in line if somebody waits."""
        with self._lock:
            waiter = self._first()
            if waiter is None:
                self._free += 1
                return
            waiter.granted += 1
            if waiter.granted == waiter.wanted:
                heapq.heappop(self._line)
            wake = waiter.granted == 1
        if wake:
            waiter.wake()

    def close(self, reason: BaseException) -> None:
        """Let nobody in any more: who waits, and who comes later, gets `Closed`."""
        with self._lock:
            self._closed = self._closed or reason
            waiting = [waiter for _, _, waiter in self._line if not waiter.gone and not waiter.granted]
            self._line.clear()
        for waiter in waiting:
            waiter.wake()

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
        taken = min(self._free, wanted)
        self._free -= taken
        return taken

    def _join(self, order: Order, waiter: _Waiter) -> None:
        with self._lock:
            waiter.granted = self._take_free(waiter.wanted)  # some may have been given back just now
            if not waiter.granted and self._closed is None:
                heapq.heappush(self._line, (order, next(self._arrivals), waiter))
                return
        waiter.wake()

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
            if not waiter.granted:
                self.check()
            return waiter.granted

    def _leave(self, waiter: _Waiter) -> None:
        with self._lock:
            waiter.gone = True
            granted = waiter.granted
        for _ in range(granted):
            self.release()


async def acquire_all_async(chain: Sequence[Slots], order: Order) -> None:
    """Take a slot of each, innermost first; if that is cut short, none is kept."""
    for position, slots in enumerate(chain):
        try:
            await slots.acquire_async(order)
        except BaseException:
            release_all(chain[:position])
            raise


def acquire_all(chain: Sequence[Slots], order: Order) -> None:
    """The blocking twin of `acquire_all_async`, for threads."""
    for position, slots in enumerate(chain):
        try:
            slots.acquire(order)
        except BaseException:
            release_all(chain[:position])
            raise


def release_all(chain: Sequence[Slots]) -> None:
    """Give back a slot of each."""
    for slots in chain:
        slots.release()


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
