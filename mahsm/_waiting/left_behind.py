"""Calls that are left behind: nobody waits for them any more, and they run on, since a thread cannot be
stopped.

Nothing further is done for such a call. Whatever it waits for in line is called off, and a model that it
wants to call is refused, in edges and threads inside of it too: both look at the context variable that says
in which call they are.
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
"""Calls that may be left behind by any edge run, however few it makes at once."""

_TIMES = 4
"""Calls that may be left behind for each that may be made at once."""


class LeftBehind:
    """How many calls one edge run has left behind that still run.

    Args:
        at_once: How many calls the run makes at once.
    """

    def __init__(self, at_once: int) -> None:
        self.most = max(_LEAST, _TIMES * at_once)
        self._room = self.most - at_once  # those that are being made may be left behind, too
        self._lock = threading.Lock()
        self._count = 0

    @property
    def count(self) -> int:
        """Calls that were left behind and have not ended."""
        return self._count

    def add(self, change: int) -> None:
        """So many more were left behind; or have ended, if negative."""
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
        left: Who counts it when it is left behind.
    """

    def __init__(self, left: LeftBehind) -> None:
        self._left = left
        self._stops = StopCallbacks()
        self._lock = threading.Lock()
        self._state: Literal["new", "running", "ended"] = "new"
        self._is_left = False

    @property
    def reason(self) -> BaseException | None:
        """Why nobody waits for it any more, if that is so."""
        return self._stops.reason

    def on_stop(self, stop: StopCallback) -> AbstractContextManager[None]:
        """While the block runs, `stop` is called when the call is left behind; at once if it has been."""
        return self._stops.on_stop(stop)

    def leave(self, reason: BaseException) -> None:
        """Wait no more for it; of no effect if it has ended."""
        with self._lock:
            if self._state == "ended" or self._is_left:
                return
            self._is_left = True
            self._left.add(self._state == "running")
        self._stops.stop(reason)

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        """The block is the call, which is left behind with the one around it."""
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
    """While the block runs, `stop` is called when the call that it is in is left behind."""
    call = here.get().call
    return nullcontext() if call is None else call.on_stop(stop)


def check() -> None:
    """Do nothing, unless the call that this is in has been left behind.

    Raises:
        Closed: if it has been.
    """
    call = here.get().call
    if call is not None and call.reason is not None:
        raise Closed(call.reason)
