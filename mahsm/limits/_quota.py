"""One token bucket: it refills at a rate, takes tokens back, and can be overdrawn."""

LONGEST_DEBT = 600.0
"""The most seconds in which a debt is paid off, during which a bucket admits no call. Providers count by the
minute, so older usage does not matter to them."""


class Quota:
    """At most `burst + rate * t` in any `t` seconds.

    It holds its level and the moment at which it had it. A debt, a level below 0, is paid off by refilling;
    one beyond `LONGEST_DEBT` is forgiven. Moments are those of one clock, in seconds.

    Args:
        rate: Tokens refilled per second, > 0.
        burst: Tokens that a full bucket holds, > 0.
        now: The present moment, at which the bucket is full.
    """

    __slots__ = ("_at", "_level", "_lowest", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level, self._at = burst, now
        self._lowest = -LONGEST_DEBT * rate

    def ready(self, amount: float, now: float) -> float:
        """Return the moment, not before `now`, from which on `amount` can be taken.

        For more than the bucket holds, it is the moment at which it is full.
        """
        self._fill(now)
        missing = min(amount, self.burst) - self._level
        return now if missing <= 0 else now + missing / self.rate

    def take(self, amount: float, at: float) -> None:
        """Take `amount` at a moment when it is ready; what exceeds a full bucket is owed."""
        self._fill(at)
        self._level = max(self._level - amount, self._lowest)

    def give(self, amount: float, now: float) -> None:
        """Give back tokens that were taken and not used; a negative amount takes more."""
        self._fill(now)
        self._level = max(min(self._level + amount, self.burst), self._lowest)

    def _fill(self, at: float) -> None:
        if at > self._at:
            self._level = min(self._level + (at - self._at) * self.rate, self.burst)
            self._at = at
