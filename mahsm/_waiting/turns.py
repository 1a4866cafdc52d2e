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

    async def wait(self) -> None:
        await self._future

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

    def wait(self, timeout: float | None = None) -> None:
        self._event.wait(timeout)

    def wake(self) -> None:
        self._event.set()


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class Latch:
    """Is closed until it is opened, once; tasks and threads can wait for that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: list[Turn] = []
        self._is_open = False

    def open(self) -> None:
        with self._lock:
            self._is_open = True
            turns, self._turns = self._turns, []
        for turn in turns:
            turn.wake()

    async def wait_async(self, on_stop: OnStop) -> None:
        """Wait on the running event loop, until it is open or the wait is stopped."""
        turn = TaskTurn()
        if self._joined(turn):
            with on_stop(lambda _: turn.wake()):
                await turn.wait()

    def wait(self, on_stop: OnStop) -> None:
        """Wait in this thread, until it is open or the wait is stopped."""
        turn = ThreadTurn()
        if self._joined(turn):
            with on_stop(lambda _: turn.wake()):
                turn.wait()

    def _joined(self, turn: Turn) -> bool:
        with self._lock:
            if not self._is_open:
                self._turns.append(turn)
            return not self._is_open
