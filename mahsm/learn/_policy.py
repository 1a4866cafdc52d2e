"""How a router chooses: upper confidence bounds or Thompson sampling, and the probabilities of choices."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar, cast

import numpy as np

from mahsm.learn._head import Array

ShareT = TypeVar("ShareT", float, Array)
Head: TypeAlias = Literal["linucb", "thompson"]

DRAWS = 100
"""Draws for the propensity of a choice by Thompson sampling, which has no closed form."""
EXPLORE: dict[Head, float] = {"linucb": 0.5, "thompson": 0.3}
_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Policy:
    """Chooses arms by their expected rewards and the deviations of these.

    Attributes:
        head: "linucb" adds `explore` deviations to the expected rewards; "thompson" draws from a normal
            distribution around them, with `explore` times their deviations.
        explore: The factor of the deviations.
        min_explore: The probability of a choice among all arms alike.
    """

    head: Head
    explore: float
    min_explore: float

    def choose(self, mean: Array, deviation: Array, rng: np.random.Generator) -> tuple[int, float]:
        """Return an arm, and the probability with which it was chosen."""
        if self.head == "linucb":
            best = arm = int((mean + self.explore * deviation).argmax())
            if self.min_explore == 0.0:
                return arm, 1.0
            if rng.random() < self.min_explore:
                arm = int(rng.integers(mean.size))
            return arm, self._mixed(float(arm == best), mean.size)
        draws = rng.standard_normal((DRAWS + 1, mean.size))
        draws *= self.explore * deviation
        draws += mean
        arms = draws.argmax(axis=1)
        arm = int(arms[0])
        if self.min_explore == 0.0:
            # With the choice itself among the draws, it is never 0. The mean of its inverse is
            # (1 - (1 - p) ** 101) / p: that of the true probability, but for arms of less than a few percent.
            return arm, np.count_nonzero(arms == arm) / (DRAWS + 1)
        if rng.random() < self.min_explore:
            arm = int(rng.integers(mean.size))
        # Here min_explore keeps it above 0, so other draws than that of the choice estimate it.
        return arm, self._mixed(np.count_nonzero(arms[1:] == arm) / DRAWS, mean.size)

    def choose_many(
        self, means: Array, deviations: Array, rng: np.random.Generator
    ) -> tuple[list[int], list[float]]:
        """Return arms and their probabilities for rows of shape `(rows, arms)`, each drawn by itself."""
        rows, count = means.shape
        step = max(1, _AT_ONCE // (DRAWS * count))
        arms: list[int] = []
        propensities: list[float] = []
        for at in range(0, rows, step):
            some = slice(at, at + step)
            first, share = self._many(means[some], deviations[some], rng)
            arms += first
            propensities += share
        return arms, propensities

    def _many(
        self, means: Array, deviations: Array, rng: np.random.Generator
    ) -> tuple[list[int], list[float]]:
        rows, count = means.shape
        if self.head == "linucb":
            drawn = (means + self.explore * deviations).argmax(axis=1)[None]
        else:
            draws = rng.standard_normal((DRAWS + 1, rows, count))
            drawn = (means + self.explore * deviations * draws).argmax(axis=2)
        arms: Any = drawn[0]
        if self.min_explore > 0.0:
            alike = cast("Any", rng.random(rows) < self.min_explore)
            arms = arms.copy()
            arms[alike] = rng.integers(count, size=int(np.count_nonzero(alike)))
            drawn = drawn[1:] if self.head == "thompson" else drawn
        shares = cast("Array", (drawn == arms).mean(axis=0))
        return arms.tolist(), self._mixed(shares, count).tolist()

    def probabilities(self, mean: Array, deviation: Array, rng: np.random.Generator) -> Array:
        """Return the probability of each arm, shape `(arms,)`; with Thompson sampling, their shares of
        draws.
        """
        if self.head == "linucb":
            shares = np.zeros(mean.size)
            shares[(mean + self.explore * deviation).argmax()] = 1.0
        else:
            draws = mean + self.explore * deviation * rng.standard_normal((10 * DRAWS, mean.size))
            shares = np.bincount(draws.argmax(axis=1), minlength=mean.size) / (10 * DRAWS)
        return self._mixed(shares, mean.size)

    def _mixed(self, share: ShareT, count: int) -> ShareT:
        return (1.0 - self.min_explore) * share + self.min_explore / count
