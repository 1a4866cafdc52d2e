"""What chooses the next branch of an edge, or that there is none."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from typing_extensions import TypedDict

from mahsm._common import State
from mahsm._waiting import Way


class Step(TypedDict):
    """One decision. It is saved, so that a resumed run does not decide again.

    Attributes:
        next: The branch that runs next, or None if the update of the last one is that of the edge.
        note: What was decided, and why.
    """

    next: str | None
    note: dict[str, Any]


class Asked(NamedTuple):
    """A branch that has run.

    Attributes:
        step: The decision for it.
        update: Its update.
    """

    step: Step
    update: State


@dataclass(frozen=True)
class Situation:
    """What a chooser decides by.

    Attributes:
        way: How to wait.
        names: The branches, in the order in which they were given.
        state: The state that the edge was called with.
        asked: The branches that have run so far.
        call: Calls the chooser's own target, such as a judge, with a state.
    """

    way: Way
    names: Sequence[str]
    state: State
    asked: Sequence[Asked]
    call: Callable[[State], Coroutine[Any, Any, Any]]


class Chooser(Protocol):
    """Chooses the branches of a run, one after the other."""

    @property
    def judge(self) -> Any:
        """A target that it calls, or a `Branch` with one; None if it calls none."""
        ...

    async def step(self, now: Situation) -> Step:
        """Decide what comes next."""
        ...
