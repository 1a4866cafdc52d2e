"""One token bucket: aiolimiter's, which can also take tokens back and be overdrawn."""

from aiolimiter import AsyncLimiter

LONGEST_DEBT = 600.0
"""The most seconds in which a debt is paid off, during which a bucket admits no call. Providers count by the
minute, so older usage does not matter to them."""


class Quota:
    """At most `burst + rate * t` in any `t` seconds. Belongs to the event loop that it is used on.

    Invariant: the true level is that of aiolimiter's bucket minus `_balance`. aiolimiter can neither take
    tokens back nor be overdrawn, so both are booked in the balance: positive if tokens were given back,
    negative if some are owed. A debt beyond `LONGEST_DEBT` is forgiven.

    Args:
        rate: Tokens refilled per second, > 0.
        burst: Tokens that a full bucket holds, > 0.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._limiter = self._full()
        self._balance = 0.0

    def has(self, amount: float) -> bool:
        """Return whether `amount` can be taken now; for more than the bucket holds, whether it is full."""
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
        """True if more was used than was taken."""
        return self._balance < 0

    async def pay(self) -> None:
        """Pay the debt, as soon as the tokens are there."""
        if self.owes:
            await self.wait(0)
            await self.take(0)

    async def take(self, amount: float) -> None:
        """Take `amount` without waiting, after `has(amount)`; what exceeds a full bucket is owed."""
        drawn = min(max(0.0, min(amount, self.burst) - self._balance), self.burst)
        await self._limiter.acquire(drawn)
        self._add(drawn - amount)

    def give(self, amount: float) -> None:
        """Give back tokens that were taken and not used; a negative amount takes more."""
        self._add(amount)
        self._cap()

    def _add(self, amount: float) -> None:
        self._balance = max(self._balance + amount, -LONGEST_DEBT * self.rate)

    def _cap(self) -> None:
        """Keep the bucket from holding more than `burst`, whatever is given back."""
        if self._balance > 0 and self._limiter.has_capacity(self.burst - self._balance):
            self._limiter, self._balance = self._full(), 0.0

    def _full(self) -> AsyncLimiter:
        return AsyncLimiter(self.burst, self.burst / self.rate)
