"""`evaluate`: how good another policy would have been, from a log of choices with propensities."""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from mahsm._common import shown
from mahsm.errors import LearnError
from mahsm.learn._arguments import Cost, prices_of
from mahsm.learn._features import with_intercept
from mahsm.learn._head import Array
from mahsm.learn.logs import Logged, rewarded

FEW = 100
_FOLDS = 5
_WIDTH = 1.959964  # of a 95 % interval, in standard errors

PolicyLike = Callable[[Any], Any] | str


class FewEffectiveSamples(UserWarning):
    """An estimate depends on few rows of the log, since the logged choices and the policy's rarely agree."""


@dataclass(frozen=True)
class Estimate:
    """The mean reward of a policy, as one method estimates it.

    Attributes:
        value: The estimate.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Evaluation:
    """Estimates of the mean reward of a policy, from the same log.

    Attributes:
        doubly_robust: A model of the rewards, corrected by the rows on which log and policy agree. Take this
            one: it is right if the propensities are, and its interval is shorter than that of `ips`.
        ips: Rewards, weighted by the inverse propensity.
        snips: The same, divided by the sum of the weights.
        direct: The model of the rewards alone. Its interval does not contain the error of the model, so it
            may be too short.
        effective: The effective sample size: how many rows of the policy's own would tell as much.
        rows: The rows with a reward.
    """

    doubly_robust: Estimate
    ips: Estimate
    snips: Estimate
    direct: Estimate
    effective: float
    rows: int

    def __str__(self) -> str:
        names = ("doubly_robust", "ips", "snips", "direct")
        lines = [f"{name.replace('_', ' '):14}{getattr(self, name)}" for name in names]
        return "\n".join([*lines, f"{self.effective:.0f} effective of {self.rows} rows"])


def evaluate(
    logs: str | os.PathLike[str] | Iterable[Mapping[str, Any] | Logged],
    policy: PolicyLike,
    *,
    cost: Cost | None = None,
) -> Evaluation:
    """Estimate the mean reward that a policy would have had on the inputs of a log.

    The log must have been made by a policy with some randomness, such as a `Router` with `min_explore`, or
    with "thompson"; and it must have each choice's propensity.

    The model of the rewards is a ridge regression for each arm. It is fitted on four fifths of the rows and
    used on the others, in turns; otherwise intervals would be too short.

    Args:
        logs: Path of a JSON-lines file, dicts, or `Logged` rows. Rows without a reward are left out. Features
            are numbers, a list or 1-d array, or None.
        policy: A function of a row's features that returns an arm, or a dict of probabilities by arm, such as
            `router.best` or `router.probabilities`; or the name of an arm, which is always chosen.
        cost: The price of each arm in units of reward, a dict or a function of its name. Prices are
            subtracted from the rewards.

    Raises:
        LearnError: if a row has no propensity, there are fewer than 10 rows with a reward, features are not
            numbers, or the policy chooses an arm that is not in the log.

    Warns:
        FewEffectiveSamples: if the effective sample size is below 100.

    Example:
        >>> import numpy as np
        >>> from mahsm.learn import evaluate, logs
        >>> rng = np.random.default_rng(0)
        >>> arms = ["cheap", "strong"]
        >>> rows = [logs.Logged([x], arm := arms[rng.integers(2)], 0.5, float(arm == "strong" or x < 0.5))
        ...         for x in rng.random(1000)]
        >>> found = evaluate(rows, lambda features: "cheap" if features[0] < 0.5 else "strong")
        >>> found.doubly_robust.low <= 1.0 <= found.doubly_robust.high
        True
    """
    rows = _checked(rewarded(logs))
    arms = sorted({row.arm for row in rows})
    taken = np.array([arms.index(row.arm) for row in rows])
    zs = _vectors(rows)
    prices = np.array(prices_of(cost, arms))
    rewards = np.array([row.reward for row in rows], np.float64) - prices[taken]
    propensities = np.array([row.propensity for row in rows], np.float64)
    chosen = _probabilities(rows, policy, arms)
    here = np.arange(len(rows))
    weights = chosen[here, taken] / propensities
    squares = float((weights**2).sum())
    effective = float(weights.sum()) ** 2 / squares if squares else 0.0
    if effective < FEW:
        warnings.warn(
            f"evaluate: {effective:.0f} effective samples of {len(rows)} rows; expected at least {FEW}. The "
            "intervals may be wrong. Log more rows, or with a higher min_explore=.",
            FewEffectiveSamples,
            stacklevel=2,
        )
    predicted = _predicted(zs, taken, rewards, len(arms))
    direct = (chosen * predicted).sum(axis=1)
    ratio = float((weights * rewards).sum() / weights.sum()) if squares else math.nan
    return Evaluation(
        doubly_robust=_mean(direct + weights * (rewards - predicted[here, taken])),
        ips=_mean(weights * rewards),
        snips=_around(ratio, weights * (rewards - ratio) / weights.mean() if squares else rewards * math.nan),
        direct=_mean(direct),
        effective=effective,
        rows=len(rows),
    )


def _mean(values: Array) -> Estimate:
    return _around(float(values.mean()), values)


def _around(value: float, values: Array) -> Estimate:
    half = _WIDTH * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Estimate(value, value - half, value + half)


def _checked(rows: Sequence[Logged]) -> Sequence[Logged]:
    if len(rows) < 2 * _FOLDS:
        raise LearnError(
            f"evaluate: the log has {len(rows)} rows with a reward; expected at least {2 * _FOLDS}."
        )
    without = sum(row.propensity is None for row in rows)
    if without:
        raise LearnError(
            f"evaluate: {without} of {len(rows)} rows have no propensity; expected the probability of each "
            "choice. Without it, the choices of the log cannot be told from those of the policy. Log "
            "choice.propensity with each choice, or leave out these rows if they are a random part."
        )
    return rows


def _vectors(rows: Sequence[Logged]) -> Array:
    found = [with_intercept(row.features) for row in rows]
    if len(sizes := {len(z) for z in found}) > 1:
        raise LearnError(
            f"evaluate: rows have {min(sizes) - 1} to {max(sizes) - 1} features; expected the same number."
        )
    return np.stack(found)


def _probabilities(rows: Sequence[Logged], policy: Any, arms: list[str]) -> Array:
    """Return the probability of each arm of the log under the policy, shape `(rows, arms)`."""
    places = {arm: place for place, arm in enumerate(arms)}
    chosen = np.zeros((len(rows), len(arms)))
    for row, logged in enumerate(rows):
        found: Any = policy if isinstance(policy, str) else policy(logged.features)
        by_arm = cast("Mapping[str, float]", found if isinstance(found, Mapping) else {found: 1.0})
        for arm, probability in by_arm.items():
            if arm in places:
                chosen[row, places[arm]] = probability
            elif probability != 0:
                raise LearnError(
                    f"evaluate: the policy chooses {shown(arm)}; expected an arm of the log, one of "
                    f"{', '.join(map(repr, arms))}. What was never tried cannot be estimated."
                )
        if not abs(chosen[row].sum() - 1.0) <= 1e-6 or chosen[row].min() < 0.0:
            raise LearnError(
                f"evaluate: the policy returned {shown(cast('object', found))}; expected an arm, or "
                "probabilities by arm whose sum is 1."
            )
    return chosen


def _predicted(zs: Array, taken: Any, rewards: Array, arms: int) -> Array:
    """Return predicted rewards of all arms, shape `(rows, arms)`; each row's by a fit without its fold."""
    dims = zs.shape[1]
    folds = np.arange(len(zs)) % _FOLDS
    predicted = np.empty((len(zs), arms))
    for arm in range(arms):
        mine = [(taken == arm) & (folds == fold) for fold in range(_FOLDS)]
        squares = np.stack([zs[some].T @ zs[some] for some in mine])
        products = np.stack([zs[some].T @ rewards[some] for some in mine])
        for fold in range(_FOLDS):
            others = squares.sum(axis=0) - squares[fold] + np.eye(dims)
            fitted = cast("Array", np.linalg.solve(others, products.sum(axis=0) - products[fold]))
            predicted[folds == fold, arm] = zs[folds == fold] @ fitted
    return predicted
