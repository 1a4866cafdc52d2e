"""Turns: waits of a task or of a thread, which the waking side need not tell apart."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

StopCallback = Callable[[BaseException], object]
OnStop = Callable[[StopCallback], AbstractContextManager[None]]
"""Returns a block in which a callback is registered that is called on a stop."""


class Turn:
    """A caller that waits until it is woken, from any thread."""

    __slots__ = ()

    async def wait(self, timeout: float | None = None) -> None:
        """Wait until woken, or until `timeout` seconds are over."""
        raise NotImplementedError

    def wake(self) -> None:
        """Let the caller go on."""
        raise NotImplementedError


class TaskTurn(Turn):
    """A task of the running event loop."""

    __slots__ = ("_future", "_loop", "_thread")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._future: asyncio.Future[None] = self._loop.create_future()

    async def wait(self, timeout: float | None = None) -> None:
        if timeout is None:
            await self._future
            return
        timer = self._loop.call_later(timeout, _settle, self._future)
        try:
            await self._future
        finally:
            timer.cancel()

    def wake(self) -> None:
        if threading.get_ident() == self._thread:
            _settle(self._future)
        else:
            # The loop may be closed, if the caller ended with it while it waited.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_settle, self._future)


class ThreadTurn(Turn):
    """A thread that blocks."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    async def wait(self, timeout: float | None = None) -> None:
        # Blocks the thread, and never suspends the coroutine: see `ways`.
        self._event.wait(timeout)

    def wake(self) -> None:
        self._event.set()


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
