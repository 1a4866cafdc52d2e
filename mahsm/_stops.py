"""Stopping what runs: one function call reaches everything that has asked for it."""

import threading
from collections.abc import Generator
from contextlib import contextmanager

from mahsm._turns import Stop


class Stops:
    """What is to be called when something is stopped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: list[Stop] = []
        self._reason: BaseException | None = None

    @property
    def reason(self) -> BaseException | None:
        """Why it was stopped, if it was."""
        return self._reason

    @contextmanager
    def stoppable(self, stop: Stop) -> Generator[None, None, None]:
        """While the block runs, `stop` is called when the stop comes; at once if it has come already."""
        with self._lock:
            self._stops.append(stop)
            reason = self._reason
        if reason is not None:
            stop(reason)
        try:
            yield
        finally:
            with self._lock:
                self._stops.remove(stop)

    def stop(self, reason: BaseException) -> None:
        """Call them all; the first reason stays."""
        with self._lock:
            self._reason = self._reason or reason
            stops = list(self._stops)
        for stop in stops:
            stop(reason)
