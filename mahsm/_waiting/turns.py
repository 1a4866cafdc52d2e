"""Waiting for one's turn, as a task of an event loop or as a thread; who gives the turn need not know
which.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

StopCallback = Callable[[BaseException], object]
OnStop = Callable[[StopCallback], AbstractContextManager[None]]
"""Makes a block that is stopped by calling a function."""


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
            with suppress(RuntimeError):  # the loop is closed: the caller has gone without a word
                self._loop.call_soon_threadsafe(_settle, self._future)


class ThreadTurn(Turn):
    """A thread that blocks."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    async def wait(self, timeout: float | None = None) -> None:
        self._event.wait(timeout)  # It blocks, and never suspends.

    def wake(self) -> None:
        self._event.set()


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
