"""Threads that are used again, for callers that bound their own calls.

A `ThreadPoolExecutor` keeps as many threads as it is told, and from Python 3.12 on it makes further ones
while others are idle. Here a thread that has ended its call waits some seconds for another one; a new thread
is made only if none waits. The scheme is that of trio's thread cache.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

IDLE = 10.0
"""Seconds that a thread waits for another call."""


class _Worker:
    """A thread.

    Args:
        idle: Those that wait for a call, this one among them when it does.
    """

    # A worker is in `idle` only while it waits for `_ready`. Whoever takes it out of there sets its call and
    # releases `_ready`, once. A worker that has waited too long takes itself out; if it is not in there any
    # more, somebody else was quicker, and its call comes.

    def __init__(self, idle: "deque[_Worker]") -> None:
        self._idle = idle
        self._call: Callable[[], None] | None = None
        self._ready = threading.Lock()
        self._ready.acquire()
        threading.Thread(target=self._work, name="mahsm-step", daemon=True).start()

    def begin(self, call: Callable[[], None]) -> None:
        """Make a call in the thread."""
        self._call = call
        self._ready.release()

    def _work(self) -> None:
        while True:
            if self._ready.acquire(timeout=IDLE):
                call, self._call = self._call, None
                assert call is not None
                call()
                del call
                self._idle.append(self)
                continue
            try:
                self._idle.remove(self)
            except ValueError:
                continue
            return


class Threads(Executor):
    """An executor without a bound, whose idle threads are used again."""

    def __init__(self) -> None:
        self._idle: deque[_Worker] = deque()
        os.register_at_fork(after_in_child=self._idle.clear)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Call a function in a thread."""
        future: Future[T] = Future()

        def call() -> None:
            if future.set_running_or_notify_cancel():
                _run(future, lambda: fn(*args, **kwargs))

        self.start(call)
        return future

    def start(self, call: Callable[[], None]) -> None:
        """Make a call in a thread; it must not raise."""
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker(self._idle)
        worker.begin(call)


def _run(future: "Future[Any]", function: Callable[[], Any]) -> None:
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001  it is raised where the result is awaited
        future.set_exception(error)
    else:
        future.set_result(result)


shared_threads = Threads()
"""The threads of the process."""
