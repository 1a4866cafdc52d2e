"""Turns: waits of a task or of a thread, which the waking side need not tell apart."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
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

    def join(self, futures: "dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]]") -> None:
        """Add what the caller awaits to that of its loop."""
        futures[self._loop].append(self._future)

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


def wake_all(turns: Iterable[Turn]) -> None:
    """Wake many callers, with one message to each event loop that they are on."""
    futures: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = defaultdict(list)
    for turn in turns:
        if isinstance(turn, TaskTurn):
            turn.join(futures)
        else:
            turn.wake()
    for loop, of_loop in futures.items():
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle_all, of_loop)


def _settle_all(futures: "Iterable[asyncio.Future[None]]") -> None:
    for future in futures:
        _settle(future)


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
