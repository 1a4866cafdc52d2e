"""One token bucket: aiolimiter's, which can also be given back to and overdrawn."""

from aiolimiter import AsyncLimiter

LONGEST_DEBT = 600.0
"""Seconds that paying off takes at most, in which a bucket lets nobody through. Providers count by the
minute, and have forgotten what is older."""


class Quota:
    """At most `burst + rate * t` in any `t` seconds. Belongs to the event loop that it is used on.

    aiolimiter keeps the level. What was given back, or is owed, stands beside it in `_balance`, so that the
    true level is the limiter's less the balance. What is owed beyond `LONGEST_DEBT` is forgiven.

    Args:
        rate: Refilled per second, > 0.
        burst: What a full bucket holds, > 0.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._limiter = self._full()
        self._balance = 0.0

    def has(self, amount: float) -> bool:
        """Whether `amount` can be taken now; one that the bucket cannot hold, whether it is full."""
        self._cap()
        return self._limiter.has_capacity(min(amount, self.burst) - self._balance)

    async def wait(self, amount: float) -> None:
        """Wait until `has(amount)`, without taking anything."""
        while not self.has(amount):
            part = min(min(amount, self.burst) - self._balance, self.burst)
            await self._limiter.acquire(part)
            self._balance += part

    @property
    def owes(self) -> bool:
        """Whether more was used than was taken."""
        return self._balance < 0

    async def pay(self) -> None:
        """Take what is owed, as soon as it is there."""
        if self.owes:
            await self.wait(0)
            await self.take(0)

    async def take(self, amount: float) -> None:
        """Take what `has(amount)` has said is there, at once; what the bucket cannot hold is owed."""
        drawn = min(max(0.0, min(amount, self.burst) - self._balance), self.burst)
        await self._limiter.acquire(drawn)
        self._add(drawn - amount)

    def give(self, amount: float) -> None:
        """Give back what was taken and not used; what was used beyond it is taken, with a negative amount."""
        self._add(amount)
        self._cap()

    def _add(self, amount: float) -> None:
        self._balance = max(self._balance + amount, -LONGEST_DEBT * self.rate)

    def _cap(self) -> None:
        """A bucket never holds more than `burst`, whatever is given back."""
        if self._balance > 0 and self._limiter.has_capacity(self.burst - self._balance):
            self._limiter, self._balance = self._full(), 0.0

    def _full(self) -> AsyncLimiter:
        return AsyncLimiter(self.burst, self.burst / self.rate)
