"""Concurrency that adapts to the rate limit of a provider."""

import threading

from mahsm._waiting import Slots

_FIRST = 8
"""Number of slots to begin with."""

_CUT = 0.9
"""Share of the slots that is kept after a 429. Additive increase and multiplicative decrease, like TCP's
(Chiu and Jain, 1989); with this factor the concurrency swings between 90 and 100 % of what the provider
takes."""

_KNOWN, _QUICKER = 0.95, 4
"""Below this share of the level at which the last 429 came, slots grow so many times as fast, since the
provider has taken that level before."""


class Adaptive:
    """Grows and cuts the slots of one edge run.

    Until the first 429, every success adds a slot while all slots are in use, which doubles their number in
    the time of a call. After it, they grow by one in the time of a call, or by four well below the level of
    the 429. A 429 cuts them, but only once per round: calls that began before the last cut say nothing about
    its effect.

    Args:
        slots: The slots to resize.
        least: Their least number, >= 1.
        most: Their greatest number.
        first: Their number at the beginning; None for a few.
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
        """Take note of a call that succeeded."""
        with self._lock:
            # While a slot is free, more of them would change nothing.
            if self._slots.free > 0 or self.limit >= self._most:
                return
            self.limit = min(self._most, self.limit + self._growth)
            self._slots.resize(int(self.limit))

    def limited(self, began: int) -> None:
        """Take note of a call that got a 429, and that began after `began` cuts."""
        with self._lock:
            if began != self.cuts:
                return
            self.cuts += 1
            self._refused = self.limit
            self.limit = max(self._least, self.limit * _CUT)
            self._slots.resize(int(self.limit))

    @property
    def _growth(self) -> float:
        """The number of slots that one success adds."""
        if self.cuts == 0:
            return 1.0
        return (_QUICKER if self.limit < _KNOWN * self._refused else 1.0) / self.limit
