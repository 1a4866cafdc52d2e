"""`Clock`: time that passes only when there is nothing else to do."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from mahsm.limits._internal import limits_on

T = TypeVar("T")

_PATIENCE = 60
"""Seconds of the machine's clock that threads have when the loop waits for nothing else."""


class Clock:
    """A fake clock, for tests of rate limits: an hour of waiting takes no time.

    `run` is `asyncio.run` on an event loop whose time stands still while there is anything to do, and is then
    put forward to the next timer. In it, rate limits, back-off, pauses after a 429, `timeout=` and
    `asyncio.sleep` wait by this clock, so the times of a run are exact, and the same each time. Rate limits
    begin anew with each `run`, and those of the process are as they were when it ends.

    Use it with `ainvoke` and async targets: while a thread is at work, the clock goes on as if it had nothing
    to do. `deadline=`, `hedge=` and durations in traces are measured by the machine's clock. One clock runs
    at a time in a process.

    Attributes:
        now: Seconds that have passed, in all runs of this clock.

    Example:
        >>> from mahsm import RateLimit, vmap
        >>> from mahsm.testing import Clock
        >>> async def ask(state):
        ...     called.append(round(clock.now, 1))
        >>> limit = RateLimit("clock-example", rps=0.1, burst=2)
        >>> edge = vmap(ask, batch_key="questions", out_key="answers", rate_limit=limit)
        >>> clock, called = Clock(), []
        >>> _ = clock.run(edge.ainvoke({"questions": ["a?", "b?", "c?", "d?"]}))
        >>> called
        [0.0, 0.0, 10.0, 20.0]
    """

    def __init__(self) -> None:
        self.now: float = 0.0

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine as `asyncio.run` does, by this clock.

        Args:
            coroutine: What to run, such as `edge.ainvoke(state)`.

        Returns:
            What the coroutine returns.

        Raises:
            RuntimeError: if an event loop runs in this thread already; or if the coroutine waits for
                something that never happens.
        """
        with asyncio.Runner(loop_factory=lambda: _Loop(self)) as runner, limits_on(runner.get_loop()):
            return runner.run(coroutine)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that has its time from a `Clock`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        super().__init__(_Selector(clock))

    def time(self) -> float:
        return self._clock.now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for threads as long as it takes: a timeout by this clock would be over immediately."""
        await super().shutdown_default_executor()


class _Selector(selectors.SelectSelector):
    """Puts the clock forward where the loop would sleep."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout is None:
            events = super().select(_PATIENCE)
            if not events:
                raise RuntimeError(
                    "Clock.run: the coroutine waits for something that never happens: no timer is set, and "
                    f"no thread has called the loop for {_PATIENCE} s."
                )
        # While things happen time passes too, if only just: code that compares times relies on that.
        self._clock.now += timeout if timeout and not events else 1e-9
        return events
