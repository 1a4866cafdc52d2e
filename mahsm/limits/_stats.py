"""Statistics of a bucket."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LimitStats:
    """Statistics of the bucket of one provider and key.

    Attributes:
        admitted: Calls that were admitted and made.
        waited: Those of them that waited longer than a millisecond.
        waiting: Calls in line now.
        given_back: Calls that were admitted and then not made.
        wait_p50: Median wait of the last 1,024 calls, in seconds.
        wait_p95: 95th percentile of their waits, in seconds.
        wait_max: Longest of their waits, in seconds.
        pauses: Number of times that the provider asked to slow down.
        paused: Seconds of pause in all, overlaps counted once.
        settled_tokens: Tokens that calls have really used.
    """

    admitted: int
    waited: int
    waiting: int
    given_back: int
    wait_p50: float
    wait_p95: float
    wait_max: float
    pauses: int
    paused: float
    settled_tokens: float


@dataclass
class Counts:
    """The counts of a bucket, on its loop."""

    admissions: int = 0
    waited: int = 0
    given_back: int = 0
    pauses: int = 0
    paused_for: float = 0.0
    settled: float = 0.0
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=1024))

    def admitted(self, wait: float) -> None:
        self.admissions += 1
        self.waited += wait > 0.001
        self.waits.append(wait)

    def gave_back(self) -> None:
        self.admissions -= 1
        self.given_back += 1

    def paused(self, seconds: float) -> None:
        self.pauses += 1
        self.paused_for += seconds

    def stats(self, waiting: int) -> LimitStats:
        waits = sorted(self.waits) or [0.0]
        return LimitStats(
            admitted=self.admissions,
            waited=self.waited,
            waiting=waiting,
            given_back=self.given_back,
            wait_p50=waits[(len(waits) - 1) // 2],
            wait_p95=waits[round((len(waits) - 1) * 0.95)],
            wait_max=waits[-1],
            pauses=self.pauses,
            paused=self.paused_for,
            settled_tokens=self.settled,
        )
