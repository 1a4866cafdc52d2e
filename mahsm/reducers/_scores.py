"""Scores: the best value, the best few, mean and median."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar, overload

from mahsm.errors import ReducerError
from mahsm.reducers._values import Key, check_some, check_whole, numbers

T = TypeVar("T")


@overload
def score_and_select(values: Sequence[T], /, *, score_key: Key, mode: Literal["max", "min"] = "max") -> T: ...
@overload
def score_and_select(
    *, score_key: Key, mode: Literal["max", "min"] = "max"
) -> Callable[[Sequence[T]], T]: ...
def score_and_select(
    values: Sequence[Any] | None = None, /, *, score_key: Key, mode: Literal["max", "min"] = "max"
) -> Any:
    """Return the value with the best score.

    Args:
        values: The candidates.
        score_key: Where the score is: a key of each value, or a function of it.
        mode: `"max"` if the highest score is best, `"min"` if the lowest is.

    Raises:
        ReducerError: if there are no values, or a score is missing or not a number (NaN is refused too).

    Example:
        >>> score_and_select([{"text": "a", "score": 0.2}, {"text": "b", "score": 0.9}], score_key="score")
        {'text': 'b', 'score': 0.9}
    """
    if mode not in ("max", "min"):
        raise ReducerError(f"score_and_select: mode={mode!r}; expected 'max' or 'min'.")
    if values is None:
        return partial(score_and_select, score_key=score_key, mode=mode)
    check_some("score_and_select", values)
    scores = numbers("score_and_select", values, score_key)
    best = (max if mode == "max" else min)(range(len(scores)), key=scores.__getitem__)
    return values[best]


@overload
def top_k(values: Sequence[T], /, *, k: int, key: Key | None = None) -> list[T]: ...
@overload
def top_k(*, k: int, key: Key | None = None) -> Callable[[Sequence[T]], list[T]]: ...
def top_k(values: Sequence[Any] | None = None, /, *, k: int, key: Key | None = None) -> Any:
    """Return the `k` values with the highest scores, best first; all values if there are fewer.

    Args:
        values: The candidates.
        k: The number of values, >= 1.
        key: Where the score is: a key of each value, or a function of it; by default the value itself.

    Raises:
        ReducerError: if `k` is not an integer >= 1, or a score is missing or not a number (NaN is refused
            too).

    Example:
        >>> top_k([3, 1, 2], k=2)
        [3, 2]
    """
    check_whole("top_k", "k", k)
    if values is None:
        return partial(top_k, k=k, key=key)
    scores = numbers("top_k", values, key)
    best_first = sorted(range(len(scores)), key=lambda place: -scores[place])
    return [values[place] for place in best_first[:k]]


@overload
def mean(values: Sequence[Any], /, *, key: Key | None = None) -> float: ...
@overload
def mean(*, key: Key | None = None) -> Callable[[Sequence[Any]], float]: ...
def mean(values: Sequence[Any] | None = None, /, *, key: Key | None = None) -> Any:
    """Return the arithmetic mean.

    Args:
        values: Numbers, or values that contain one.
        key: Where the number is: a key of each value, or a function of it; by default the value itself.

    Raises:
        ReducerError: if there are no values, or one is not a number (NaN is refused too).

    Example:
        >>> mean([{"score": 1}, {"score": 2}], key="score")
        1.5
    """
    if values is None:
        return partial(mean, key=key)
    check_some("mean", values)
    return statistics.fmean(numbers("mean", values, key))


@overload
def median(values: Sequence[Any], /, *, key: Key | None = None) -> float: ...
@overload
def median(*, key: Key | None = None) -> Callable[[Sequence[Any]], float]: ...
def median(values: Sequence[Any] | None = None, /, *, key: Key | None = None) -> Any:
    """Return the median; of an even number of values, the mean of the middle two.

    Args:
        values: Numbers, or values that contain one.
        key: Where the number is: a key of each value, or a function of it; by default the value itself.

    Raises:
        ReducerError: if there are no values, or one is not a number (NaN is refused too).

    Example:
        >>> median([1, 9, 2])
        2.0
    """
    if values is None:
        return partial(median, key=key)
    check_some("median", values)
    return float(statistics.median(numbers("median", values, key)))
