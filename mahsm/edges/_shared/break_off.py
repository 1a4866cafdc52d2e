"""The end of an edge run after an error: one of its tasks raises the error, after all others have ended.

LangGraph shuts down when the first task raises. What another task hands in at that moment is lost, with an
error in the log ("cannot schedule new futures after shutdown"). So the task that failed raises last, and the
tasks that it stops end with an interrupt without a question: LangGraph then treats them as unfinished, and
writes nothing.
"""

import threading

from mahsm._waiting import Turn, Way


class BreakOff:
    """The tasks of one edge run that have begun, and which of them raises the error."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._is_raised = False
        self._turn: Turn | None = None
        self.reason: BaseException | None = None
        """The error at which the run breaks off, if it does."""

    def stop(self, reason: BaseException) -> None:
        """Break off the run; the first reason stays."""
        with self._lock:
            self.reason = self.reason or reason

    def running(self) -> "_Running":
        """Return a block that is a task of the run."""
        return _Running(self)

    def begin(self) -> None:
        """Count a task that begins."""
        with self._lock:
            self._running += 1

    def end(self) -> None:
        """Count a task that ends."""
        with self._lock:
            self._running -= 1
            turn = self._turn if self._running <= 1 else None
        if turn is not None:
            turn.wake()

    def is_mine(self, error: BaseException, *, from_outside: bool) -> bool:
        """Return whether the task that has ended with `error` is the one to raise it; true once."""
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


class _Running:
    """A block that is a task of a run. It is a class and not a generator, since it runs for each task."""

    __slots__ = ("_tasks",)

    def __init__(self, tasks: BreakOff) -> None:
        self._tasks = tasks

    def __enter__(self) -> None:
        self._tasks.begin()

    def __exit__(self, *error: object) -> None:
        self._tasks.end()
