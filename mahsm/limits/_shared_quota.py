"""Quotas that processes share in Redis, and the part of them that a process takes while Redis is down."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mahsm._common import MOST_SECONDS
from mahsm._redis import Down, Refused, Server, in_key
from mahsm.errors import LimitError
from mahsm.limits._line import Rates
from mahsm.limits._quota import LONGEST_DEBT
from mahsm.limits._scripts import GIVE, TAKE

HORIZON = 0.05
"""Seconds ahead for which places are given: what a process that is killed takes with it."""

TOLERANCE = 0.025
"""Seconds by which a caller of one process may be served before one of another that came earlier."""

_NO_BOUND = 1e15
_KEPT = 120.0
"""Seconds for which a full bucket is remembered, at least."""


class _Me:
    """The name of this process among those that share; a fork has another one."""

    def __init__(self) -> None:
        self._rename()
        os.register_at_fork(after_in_child=self._rename)

    def _rename(self) -> None:
        self.name = os.urandom(8).hex()


_me = _Me()


@dataclass(frozen=True)
class Places:
    """What was given to the first in a line.

    Attributes:
        delays: Seconds until each of them begins; those behind them got nothing.
        nap: Seconds after which the next one should ask again, if there is one.
        sharers: Processes that have asked in the last 15 seconds.
        pause: Seconds until a pause ends; 0 if there is none.
    """

    delays: list[float]
    nap: float
    sharers: int
    pause: float


class SharedQuota:
    """The quotas of one provider and key in Redis.

    What is given back is collected, and goes with the next question, or by `flush`.

    Args:
        server: The Redis.
        provider: The provider.
        key: A stable text of the key, if the provider has several buckets.
        rates: The rates.
        waits: What happens while Redis is down, for the log.
    """

    def __init__(self, server: Server, provider: str, key: str, rates: Rates, waits: str) -> None:
        self._server = server
        self._provider = provider
        self._definition = definition_of(rates)
        self._waits = waits
        place = f"mahsm:{{{in_key(provider)}{'/' if key else ''}{key}}}"
        self._keys = [place, *(f"{place}:{part}" for part in ("heads", "claims", "sharers"))]
        full = max(
            rates.burst / rates.rate if rates.rate else 0.0,
            rates.token_burst / rates.token_rate + LONGEST_DEBT if rates.token_rate else 0.0,
        )
        self._args: list[Any] = [
            self._definition,
            *map(float, (rates.rate or 0.0, rates.burst if rates.rate else _NO_BOUND)),
            *map(float, (rates.token_rate or 0.0, rates.token_burst if rates.token_rate else _NO_BOUND)),
            LONGEST_DEBT,
            int(1000 * min(2 * full + _KEPT, MOST_SECONDS)),
        ]
        self._requests = self._tokens = 0.0
        self._levels = ""

    @property
    def owes(self) -> bool:
        """True if something has been given back and not been sent."""
        return bool(self._requests or self._tokens)

    def give(self, requests: float, tokens: float) -> None:
        """Give back requests and tokens, or take more tokens, with the next question."""
        # NumPy's numbers, for one, are sent as texts that Redis cannot read.
        self._requests += float(requests)
        self._tokens += float(tokens)

    async def take(self, asked: Sequence[tuple[float, float]], *, may_wait: bool = True) -> Places:
        """Take places for the first in a line.

        Args:
            asked: For each its tokens, and the seconds since it came.
            may_wait: True if places that begin within the horizon are taken, False for those that begin now.

        Raises:
            Down: if Redis cannot be reached.
            LimitError: if another process has another limit for the provider, or if Redis refuses.
        """
        line = " ".join(f"{float(tokens)!r} {age:.6f}" for tokens, age in asked)
        back = self._taken_back()
        args = [*self._args, *back, _me.name, HORIZON, TOLERANCE, int(not may_wait), line, self._levels]
        try:
            theirs, levels, sharers, nap, pause, delays = await self._server.run(
                TAKE, self._keys, args, self._waits
            )
        except Down:
            self._keep(*back)
            raise
        except Refused as error:
            self._keep(*back)
            raise LimitError(f"the limit of {self._provider!r} cannot be shared: {error}.") from None
        if theirs != self._definition:
            raise LimitError(
                f"two limits for {self._provider!r} at {self._server.address}: RateLimit({self._definition}) "
                f"in this process, and RateLimit({theirs}) in another one. Define the same one in all "
                "processes, or wait 15 s after the last one with the other has ended."
            )
        self._levels = levels
        return Places(list(map(float, delays.split())), float(nap), int(sharers), float(pause))

    async def flush(self, pause: float = 0.0) -> None:
        """Send what was given back; with `pause`, admit nothing for so many seconds.

        Raises:
            Down: if Redis cannot be reached.
        """
        back = self._taken_back()
        try:
            await self._server.run(
                GIVE, self._keys, [*self._args, *back, float(pause), self._levels], self._waits
            )
        except Down:
            self._keep(*back)
            raise
        except Refused:
            # The next question says so to its caller.
            return

    def _taken_back(self) -> tuple[float, float]:
        back = self._requests, self._tokens
        self._requests = self._tokens = 0.0
        return back

    def _keep(self, requests: float, tokens: float) -> None:
        """Keep what could not be sent, if it takes more; what gives back may have come, and counts once."""
        self.give(min(0.0, requests), min(0.0, tokens))


@dataclass
class LocalPart:
    """The part of the quotas that a process takes while Redis is down: one of so many, empty at first.

    Attributes:
        rates: The rates of all of them.
        sharers: How many they are.
        since: When the part begins, by the event loop's clock; nothing is taken before.
    """

    rates: Rates
    sharers: int
    since: float
    _level: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def take(self, now: float, tokens: float) -> float:
        """Take one request and its tokens, if they are there.

        Returns:
            0 if they were; else the seconds until they are.
        """
        if now < self.since:
            return self.since - now
        self._refill(now)
        waits = [0.0]
        for place, (rate, burst) in enumerate(self._bounds()):
            want = min((1.0, tokens)[place], burst)
            if rate and self._level[place] < want:
                waits.append((want - self._level[place]) / rate)
        if max(waits) <= 1e-9:
            self._level[0] -= 1
            self._level[1] -= tokens
            return 0.0
        return max(waits)

    def give(self, requests: float, tokens: float) -> None:
        """Give back, or take more tokens."""
        self._level[0] += requests
        self._level[1] += tokens

    def owed(self, now: float) -> float:
        """Return the tokens that were used and not refilled yet, as a number <= 0."""
        self._refill(now)
        return min(0.0, self._level[1])

    def _refill(self, now: float) -> None:
        passed, self.since = max(0.0, now - self.since), max(now, self.since)
        for place, (rate, burst) in enumerate(self._bounds()):
            self._level[place] = min(burst, self._level[place] + passed * (rate or 0.0))

    def _bounds(self) -> list[tuple[float | None, float]]:
        part = max(1, self.sharers)
        pairs = (self.rates.rate, self.rates.burst), (self.rates.token_rate, self.rates.token_burst)
        return [(None if rate is None else rate / part, max(1.0, burst / part)) for rate, burst in pairs]


def definition_of(rates: Rates) -> str:
    """Return the rates as the arguments of a `RateLimit`, the same in all processes."""
    tokens = None if rates.token_rate is None else rates.token_rate * 60
    given = {
        "rps": rates.rate,
        "burst": None if rates.rate is None else rates.burst,
        "tpm": tokens,
        "token_burst": None if tokens is None else rates.token_burst,
    }
    return ", ".join(f"{name}={float(value):.12g}" for name, value in given.items() if value is not None)
