"""How an edge run breaks off: one of its tasks raises the error, after all others have ended.

LangGraph shuts down when the first task raises. What another task hands in at that moment is lost, with an
error in the log ("cannot schedule new futures after shutdown"). So a task whose part has failed raises last,
and those that it stops end with an interrupt of no questions: LangGraph takes them for not done, and writes
nothing.
"""

import threading
from collections.abc import Generator
from contextlib import contextmanager

from mahsm._waiting import Turn, Way


class BreakOff:
    """The tasks of one edge run, as far as they have begun, and which of them raises."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._is_raised = False
        self._turn: Turn | None = None
        self.reason: BaseException | None = None
        """Why the run breaks off, if it does."""

    def stop(self, reason: BaseException) -> None:
        """The run breaks off; the first reason stays."""
        with self._lock:
            self.reason = self.reason or reason

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        """The block is a task that has begun."""
        with self._lock:
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                turn = self._turn if self._running <= 1 else None
            if turn is not None:
                turn.wake()

    def is_mine(self, error: BaseException, *, from_outside: bool) -> bool:
        """Whether the task that has ended with `error` is the one to raise it."""
        with self._lock:
            raises = not self._is_raised and (from_outside or error is self.reason)
            self._is_raised |= raises
        return raises

    async def wait(self, way: Way) -> None:
        """Wait until no other task runs."""
        turn = way.turn()
        with self._lock:
            self._turn = turn
            if self._running <= 1:
                return
        await turn.wait()
