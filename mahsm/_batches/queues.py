"""The queue of a provider, which refuses jobs while too much is in it."""

from mahsm._batches.jobs import Job
from mahsm._common import MOST_SECONDS
from mahsm.policies import Retry

_MOST = 8
"""Most seconds between two submissions, in multiples of `poll`."""


class Queue:
    """The provider's queue for the jobs of one model.

    It is closed when it refuses a job because it is full. It opens when another job of the run that is in it
    ends. If there is none, it opens after a wait that doubles with each refusal, since then it is full of
    jobs that the run does not know. From the first refusal on, it takes the next job when the one before is
    accepted: a job that is refused has been uploaded for nothing.

    Args:
        poll: Seconds of the first wait.

    Attributes:
        refused: The jobs that were refused since it is closed.
    """

    def __init__(self, poll: float) -> None:
        base, cap = min(poll, MOST_SECONDS), min(_MOST * poll, MOST_SECONDS)
        # Without jitter: a wait below `poll` would be too short for any room.
        self._back_off = Retry(base=base, cap=cap, jitter=False)
        self._refusals = 0
        self._was_full = False
        self._has_timer = False
        self._inside: list[Job] = []
        self.refused: list[Job] = []

    @property
    def takes(self) -> bool:
        """True if a job may be submitted."""
        if self.refused:
            return False
        return not self._was_full or all(job.is_accepted for job in self._inside)

    def enter(self, job: Job) -> None:
        """Note that a job is going to be submitted, or is one of an earlier process."""
        self._inside.append(job)

    def accept(self) -> None:
        """Note that the provider has accepted a job: there is room, and waits begin anew."""
        self._refusals = 0

    def leave(self, job: Job, *, is_refused: bool) -> float | None:
        """Note that a job has ended, or was refused.

        Returns:
            Seconds after which to `open`, or None if there is nothing to wait for, or a job.
        """
        self._inside.remove(job)
        if is_refused:
            self._refusals += not self.refused
            self._was_full = True
            self.refused.append(job)
        elif self.refused and not self._has_timer:
            self.open()
        if not self.refused or self._inside or self._has_timer:
            return None
        self._has_timer = True
        return self._back_off.wait(self._refusals, None)

    def open(self) -> None:
        """Take jobs again."""
        self._has_timer = False
        self.refused = []
