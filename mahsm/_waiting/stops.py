"""Stopping: callbacks that one function call reaches, and the reason of a stop."""

import threading
from collections.abc import Generator
from contextlib import contextmanager

from mahsm._waiting.here import Why, here
from mahsm._waiting.turns import StopCallback
from mahsm.errors import BudgetExceeded


class Decided(Exception):
    """`stop_when` has decided."""


class Outrun(Exception):
    """The item needs no answer of this call any more: another one has given it."""


def may_be_stopped(why: Why) -> None:
    """Let `why` say, in this context from now on, why the code that runs here was stopped."""
    here.set(here.get().stopped_by(why))


@contextmanager
def stopped_by(why: Why) -> Generator[None, None, None]:
    """Return a block in which `why` says why the code that runs here was stopped."""
    token = here.set(here.get().stopped_by(why))
    try:
        yield
    finally:
        here.reset(token)


def reason_here() -> BaseException | None:
    """Return why the code that runs here was stopped, if that is known; of several reasons, the innermost."""
    return next((reason for why in here.get().whys if isinstance(reason := why(), Exception)), None)


def word_of(reason: BaseException | None) -> str:
    """Return the reason of a stop in one word."""
    words = {
        Decided: "stop_when",
        Outrun: "hedge",
        BudgetExceeded: "budget",
        TimeoutError: "timeout",
        Exception: "error",
    }
    return next((word for kind, word in words.items() if isinstance(reason, kind)), "cancelled")


class StopCallbacks:
    """Callbacks to call when something is stopped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: list[StopCallback] = []
        self._reason: BaseException | None = None

    @property
    def reason(self) -> BaseException | None:
        """The reason of the stop, if it has come."""
        return self._reason

    def on_stop(self, stop: StopCallback) -> "_Registered":
        """Return a block in which `stop` is called at the stop; immediately if it has come already."""
        return _Registered(self, stop)

    def add(self, stop: StopCallback) -> None:
        """Call `stop` at the stop, until it is removed; immediately if the stop has come already."""
        with self._lock:
            self._stops.append(stop)
            reason = self._reason
        if reason is not None:
            stop(reason)

    def remove(self, stop: StopCallback) -> None:
        """Do not call `stop` any more."""
        with self._lock:
            self._stops.remove(stop)

    def stop(self, reason: BaseException) -> None:
        """Call all callbacks; the first reason stays."""
        with self._lock:
            self._reason = self._reason or reason
            stops = list(self._stops)
        for stop in stops:
            stop(reason)


class _Registered:
    """A block in which a callback is registered. It is a class and not a generator, which would cost more."""

    __slots__ = ("_stop", "_stops")

    def __init__(self, stops: StopCallbacks, stop: StopCallback) -> None:
        self._stops, self._stop = stops, stop

    def __enter__(self) -> None:
        self._stops.add(self._stop)

    def __exit__(self, *error: object) -> None:
        self._stops.remove(self._stop)
