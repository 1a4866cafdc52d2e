"""Slots: a counting semaphore that serves waiters in order, across threads and event loops."""

import asyncio
import heapq
import itertools
import threading
from collections.abc import Callable, Sequence

Order = tuple[int, ...]


class Closed(Exception):
    """Nobody gets a slot any more; `reason` is what ended the work."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(f"closed by {reason!r}")
        self.reason = reason


class _Waiter:
    """One caller in the queue. `granted` and `gone` change under the lock of its `Slots`."""

    __slots__ = ("gone", "granted", "wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake = wake
        self.granted = False
        self.gone = False


class Slots:
    """At most `limit` holders at once; the waiter with the lowest `order` is next.

    `order` is the path of an item through nested edges, such as `(3, 0)` for the first item inside the
    fourth. Lower paths first means that what was begun is finished before something new is begun.

    Args:
        limit: How many may hold a slot at once, >= 1.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._free = limit
        self._lock = threading.Lock()
        self._queue: list[tuple[Order, int, _Waiter]] = []
        self._arrivals = itertools.count()
        self._blocked: list[threading.Event] = []  # the threads among those in line
        self._closed: BaseException | None = None

    @property
    def free(self) -> int:
        """Slots that nobody holds."""
        return self._free

    def try_acquire(self) -> bool:
        """Take a slot if one is free and nobody is before us."""
        with self._lock:
            if self._free and not self._queue and self._closed is None:
                self._free -= 1
                return True
            return False

    async def acquire_async(self, order: Order) -> None:
        """Take a slot, waiting in line on the running event loop; once closed, until somebody cancels the wait."""
        if self.try_acquire():
            return
        loop = asyncio.get_running_loop()
        thread = threading.get_ident()
        granted: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if threading.get_ident() == thread:
                _settle(granted)
            else:
                loop.call_soon_threadsafe(_settle, granted)

        waiter = self._enqueue(order, wake)
        try:
            await granted
        except BaseException:
            self._leave(waiter)
            raise

    def acquire(self, order: Order) -> None:
        """Take a slot, blocking this thread in line.

        Raises:
            Closed: when the slots have been closed.
        """
        if self.try_acquire():
            return
        woken = threading.Event()
        waiter = self._enqueue(order, woken.set)
        self._blocked.append(woken)
        try:
            while not waiter.granted:
                if self._closed is not None:
                    raise Closed(self._closed)
                woken.wait()
        except BaseException:  # closed, or KeyboardInterrupt in the main thread
            self._leave(waiter)
            raise
        finally:
            self._blocked.remove(woken)

    def release(self) -> None:
        """Give a slot back, to the first in line if somebody waits."""
        with self._lock:
            waiter = self._next()
            if waiter is None:
                self._free += 1
                return
            waiter.granted = True
        waiter.wake()

    def close(self, reason: BaseException) -> None:
        """Let nobody in any more. Threads in line get `Closed`; tasks stay in line, since their group cancels them."""
        with self._lock:
            self._closed = self._closed or reason
            blocked = list(self._blocked)
        for woken in blocked:
            woken.set()

    def _enqueue(self, order: Order, wake: Callable[[], object]) -> _Waiter:
        waiter = _Waiter(wake)
        with self._lock:
            if self._free and not self._queue and self._closed is None:  # freed since try_acquire
                self._free -= 1
                waiter.granted = True
            else:
                heapq.heappush(self._queue, (order, next(self._arrivals), waiter))
                return waiter
        waiter.wake()
        return waiter

    def _next(self) -> _Waiter | None:
        while self._queue and self._closed is None:
            _, _, waiter = heapq.heappop(self._queue)
            if not waiter.gone:
                return waiter
        return None

    def _leave(self, waiter: _Waiter) -> None:
        with self._lock:
            waiter.gone = True
            granted = waiter.granted
        if granted:
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
