"""What a router keeps: its state, as JSON values, and the events since that state."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from mahsm.errors import LearnError
from mahsm.learn._head import Array

FORMAT = 1


@dataclass(frozen=True)
class Chose:
    """A choice was made."""

    number: int
    arm: str
    features: Sequence[float]

    def as_json(self) -> dict[str, Any]:
        return {"chose": self.number, "arm": self.arm, "features": list(self.features)}


@dataclass(frozen=True)
class Rewarded:
    """A choice has had its reward, which was learned as the `order`-th one."""

    number: int
    value: float
    order: int


@dataclass(frozen=True)
class Saved:
    """The state of a router at one moment.

    Attributes:
        key: What its ids begin with.
        next: The number of the next choice.
        rewards: The number of rewards that have been learned.
        arms: The arms.
        inverse: See `LinearHead`; None before the first choice.
        weights: Likewise.
        waiting: Choices without a reward.
    """

    key: str
    next: int
    rewards: int
    arms: tuple[str, ...]
    inverse: Array | None
    weights: Array | None
    waiting: Sequence[Chose]

    def as_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "key": self.key,
            "next": self.next,
            "rewards": self.rewards,
            "arms": list(self.arms),
            "inverse": _written(self.inverse),
            "weights": _written(self.weights),
            "waiting": [[each.number, each.arm, list(each.features)] for each in self.waiting],
        }

    @classmethod
    def of_json(cls, where: str, value: Any) -> "Saved":
        if not isinstance(value, Mapping) or cast("Mapping[str, Any]", value).get("format") != FORMAT:
            raise LearnError(
                f"Router: store={where!r} is not the memory of a router of this version; expected one that a "
                "router wrote, or a new place."
            )
        found = cast("Mapping[str, Any]", value)
        return cls(
            found["key"],
            found["next"],
            found["rewards"],
            tuple(found["arms"]),
            _read(found["inverse"]),
            _read(found["weights"]),
            [Chose(*each) for each in found["waiting"]],
        )


def _written(array: Array | None) -> Any:
    if array is None:
        return None
    return [list(array.shape), base64.b64encode(array.astype("<f8").tobytes()).decode()]


def _read(value: Any) -> Array | None:
    if value is None:
        return None
    shape, text = value
    return np.frombuffer(base64.b64decode(text), "<f8").reshape(shape).astype(np.float64)


class Memory(Protocol):
    """Where a router is kept. Methods are called one at a time.

    Each event is written whole or not at all, and before it takes effect. So if the process ends at any
    moment, the next one finds the state with or without the last event.
    """

    def recall(self) -> tuple[Saved | None, Sequence[Chose | Rewarded]]:
        """Return the last state and the events since; rewards in their order."""
        ...

    def append(self, event: Chose | Rewarded) -> None:
        """Write an event."""
        ...

    def is_long(self) -> bool:
        """Return whether there are so many events that the state should be saved."""
        ...

    def save(self, state: Saved) -> None:
        """Replace the state, and forget the events before it."""
        ...
