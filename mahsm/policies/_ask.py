"""What an attempt asks of a budget that processes share."""

from typing import Protocol

from mahsm._waiting import Turn
from mahsm.errors import LimitError

Bounds = tuple[float | None, float | None, float | None]
"""The most US dollars, tokens and calls."""


class Ask:
    """An attempt that wants to begin. Changes on the account's loop only."""

    __slots__ = ("bounds", "call", "failure", "gone", "may", "turn")

    def __init__(self, bounds: Bounds, call: "Call | None", turn: Turn) -> None:
        self.bounds = bounds
        self.call = call
        self.turn = turn
        self.may: bool | None = None
        self.gone = False
        self.failure: LimitError | None = None

    @property
    def kind(self) -> tuple[Bounds, bool]:
        return self.bounds, self.call is not None


class Call(Protocol):
    """A call that an attempt is going to make."""

    def count(self) -> None:
        """Note that it counts: it may be made."""
        ...

    def release(self) -> None:
        """Give it back, if it counts and has not been made."""
        ...
