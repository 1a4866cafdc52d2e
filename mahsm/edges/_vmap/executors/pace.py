"""How many items a part is to have."""

_SECONDS = 1.5
"""What a part is to take. It bounds what a cancellation waits for, and what the death of a worker repeats."""

_FIRST = 4
"""Items of the first parts, for each that may run at a time: their pace is not known yet."""

_BYTES = 4 * 1024 * 1024
"""What a part is to have at most, of items and of results, unless a single item has more."""


class Pace:
    """How many items a part is to have, by the seconds that parts took, and the bytes that they had.

    Args:
        share: How many items may run at a time in one worker.
    """

    def __init__(self, share: int) -> None:
        self._share = share
        self._rate = 0.0
        self._weight = 0.0

    def size(self, left: int, workers: int) -> int:
        """Return the items of the next part, given how many are left for so many workers."""
        wanted = _FIRST * self._share if not self._rate else max(self._share, round(self._rate * _SECONDS))
        return max(1, min(wanted, max(self._share, left // (4 * workers)), self.most))

    @property
    def most(self) -> int:
        """The most items of a part, by their bytes."""
        return max(1, int(_BYTES / max(self._weight, 1.0)))

    def weighed(self, items: int, size: int) -> bool:
        """Note the bytes of a part; return whether they are too many."""
        weight = size / items
        self._weight = max(weight, 0.8 * self._weight + 0.2 * weight)
        return items > 1 and size > 2 * _BYTES

    def took(self, items: int, seconds: float) -> None:
        """Note how long a part took."""
        rate = items / max(seconds, 1e-3)
        # Parts that wait in a worker make the pace look slower than it is, so it may fall only slowly.
        self._rate = rate if not self._rate else max(rate, 0.8 * self._rate + 0.2 * rate)
