"""An event loop whose time passes only when there is nothing else to do."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Idle(selectors.SelectSelector):
    """Where a loop would sleep, its clock is put forward."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events and timeout is None:
            events = super().select(10)  # a thread may be at work
        if not events and timeout is None:
            raise RuntimeError("nothing will ever happen here: everybody waits")
        self.now += timeout if timeout and not events else 1e-9  # a real clock moves too while things happen
        return events


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """`await asyncio.sleep(3600)` takes no time, and `time()` is an hour later."""

    def __init__(self) -> None:
        self._idle = _Idle()
        super().__init__(self._idle)

    def time(self) -> float:
        return self._idle.now


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in fake time."""
    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        return runner.run(coroutine)
