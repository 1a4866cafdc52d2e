"""The context variable of this package: the surroundings of code that waits.

It holds one immutable object and not four variables, because code that sets one of them often sets another,
and because a reader then finds all of them on one page.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Protocol

from mahsm._waiting.turns import StopCallback

Why = Callable[[], BaseException | None]
"""Returns why something was stopped, if it was."""


class Left(Protocol):
    """A call that may be left behind."""

    @property
    def reason(self) -> BaseException | None:
        """The reason why it was left behind, if it was."""
        ...

    def on_stop(self, stop: StopCallback) -> AbstractContextManager[None]:
        """Return a block in which `stop` is called when the call is left behind."""
        ...


class Here:
    """The surroundings of the code that runs here. Immutable.

    Attributes:
        whys: Functions that return why the code that runs here was stopped, from the inside out.
        call: The call in a thread of its own that runs here, if any.
        depth: The number of background loops that are, or may be, blocked by code that waits for a coroutine.
        awaited: True inside a call that an event loop awaits, where blocking may block the loop.
    """

    __slots__ = ("awaited", "call", "depth", "whys")

    def __init__(self, whys: tuple[Why, ...], call: Left | None, depth: int, *, awaited: bool) -> None:
        self.whys = whys
        self.call = call
        self.depth = depth
        self.awaited = awaited

    def stopped_by(self, why: Why) -> "Here":
        """Return a copy with one more function that says why the code was stopped."""
        return Here((why, *self.whys), self.call, self.depth, awaited=self.awaited)

    def in_call(self, call: Left) -> "Here":
        """Return a copy for the inside of a call in a thread of its own."""
        return Here(self.whys, call, self.depth, awaited=self.awaited)

    def waiting(self, depth: int, *, awaited: bool) -> "Here":
        """Return a copy for another loop or another thread."""
        return Here(self.whys, self.call, depth, awaited=awaited)


_NOTHING = Here((), None, 0, awaited=False)

here: ContextVar[Here] = ContextVar("mahsm_waiting", default=_NOTHING)
"""Set by `stops` (a block that may be stopped), `left_behind` (a call in a thread of its own) and `tasks` (a
background loop, a thread); read by these, and by traces, which show why a call was stopped."""


def set_awaited(awaited: bool) -> None:
    """Set whether an event loop awaits the code in this context from now on, or a thread blocks for it."""
    now = here.get()
    if now.awaited is not awaited:
        here.set(now.waiting(now.depth, awaited=awaited))
