"""Stopping what runs: one function call reaches everything that has asked for it; and what says why it
was.
"""

import threading
from collections.abc import Generator
from contextlib import contextmanager

from mahsm._waiting.here import Why, here
from mahsm._waiting.turns import StopCallback
from mahsm.errors import BudgetExceeded


class Decided(Exception):
    """`stop_when` has seen enough."""


class Outrun(Exception):
    """The item needs no answer of this call any more: another one has given it."""


def may_be_stopped(why: Why) -> None:
    """What runs in this context from now on may be stopped; `why` says for what reason."""
    here.set(here.get().stopped_by(why))


@contextmanager
def stopped_by(why: Why) -> Generator[None, None, None]:
    """The same, of the block."""
    token = here.set(here.get().stopped_by(why))
    try:
        yield
    finally:
        here.reset(token)


def reason_here() -> BaseException | None:
    """Why what runs here was stopped, as far as that is known: of a cancellation, the innermost one."""
    return next((reason for why in here.get().whys if isinstance(reason := why(), Exception)), None)


def word_of(reason: BaseException | None) -> str:
    """Why something was stopped, in a word."""
    words = {
        Decided: "stop_when",
        Outrun: "hedge",
        BudgetExceeded: "budget",
        TimeoutError: "timeout",
        Exception: "error",
    }
    return next((word for kind, word in words.items() if isinstance(reason, kind)), "cancelled")


class StopCallbacks:
    """What is to be called when something is stopped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: list[StopCallback] = []
        self._reason: BaseException | None = None

    @property
    def reason(self) -> BaseException | None:
        """Why it was stopped, if it was."""
        return self._reason

    @contextmanager
    def on_stop(self, stop: StopCallback) -> Generator[None, None, None]:
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
