"""`thresholds`: from which score on a cascade accepts an answer, found from a log."""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from mahsm._common import shown
from mahsm.errors import LearnError

_MOST = 4096
"""About how many combinations of thresholds are compared."""


class Tuned(NamedTuple):
    """Thresholds of a cascade, and what it would have had in the log.

    Attributes:
        thresholds: The least score of an accepted answer, for each target but the last.
        cost: The mean price of a question.
        quality: The mean quality of an answer.
    """

    thresholds: list[float]
    cost: float
    quality: float


def thresholds(
    scores: Any,
    qualities: Any,
    prices: Sequence[float],
    *,
    budget: float | None = None,
    quality: float | None = None,
) -> Tuned:
    """Find the thresholds of a cascade from a log in which every target has answered every question.

    Up to 4,096 combinations are compared: the quantiles of the scores of each target. Keep questions aside on
    which you check what is found: for few questions, the best of many combinations is too good to be true.

    Args:
        scores: The score of each answer but those of the last target, shape `(questions, targets - 1)`.
        qualities: How good each answer is, such as 1 for right and 0 for wrong, shape `(questions, targets)`.
        prices: The price of an answer of each target.
        budget: The most that a question may cost on average. The quality is then as high as possible.
        quality: The least mean quality. The cost is then as low as possible. Pass this or `budget`.

    Returns:
        The thresholds, for `cascade(threshold=)`, with the cost and the quality that they have in the log.

    Raises:
        LearnError: if the shapes do not fit, a number is not finite, not one of `budget` and `quality` is
            given, or no thresholds reach it.

    Example:
        >>> from mahsm.learn import thresholds
        >>> scores = [[0.9], [0.8], [0.3], [0.2]]  # of the cheap answers
        >>> qualities = [[1, 1], [1, 1], [0, 1], [0, 1]]
        >>> thresholds(scores, qualities, prices=[1.0, 10.0], quality=1.0)
        Tuned(thresholds=[0.8], cost=6.0, quality=1.0)
    """
    given, good, price = _checked(scores, qualities, prices)
    if (budget is None) == (quality is None):
        raise LearnError(f"thresholds: budget={budget}, quality={quality}; expected one of the two.")
    found = [_outcome(given, good, price, each) for each in _candidates(given)]
    if budget is not None:
        fitting = [one for one in found if one.cost <= budget]
        if not fitting:
            raise LearnError(
                f"thresholds: budget={budget:g}; expected at least {min(one.cost for one in found):g}, which "
                "the cheapest thresholds cost."
            )
        return max(fitting, key=lambda one: (one.quality, -one.cost))
    fitting = [one for one in found if one.quality >= (quality or 0.0)]
    if not fitting:
        best = max(one.quality for one in found)
        raise LearnError(f"thresholds: quality={quality:g}; expected at most {best:g}, the best of the log.")
    return min(fitting, key=lambda one: (one.cost, -one.quality))


def _checked(scores: Any, qualities: Any, prices: Any) -> tuple[Any, Any, Any]:
    try:
        given, good, price = (np.asarray(each, np.float64) for each in (scores, qualities, prices))
    except (TypeError, ValueError):
        given = good = price = np.empty(0)
    rows, targets = (good.shape[0], price.size) if good.ndim == 2 else (0, 0)
    if (
        rows < 1
        or targets < 2
        or good.shape != (rows, targets)
        or given.shape != (rows, targets - 1)
        or price.ndim != 1
        or not all(np.isfinite(each).all() for each in (given, good, price))
    ):
        raise LearnError(
            f"thresholds: scores={shown(scores)}, qualities={shown(qualities)}, "
            f"prices={shown(prices)}; expected finite numbers of shapes (questions, targets - 1), "
            "(questions, targets) and (targets,), with at least two targets."
        )
    return given, good, price


def _candidates(scores: Any) -> "list[tuple[float, ...]]":
    """Return combinations of thresholds: scores, and one above all of them, which accepts nothing."""
    count = max(2, int(_MOST ** (1 / scores.shape[1])) - 1)
    each: list[list[float]] = []
    for column in scores.T:
        values = np.unique(column)
        if values.size > count:
            values = np.unique(np.quantile(column, np.linspace(0, 1, count), method="lower"))
        each.append([*map(float, values), float(np.nextafter(values[-1], np.inf))])
    return list(product(*each))


def _outcome(scores: Any, good: Any, prices: Any, least: tuple[float, ...]) -> Tuned:
    accepted = np.column_stack([scores >= np.asarray(least), np.ones(len(scores), bool)])
    last = accepted.argmax(axis=1)
    cost = float(np.cumsum(prices)[last].mean())
    return Tuned(list(least), cost, float(good[np.arange(len(good)), last].mean()))
