"""Calls that are left behind: no caller waits for them, but they run on, since a thread cannot be stopped.

Such a call can begin nothing further. Its waits in line end, and its calls of models are refused. That also
holds for edges and threads inside it, which find the call in the context variable.
"""

import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

from mahsm._waiting.here import here
from mahsm._waiting.slots import Closed
from mahsm._waiting.stops import StopCallbacks
from mahsm._waiting.turns import StopCallback
from mahsm.errors import TooManyHanging

_LEAST = 32
"""Calls that any edge run may leave behind, however few it makes at the same time."""

_TIMES = 4
"""Calls that may be left behind for each call that may run at the same time."""


class LeftBehind:
    """Counts the calls that one edge run has left behind and that still run.

    Args:
        at_once: The number of calls that the run makes at the same time.
    """

    def __init__(self, at_once: int) -> None:
        self.most = max(_LEAST, _TIMES * at_once)
        # Calls in progress may be left behind, too, so there has to be room for all of them.
        self._room = self.most - at_once
        self._lock = threading.Lock()
        self._count = 0

    @property
    def count(self) -> int:
        """The number of calls that were left behind and have not ended."""
        return self._count

    def add(self, change: int) -> None:
        """Count calls that were left behind; or that have ended, if `change` is negative."""
        with self._lock:
            self._count += change

    def check(self, name: str) -> None:
        """Do nothing while further calls may be left behind.

        Raises:
            TooManyHanging: if a call that begins now might be one too many.
        """
        if self._count > self._room:
            raise TooManyHanging(
                f"{name}: {self._count} blocking calls were given up and hang, each in a thread; at most "
                f"{self.most} may. Give the client a timeout of its own, shorter than the edge's, or use an "
                "async target, which can be cancelled."
            )


class OwnCall:
    """One call in a thread of its own.

    Args:
        left: Counts the call when it is left behind.
    """

    def __init__(self, left: LeftBehind) -> None:
        self._left = left
        self._stops = StopCallbacks()
        self._lock = threading.Lock()
        self._state: Literal["new", "running", "ended"] = "new"
        self._is_left = False

    @property
    def reason(self) -> BaseException | None:
        """The reason why the call was left behind, if it was."""
        return self._stops.reason

    def on_stop(self, stop: StopCallback) -> AbstractContextManager[None]:
        """Return a block in which `stop` is called when the call is left behind, immediately if it was."""
        return self._stops.on_stop(stop)

    def leave(self, reason: BaseException) -> None:
        """Leave the call behind; of no effect if it has ended."""
        with self._lock:
            if self._state == "ended" or self._is_left:
                return
            self._is_left = True
            self._left.add(self._state == "running")
        self._stops.stop(reason)

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        """Return a block that is the call, which is left behind together with the call around it."""
        around = here.get().call
        token = here.set(here.get().in_call(self))
        with self._lock:
            self._state = "running"
            self._left.add(self._is_left)
        try:
            with nullcontext() if around is None else around.on_stop(self._stops.stop):
                yield
        finally:
            here.reset(token)
            with self._lock:
                self._state = "ended"
                self._left.add(-self._is_left)


def on_stop(stop: StopCallback) -> AbstractContextManager[None]:
    """Return a block in which `stop` is called when the call that runs here is left behind."""
    call = here.get().call
    return nullcontext() if call is None else call.on_stop(stop)


def is_left() -> bool:
    """Return whether the call that runs here has been left behind."""
    call = here.get().call
    return call is not None and call.reason is not None


def check() -> None:
    """Raise an error if the call that runs here has been left behind.

    Raises:
        Closed: with the reason.
    """
    call = here.get().call
    if call is not None and call.reason is not None:
        raise Closed(call.reason)
