"""`cancelled_by`: a block of a task that a stop cancels, without a task of its own."""

import asyncio
from types import TracebackType
from typing import Any, cast

from mahsm._waiting.stops import StopCallbacks


class cancelled_by:
    """A block that is cancelled when one of these stops comes, and that then ends without an error.

    It works like `asyncio.timeout`: the running task is cancelled, and at the end of the block the
    cancellation is taken back, unless another one has come from outside. It is a class and not a generator,
    since it runs for each edge run.

    Args:
        stops: The stops, which may come from any thread.
    """

    # Invariant: the task is cancelled only while it is in the block. `_cancel` runs on its loop, so the
    # task is suspended then; if the block is still open, the task gets the `CancelledError` inside of it.

    __slots__ = ("_before", "_is_cancelled", "_is_open", "_loop", "_stops", "_task")

    def __init__(self, *stops: StopCallbacks) -> None:
        self._stops = stops
        self._is_open, self._is_cancelled = True, False

    def __enter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._before = self._task.cancelling()
        for stops in self._stops:
            stops.add(self._stop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._is_open = False
        for stops in self._stops:
            stops.remove(self._stop)
        if not self._is_cancelled:
            return False
        is_only_ours = self._task.uncancel() <= self._before
        return is_only_ours and isinstance(error, asyncio.CancelledError)

    def _stop(self, _: BaseException) -> None:
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._is_open and not self._is_cancelled:
            self._is_cancelled = True
            self._task.cancel()
