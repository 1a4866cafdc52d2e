"""Slots of callers that are known before they come, and go on in order, whichever thread comes first."""

import heapq
from collections import deque
from collections.abc import Iterable

from mahsm._waiting.slots import Order, Slots, Waiter

_PATIENCE = 5.0
"""Seconds after which callers that have not come are no longer expected, since they may have been cancelled
before they began."""


class SlotsInOrder(Slots):
    """Slots that a caller gets only when all expected callers of lower order have come.

    A pool starts threads in order, but the system may run a later one first. With plain slots, that one would
    find a free slot, and overtake the others.
    """

    # `_free` may be above 0 while the first in line waits for an expected caller. `try_acquire` then takes
    # nothing, and whoever comes hands the free slots out. When nobody is expected, the invariant of `Slots`
    # holds again.

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._expected: deque[Order] = deque()
        self._missing: set[Order] = set()

    def expect(self, orders: Iterable[Order]) -> None:
        """Expect callers, ascending, above those that were expected before."""
        given = list(orders)
        with self._lock:
            self._expected.extend(given)
            self._missing.update(given)

    def has_come(self, order: Order) -> None:
        """Let others not wait for a caller, whether it has taken a slot or takes none."""
        if not self._expected:
            return
        with self._lock:
            self._come(order)
            turns = self._hand_out_free()
        for turn in turns:
            turn.wake()

    def try_acquire(self, wanted: int = 1) -> int:
        return 0 if self._expected else super().try_acquire(wanted)

    def _join(self, order: Order, waiter: Waiter) -> None:
        with self._lock:
            self._come(order)
            closed = self._closed is not None
            if not closed:
                heapq.heappush(self._line, (order, next(self._arrivals), waiter))
            turns = [waiter.turn] if closed else self._hand_out_free()
        for turn in turns:
            turn.wake()

    def _first(self) -> Waiter | None:
        first = super()._first()
        return None if first and self._expected and self._line[0][0] > self._expected[0] else first

    async def _wait(self, waiter: Waiter) -> None:
        if self._expected:
            await waiter.turn.wait(_PATIENCE)
            if not waiter.granted and not waiter.gone:
                for order in list(self._expected):
                    self.has_come(order)
        await waiter.turn.wait()

    def _come(self, order: Order) -> None:
        self._missing.discard(order)
        while self._expected and self._expected[0] not in self._missing:
            self._expected.popleft()
