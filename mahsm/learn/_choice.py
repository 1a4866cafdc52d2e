"""`Choice`: what a router has decided, and the choices that wait for a reward."""

import secrets
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mahsm._common import shown
from mahsm.errors import LearnError
from mahsm.learn._head import Array
from mahsm.learn.logs import Logged


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision of a router.

    Attributes:
        arm: What was chosen.
        propensity: The probability with which it was chosen, in (0, 1]. Off-policy estimates need it.
        id: Its id, for the reward. It stays valid after a restart, if the router has a store.
        features: The numbers that the router decided by.

    Example:
        >>> from mahsm.learn import Router
        >>> choice = Router(["cheap", "strong"], seed=0).route()
        >>> choice.arm, choice.propensity
        ('cheap', 1.0)
    """

    arm: str
    propensity: float
    id: str
    features: tuple[float, ...] = field(default=(), repr=False)

    def logged(self, reward: float | None = None) -> Logged:
        """Return the choice with its reward as a row of logs."""
        return Logged(self.features, self.arm, self.propensity, reward, self.id)

    def row(self) -> dict[str, Any]:
        """Return the choice as a row of logs for a state: lists and numbers of Python, which are stored."""
        return {
            "arm": self.arm,
            "propensity": self.propensity,
            "id": self.id,
            "features": [float(number) for number in self.features],
        }


class Waits(NamedTuple):
    """A choice that waits for its reward: the arm, and the vector of its features."""

    arm: str
    z: Array


class Waiting:
    """Choices that wait for their rewards, by number.

    Ids are numbered. So a number that was given out and does not wait has had its reward: rewarded choices
    need no memory.

    Args:
        most: At most so many choices wait; the oldest one makes room.
        key: What all ids of this router begin with.
        next: The next number.
    """

    def __init__(self, most: int, key: str | None = None, next: int = 0) -> None:
        self.key = key or secrets.token_hex(4)
        self.next = next
        self.choices: dict[int, Waits] = {}
        self._most = most
        self._dropped = -1
        """The youngest choice that had to make room."""

    def number(self) -> int:
        """Return the number of a new choice."""
        self.next += 1
        return self.next - 1

    def add(self, number: int, choice: Waits) -> None:
        """Add a choice; if there are too many, the oldest one makes room."""
        self.choices[number] = choice
        if len(self.choices) > self._most:
            self._dropped = next(iter(self.choices))
            del self.choices[self._dropped]

    def with_key(self, key: str, next: int) -> "Waiting":
        """Return the same bound for the ids of an earlier process."""
        return Waiting(self._most, key, next)

    def id(self, number: int) -> str:
        return f"{self.key}-{number}"

    def find(self, id: Any) -> int:
        """Return the number of a choice that waits.

        Raises:
            LearnError: if the id is unknown, or its reward was given before.
        """
        key, _, text = id.rpartition("-") if isinstance(id, str) else ("", "", "")
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
        if key != self.key or not 0 <= number < self.next:
            raise LearnError(
                f"reward: the id {shown(id)} is unknown; expected the id of a choice of this router. If it "
                "was made before a restart, pass store= to the router, in both processes."
            )
        if number not in self.choices:
            dropped = f", or made room for the {self._most:,} of max_waiting="
            raise LearnError(
                f"reward: the choice {id!r} has its reward already{dropped * (number <= self._dropped)}; "
                "expected one reward for each choice."
            )
        return number
