"""A batch job of a server: its requests, and the statuses that it passes through."""

import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from mahsm.testing._answering import Answering
from mahsm.testing._wire import Body, Vendor, Wire

Status: TypeAlias = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
]
Outcome: TypeAlias = Literal["succeeded", "errored", "expired", "cancelled"]


@dataclass
class Entry:
    """A request of a batch job, and its result.

    Attributes:
        custom_id: Its id in the job.
        wire: The API that it is for.
        body: The request.
        outcome: The kind of the result, or None before it has one.
        status: HTTP status of the answer, or 0 without one.
        answer: The body of the answer: bytes if it is not well-formed, or None without one.
    """

    custom_id: str
    wire: Wire
    body: Body
    outcome: Outcome | None = None
    status: int = 0
    answer: Body | bytes | None = None


@dataclass(frozen=True)
class Plan:
    """What happens to a job.

    Attributes:
        validation: Seconds in "validating".
        duration: Seconds in "in_progress", during which the requests are answered at an even pace.
        finalizing: Seconds in "finalizing".
        cancelling: Seconds in "cancelling".
        window: Seconds from its creation to its expiry.
        ends: The status in which the job ends early, or None.
        after: The number of answered requests at which it does.
        held: Answer nothing until `Job.finish`.
        errors: The errors that its validation finds.
    """

    validation: float = 0.0
    duration: float = 0.0
    finalizing: float = 0.0
    cancelling: float = 0.0
    window: float = 86_400.0
    ends: Literal["expired", "cancelled"] | None = None
    after: int = 0
    held: bool = False
    errors: Sequence[Body] = ()

    def failing(self, errors: Sequence[Body]) -> "Plan":
        """Return the plan of a job whose validation finds errors, unless there are none."""
        return replace(self, errors=errors) if errors else self


@dataclass
class Job:
    """A batch job.

    Its status follows the clock, but only `update` looks at it: requests are answered when they are due and
    the job is looked at. `lock` is held meanwhile, so a request is answered once.

    Attributes:
        id: Its id.
        vendor: The provider.
        entries: Its requests, in the order of submission.
        plan: What happens to it.
        answering: Answers its requests.
        created: When it was created, by the clock.
        details: What the provider's API adds to it, such as its metadata.
        order: Positions of the entries, in the order in which they are answered.
        status: Its status, in OpenAI's terms.
        times: When it has entered each status.
        outcomes: The number of entries with each kind of result.
    """

    id: str
    vendor: Vendor
    entries: Sequence[Entry]
    plan: Plan
    answering: Answering
    created: float
    details: Body
    order: Sequence[int]
    status: Status = "validating"
    times: dict[Status, float] = field(default_factory=dict["Status", float])
    outcomes: Counter[Outcome] = field(default_factory=Counter["Outcome"])
    lock: threading.RLock = field(default_factory=threading.RLock)
    _next: int = 0
    _hurried: bool = False
    _busy: bool = False

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "failed", "expired", "cancelled")

    @property
    def started(self) -> bool:
        """Return whether the job has passed its validation."""
        return "in_progress" in self.times

    def update(self, now: float, *, wait: bool = True) -> None:
        """Bring the job to where it is at a time.

        Args:
            now: The time.
            wait: Wait while another thread does so; otherwise, return immediately.
        """
        if not self.lock.acquire(blocking=wait):
            return
        # The answers may look at the job that they are for.
        busy, self._busy = self._busy, True
        try:
            while not busy and self._advance(now):
                pass
        finally:
            self._busy = busy
            self.lock.release()

    def finish(self, now: float) -> None:
        """Bring the job to its end, however long that would take."""
        with self.lock:
            self._hurried = True
            self.update(now)

    def cancel(self, now: float) -> bool:
        """Cancel the job, and return whether it was still possible."""
        with self.lock:
            self.update(now)
            if self.status in ("validating", "in_progress", "finalizing"):
                self._enter("cancelling", now)
            return self.status == "cancelling"

    def _advance(self, now: float) -> bool:
        """Go on to the next status, and return whether it was time."""
        steps: dict[Status, Callable[[float], bool]] = {
            "validating": self._validate,
            "in_progress": self._process,
            "finalizing": self._finalize,
            "cancelling": self._stop_cancelled,
        }
        step = steps.get(self.status)
        return step is not None and step(now)

    def _enter(self, status: Status, at: float) -> None:
        self.times[status] = at
        self.status = status

    def _passed(self, since: float, seconds: float, now: float) -> float | None:
        """Return when `seconds` have passed, or None if that is later than now."""
        at = now if self._hurried else since + seconds
        return at if at <= now else None

    def _validate(self, now: float) -> bool:
        at = self._passed(self.created, self.plan.validation, now)
        if at is None:
            return False
        self._enter("failed" if self.plan.errors else "in_progress", at)
        return True

    def _process(self, now: float) -> bool:
        closes = self.created + self.plan.window
        self._answer(self._due(min(now, closes)))
        at = self._reached(now)
        if self.plan.ends is not None and self._next >= self.plan.after:
            self._stop(self.plan.ends, at)
        elif self._next == len(self.entries):
            self._enter("finalizing", at)
        elif now >= closes:
            self._stop("expired", closes)
        else:
            return False
        return True

    def _due(self, now: float) -> int:
        """Return the number of requests that are due."""
        plan, total = self.plan, len(self.entries)
        limit = total if plan.ends is None else min(total, plan.after)
        if self._hurried:
            return limit
        if plan.held:
            return 0
        if plan.duration == 0:
            return limit
        passed = (now - self.times["in_progress"]) / plan.duration
        return min(limit, math.floor(total * passed + 1e-9))

    def _reached(self, now: float) -> float:
        """Return when the requests that are answered were due."""
        if self._hurried or self.plan.held or not math.isfinite(self.plan.duration):
            return now
        pace = self.plan.duration / max(1, len(self.entries))
        return min(now, self.times["in_progress"] + pace * self._next)

    def _answer(self, due: int) -> None:
        while self._next < due:
            entry = self.entries[self.order[self._next]]
            entry.status, entry.answer = self.answering.answer(
                entry.wire, entry.body, self.id, entry.custom_id
            )
            self._settle(entry, "succeeded" if entry.status < 400 else "errored")
            self._next += 1

    def _settle(self, entry: Entry, outcome: Outcome) -> None:
        entry.outcome = outcome
        self.outcomes[outcome] += 1

    def _finalize(self, now: float) -> bool:
        at = self._passed(self.times["finalizing"], self.plan.finalizing, now)
        if at is None:
            return False
        self._enter("completed", at)
        return True

    def _stop_cancelled(self, now: float) -> bool:
        at = self._passed(self.times["cancelling"], self.plan.cancelling, now)
        if at is None:
            return False
        self._stop("cancelled", at)
        return True

    def _stop(self, status: Literal["expired", "cancelled"], at: float) -> None:
        """End the job with the requests that are not answered."""
        for entry in self.entries:
            if entry.outcome is None:
                self._settle(entry, status)
        self._enter(status, at)
