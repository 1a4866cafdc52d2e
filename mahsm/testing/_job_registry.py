"""The batch jobs of a server, as its endpoints see them."""

import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mahsm.testing._answering import Answering
from mahsm.testing._batch_job import Entry, Job, Plan
from mahsm.testing._faults import Faults
from mahsm.testing._wire import Body, Vendor


@dataclass(frozen=True)
class Limits:
    """Limits of batch jobs; None for those of the provider.

    Attributes:
        enqueued_tokens: Input tokens of a model in all jobs that have not ended.
        max_requests: Requests of a job.
        max_bytes: Size of a batch file or submission.
    """

    enqueued_tokens: int | None = None
    max_requests: int | None = None
    max_bytes: int | None = None


class JobRegistry:
    """The jobs of a server, for the endpoints of all providers. Thread-safe.

    Args:
        usual: What happens to a job, unless the test has said something else.
        limits: Limits of jobs.
        expire_share: Share of each job's requests that expire.
        seed: Seed of what is random.
        clock: The clock, in seconds.

    Attributes:
        usual: What happens to a job, unless the test has said something else.
        limits: Limits of jobs.
        answering: Answers their requests.
        faults: Faults of their endpoints.
        offset: Seconds by which their clock is ahead.
    """

    answering: Answering

    def __init__(
        self, *, usual: Plan, limits: Limits, expire_share: float, seed: int, clock: Callable[[], float]
    ) -> None:
        self.usual = usual
        self.limits = limits
        self.faults = Faults()
        self.offset = 0.0
        self._expire_share = expire_share
        self._seed = seed
        self._clock = clock
        self._epoch = time.time() - clock()
        self._random = random.Random(seed)
        self._scripted: deque[Plan] = deque()
        self._jobs: dict[str, Job] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def now(self) -> float:
        """Return the time by the clock of the jobs."""
        return self._clock() + self.offset

    def date(self, at: float) -> float:
        """Return a time as seconds since the epoch."""
        return self._epoch + at

    def script(self, plan: Plan) -> None:
        """Say what happens to the next job for which that is still open."""
        self._scripted.append(plan)

    def plan(self) -> Plan:
        """Return what happens to the next job."""
        with self._lock:
            return self._scripted.popleft() if self._scripted else self.usual

    def add(self, vendor: Vendor, entries: Sequence[Entry], plan: Plan, details: Body) -> Job:
        """Create a job."""
        with self._lock:
            plan, order = self._expiring(plan, len(entries))
            id = f"{'msgbatch' if vendor == 'anthropic' else 'batch'}_{next(self._numbers):08d}"
            job = Job(id, vendor, entries, plan, self.answering, self.now(), details, order)
            self._jobs[id] = job
        return job

    def _expiring(self, plan: Plan, total: int) -> tuple[Plan, Sequence[int]]:
        """Return the plan of a job with the share that expires, and the order of its answers."""
        order, expiring = list(range(total)), round(total * self._expire_share)
        if plan.ends is not None or expiring == 0:
            return plan, order
        self._random.shuffle(order)
        return replace(plan, ends="expired", after=total - expiring), order

    def shuffled(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return results in the order in which a provider sends them: any order."""
        mixed = list(entries)
        random.Random(self._seed).shuffle(mixed)
        return mixed

    def all(self, vendor: Vendor | None = None) -> list[Job]:
        """Return the jobs in order of submission."""
        with self._lock:
            return [job for job in self._jobs.values() if vendor in (None, job.vendor)]

    def get(self, id: str) -> Job:
        """Return a job.

        Raises:
            KeyError: if there is no such job.
        """
        with self._lock:
            if id not in self._jobs:
                raise KeyError(f"BatchJobs: no job {id!r}; there are {list(self._jobs)!r}")
            return self._jobs[id]

    def updated(self, id: str, *, wait: bool = True) -> Job:
        """Return a job as it is now."""
        job = self.get(id)
        job.update(self.now(), wait=wait)
        return job

    def update(self) -> None:
        """Bring every job to where it is now."""
        for job in self.all():
            job.update(self.now())
