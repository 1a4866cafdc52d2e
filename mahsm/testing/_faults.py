"""Faults of a server's batch endpoints, which a test asks for in advance."""

import threading
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from mahsm.testing._wire import Refusal

Step: TypeAlias = Literal["upload", "submit", "status", "results", "cancel", "list"]
STEPS: tuple[Step, ...] = get_args(Step)


@dataclass(frozen=True)
class Fault:
    """A fault of one request.

    Attributes:
        refusal: The error that is answered; nothing else happens.
        share: If there is no such error: what was asked is done, but the connection is closed after this
            share of the answer's body; before any answer if it is 0.
    """

    refusal: Refusal | None = None
    share: float = 0.0


class Faults:
    """The faults that are still to come, and the number of requests of each step. Thread-safe."""

    def __init__(self) -> None:
        self._pending: dict[Step, deque[Fault]] = defaultdict(deque)
        self._answered: Counter[Step] = Counter()
        self._changed = threading.Condition()

    def add(self, step: Step, fault: Fault, times: int) -> None:
        """Let the next `times` requests of a step fail, after those that are already to fail."""
        if step not in STEPS:
            raise ValueError(f"BatchJobs: step={step!r}; expected one of {', '.join(map(repr, STEPS))}.")
        with self._changed:
            self._pending[step].extend([fault] * times)

    def take(self, step: Step) -> Fault | None:
        """Return the fault of the next request of a step, if there is one."""
        with self._changed:
            return self._pending[step].popleft() if self._pending[step] else None

    def answered(self, step: Step) -> None:
        """Count a request of a step."""
        with self._changed:
            self._answered[step] += 1
            self._changed.notify_all()

    def wait_for(self, step: Step, count: int, timeout: float) -> None:
        """Wait until `count` requests of a step have been answered."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._answered[step] >= count, timeout):
                raise TimeoutError(
                    f"BatchJobs: {self._answered[step]} requests of step {step!r} after {timeout:g} s; "
                    f"expected {count}."
                )
