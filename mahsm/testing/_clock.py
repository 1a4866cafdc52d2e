"""`Clock`: a fake clock, which moves on only when the event loop has nothing to do."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from mahsm.limits._internal import limits_on

T = TypeVar("T")

_PATIENCE = 60
"""Seconds of real time that the loop waits for its threads when it has no timer."""


class Clock:
    """A fake clock, for tests of rate limits: an hour of waiting takes no time.

    `run` works like `asyncio.run`, on an event loop whose time stands still while it has anything to do, and
    then jumps to the next timer. Inside `run`, rate limits, back-off, pauses after a 429, `timeout=` and
    `asyncio.sleep` follow this clock, so the times of a run are exact and reproducible. Each `run` starts
    with fresh rate limits; those of the process are restored when it ends.

    Use it with `ainvoke` and async targets: the clock does not stand still for work in threads. `deadline=`,
    `hedge=` and durations in traces follow the real clock. A process can run one `Clock` at a time.

    Attributes:
        now: Seconds that have passed in all runs of this clock.

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
        """Run a coroutine like `asyncio.run`, on the time of this clock.

        Args:
            coroutine: The coroutine, such as `edge.ainvoke(state)`.

        Returns:
            The coroutine's result.

        Raises:
            RuntimeError: if an event loop is already running in this thread; or if the coroutine waits for
                something that never happens.
        """
        with asyncio.Runner(loop_factory=lambda: _Loop(self)) as runner, limits_on(runner.get_loop()):
            return runner.run(coroutine)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop on the time of a `Clock`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        super().__init__(_Selector(clock))

    def time(self) -> float:
        return self._clock.now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for threads without a timeout: on this clock it would expire immediately."""
        await super().shutdown_default_executor()


class _Selector(selectors.SelectSelector):
    """A selector that moves the clock forward where the loop would sleep."""

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
        # While the loop is busy, a step takes a nanosecond: code that compares times relies on it.
        self._clock.now += timeout if timeout and not events else 1e-9
        return events
