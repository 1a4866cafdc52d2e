"""A run of a graph in which one learning edge does what it is told, and notes what it saw: for `train`."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from mahsm.edges._internal import current_item

Place: TypeAlias = tuple[tuple[int, ...], int]
"""The path of indices of the item in which an edge runs, and how often it has run there before. By it, the
runs of one example are compared."""


class Seen(NamedTuple):
    """What an edge saw when it ran.

    Attributes:
        place: Where it ran.
        value: The features of a router, the score of an answer, or the values of voters with the place of
            the winner.
    """

    place: Place
    value: Any


@dataclass(frozen=True)
class Trial:
    """One run. Edges beside the subject choose what they now think best, and explore nothing.

    Attributes:
        subject: What is tried: the chooser of an edge, or a vote; None for a run without one.
        option: What it is told: a target; or for a vote the value to return at each place, if there is one.
        seen: What the subject saw.
        asked: The targets that were asked in the run, with the choosers that asked them.
    """

    subject: object = None
    option: Any = None
    seen: list[Seen] = field(default_factory=list[Seen])
    asked: list[tuple[object, str]] = field(default_factory=list[tuple[object, str]])

    @contextmanager
    def here(self) -> Generator[None, None, None]:
        """Return a block in which graphs run as this trial."""
        token = _here.set(self)
        try:
            yield
        finally:
            _here.reset(token)

    def told(self, subject: object) -> Any:
        """Return the target that this edge is told to take; None if it is not the subject."""
        return self.option if self.subject is subject else None

    def saw(self, subject: object, place: Place, value: Any) -> None:
        """Note what an edge saw, if it is the subject."""
        if self.subject is subject:
            self.seen.append(Seen(place, value))

    def voted(self, vote: object, values: list[Any], winner: int) -> Any:
        """Note the values of voters; return the value that the vote has to return."""
        if self.subject is not vote:
            return values[winner]
        place = self.place()
        self.seen.append(Seen(place, (values, winner)))
        return values[winner] if self.option is None else self.option.get(place, values[winner])

    def place(self) -> Place:
        """Return where the caller runs. Calls of targets move on to their own items, so ask before them."""
        item = current_item()
        # The first index is that of the run among all runs.
        order = () if item is None else tuple(item.order)[1:]
        return order, sum(seen.place[0] == order for seen in self.seen)


_here: ContextVar[Trial | None] = ContextVar("mahsm_trial", default=None)
"""Set by `train` around each run; read by learning edges in it."""


def trial_here() -> Trial | None:
    return _here.get()
