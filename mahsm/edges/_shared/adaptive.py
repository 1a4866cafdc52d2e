"""Concurrency that finds out by itself what a provider takes."""

import threading

from mahsm._waiting import Slots

_FIRST = 8
"""Calls at once to begin with."""

_CUT = 0.9
"""What is kept after a 429. Additive increase and multiplicative decrease, as TCP's (Chiu and Jain, 1989);
with this factor the concurrency swings between 90 and 100 % of what the provider takes."""

_KNOWN, _QUICKER = 0.95, 4
"""Below this share of the level at which the last 429 came, slots grow so many times as fast: it has been
taken before."""


class Adaptive:
    """Grows and cuts the slots of one edge run.

    Until the first 429, every success adds one while all slots are in use, which doubles them in the time of
    a call; after it, the slots grow by one in the time of a call, or by four well below where it came. A 429
    cuts them, but only one per round: calls that had begun before the last cut say nothing about what came of
    it.

    Args:
        slots: The slots, which are resized.
        least: The fewest there may be, >= 1.
        most: The most there may be.
        first: How many there are at first, None for a few.
    """

    def __init__(self, slots: Slots, least: int, most: int, first: float | None = None) -> None:
        self._slots = slots
        self._least = least
        self._most = most
        self._lock = threading.Lock()
        self.limit = max(float(least), min(float(most), first or _FIRST))
        self.cuts: int = 0
        self._refused = float(most)
        self._slots.resize(int(self.limit))

    def succeeded(self) -> None:
        """A call has succeeded."""
        with self._lock:
            if self._slots.free > 0 or self.limit >= self._most:
                return  # more slots would change nothing
            self.limit = min(self._most, self.limit + self._growth)
            self._slots.resize(int(self.limit))

    def limited(self, began: int) -> None:
        """A call that began after so many cuts got a 429."""
        with self._lock:
            if began != self.cuts:
                return
            self.cuts += 1
            self._refused = self.limit
            self.limit = max(self._least, self.limit * _CUT)
            self._slots.resize(int(self.limit))

    @property
    def _growth(self) -> float:
        """What one success adds."""
        if self.cuts == 0:
            return 1.0
        return (_QUICKER if self.limit < _KNOWN * self._refused else 1.0) / self.limit
