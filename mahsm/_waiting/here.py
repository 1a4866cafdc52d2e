"""What holds for code that waits here: the context variable of this package.

It is one immutable object and not four variables, because what sets one of them often sets another, and
because a reader then sees on one page what can hold.
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
        """Why nothing waits for it any more, if that is so."""
        ...

    def on_stop(self, stop: StopCallback) -> AbstractContextManager[None]:
        """While the block runs, `stop` is called when the call is left behind."""
        ...


class Here:
    """What holds here. Immutable.

    Attributes:
        whys: What may have stopped the code that runs here, from the inside out.
        call: The call in a thread of its own that this is in, if it is in one.
        depth: How many background loops are blocked, or may be, if a coroutine is waited for here.
        awaited: Whether this runs inside of a call that an event loop awaits, so that blocking may block the
            loop.
    """

    __slots__ = ("awaited", "call", "depth", "whys")

    def __init__(self, whys: tuple[Why, ...], call: Left | None, depth: int, *, awaited: bool) -> None:
        self.whys = whys
        self.call = call
        self.depth = depth
        self.awaited = awaited

    def stopped_by(self, why: Why) -> "Here":
        """The same, where something more may stop the code."""
        return Here((why, *self.whys), self.call, self.depth, awaited=self.awaited)

    def in_call(self, call: Left) -> "Here":
        """The same, inside of a call in a thread of its own."""
        return Here(self.whys, call, self.depth, awaited=self.awaited)

    def waiting(self, depth: int, *, awaited: bool) -> "Here":
        """The same, on another loop or in another thread."""
        return Here(self.whys, self.call, depth, awaited=awaited)


_NOTHING = Here((), None, 0, awaited=False)

here: ContextVar[Here] = ContextVar("mahsm_waiting", default=_NOTHING)
"""Set by `stops` (a block that may be stopped), `left_behind` (a call in a thread of its own) and `tasks` (a
background loop, a thread); read by the same, and by traces, which say why something was stopped."""


def set_awaited(awaited: bool) -> None:
    """From now on, in this context, an event loop awaits what runs here, or a thread blocks for it."""
    now = here.get()
    if now.awaited is not awaited:
        here.set(now.waiting(now.depth, awaited=awaited))
