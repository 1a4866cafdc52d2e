"""Reducers: functions from a list to one value, for `reduce_edge` and for plain calls.

Each works in two ways: on a list, `top_k(values, k=3)`, or with its options alone, `top_k(k=3)`, which gives the
function that `reduce_edge` takes. Ties go to the value that comes first in the list. A list without values is a
`ReducerError`, but for `top_k` and `concat`, which give an empty list.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Literal, TypeAlias, TypeVar, cast, overload

from mahsm._state import missing, shown
from mahsm.errors import ReducerError

__all__ = ["Key", "concat", "majority_vote", "mean", "score_and_select", "top_k"]

T = TypeVar("T")
Key: TypeAlias = str | Callable[[Any], Any]
"""What of a value counts: a key of it, or a function of it."""


@overload
def majority_vote(values: Sequence[T], /, *, key: Key | None = None) -> Any: ...
@overload
def majority_vote(*, key: Key | None = None) -> Callable[[Sequence[Any]], Any]: ...
def majority_vote(values: Sequence[Any] | None = None, /, *, key: Key | None = None) -> Any:
    """The value that occurs most often.

    Args:
        values: The votes. They are compared with `==`, so dicts and lists can be voted on too.
        key: Vote on this part of each value, and return that part; by default on the whole value.

    Raises:
        ReducerError: if there are no votes, or one lacks the key.

    Example:
        >>> majority_vote(["paris", "rome", "paris"])
        'paris'
        >>> majority_vote([{"answer": 4}, {"answer": 5}, {"answer": 4}], key="answer")
        4
    """
    if values is None:
        return partial(majority_vote, key=key)
    votes = _parts("majority_vote", values, key)
    _check_some("majority_vote", votes)
    counts: list[tuple[Any, int]] = []
    for vote in votes:
        for place, (other, count) in enumerate(counts):
            if other == vote:
                counts[place] = (other, count + 1)
                break
        else:
            counts.append((vote, 1))
    return max(counts, key=lambda entry: entry[1])[0]  # max keeps the first of equals


@overload
def score_and_select(values: Sequence[T], /, *, score_key: Key, mode: Literal["max", "min"] = "max") -> T: ...
@overload
def score_and_select(*, score_key: Key, mode: Literal["max", "min"] = "max") -> Callable[[Sequence[T]], T]: ...
def score_and_select(values: Sequence[Any] | None = None, /, *, score_key: Key, mode: Literal["max", "min"] = "max") -> Any:
    """The value with the best score.

    Args:
        values: The candidates.
        score_key: Where the score is: a key of each value, or a function of it.
        mode: Whether `"max"` or `"min"` is best.

    Raises:
        ReducerError: if there are no values, or a score is missing or is not a number (NaN neither).

    Example:
        >>> score_and_select([{"text": "a", "score": 0.2}, {"text": "b", "score": 0.9}], score_key="score")
        {'text': 'b', 'score': 0.9}
    """
    if mode not in ("max", "min"):
        raise ReducerError(f"score_and_select: mode={mode!r}; expected 'max' or 'min'.")
    if values is None:
        return partial(score_and_select, score_key=score_key, mode=mode)
    _check_some("score_and_select", values)
    scores = _numbers("score_and_select", values, score_key)
    best = (max if mode == "max" else min)(range(len(scores)), key=scores.__getitem__)
    return values[best]


@overload
def top_k(values: Sequence[T], /, *, k: int, key: Key | None = None) -> list[T]: ...
@overload
def top_k(*, k: int, key: Key | None = None) -> Callable[[Sequence[T]], list[T]]: ...
def top_k(values: Sequence[Any] | None = None, /, *, k: int, key: Key | None = None) -> Any:
    """The `k` values with the highest scores, best first; all of them if there are fewer.

    Args:
        values: The candidates.
        k: How many, >= 1.
        key: Where the score is: a key of each value, or a function of it; by default the value is its own score.

    Raises:
        ReducerError: if `k` is no whole number >= 1, or a score is missing or is not a number.

    Example:
        >>> top_k([3, 1, 2], k=2)
        [3, 2]
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ReducerError(f"top_k: k={shown(k)}; expected a whole number >= 1.")
    if values is None:
        return partial(top_k, k=k, key=key)
    scores = _numbers("top_k", values, key)
    best_first = sorted(range(len(scores)), key=lambda place: -scores[place])
    return [values[place] for place in best_first[:k]]


@overload
def mean(values: Sequence[Any], /, *, key: Key | None = None) -> float: ...
@overload
def mean(*, key: Key | None = None) -> Callable[[Sequence[Any]], float]: ...
def mean(values: Sequence[Any] | None = None, /, *, key: Key | None = None) -> Any:
    """The arithmetic mean.

    Args:
        values: Numbers, or what has them.
        key: Where the number is: a key of each value, or a function of it; by default the value itself.

    Raises:
        ReducerError: if there are no values, or one is not a number.

    Example:
        >>> mean([{"score": 1}, {"score": 2}], key="score")
        1.5
    """
    if values is None:
        return partial(mean, key=key)
    _check_some("mean", values)
    return statistics.fmean(_numbers("mean", values, key))


@overload
def concat(values: Sequence[Any], /, *, key: Key | None = None, separator: str = "\n\n") -> Any: ...
@overload
def concat(*, key: Key | None = None, separator: str = "\n\n") -> Callable[[Sequence[Any]], Any]: ...
def concat(values: Sequence[Any] | None = None, /, *, key: Key | None = None, separator: str = "\n\n") -> Any:
    """All values in one: texts joined to a text, lists to a list.

    Args:
        values: Texts, or lists.
        key: Where the text or list is: a key of each value, or a function of it; by default the value itself.
        separator: What stands between two texts.

    Raises:
        ReducerError: if the values are neither all texts nor all lists.

    Example:
        >>> concat([[1, 2], [3]])
        [1, 2, 3]
        >>> concat(["one", "two"], separator=", ")
        'one, two'
    """
    if values is None:
        return partial(concat, key=key, separator=separator)
    parts = _parts("concat", values, key)
    if parts and all(isinstance(part, str) for part in parts):
        return separator.join(parts)
    for part in parts:
        if isinstance(part, str | Mapping) or not isinstance(part, Iterable):
            raise ReducerError(f"concat: found {shown(cast('object', part))}; expected all texts, or all lists. Set key=.")
    return list(chain.from_iterable(parts))


def _parts(reducer: str, values: Sequence[Any], key: Key | None) -> list[Any]:
    if key is None:
        return list(values)
    if not isinstance(key, str):
        return [key(value) for value in values]
    for place, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise ReducerError(f"{reducer}: value {place} is {shown(value)}; expected a dict with the key {key!r}.")
        if key not in value:
            raise ReducerError(f"{reducer}: {missing(cast('Mapping[str, Any]', value), key, f'value {place}')}")
    return [value[key] for value in values]


def _numbers(reducer: str, values: Sequence[Any], key: Key | None) -> list[float]:
    numbers: list[float] = []
    for place, part in enumerate(_parts(reducer, values, key)):
        try:
            number = float(part)
        except (TypeError, ValueError):
            number = math.nan
        if math.isnan(number):
            raise ReducerError(f"{reducer}: the score of value {place} is {shown(part)}; expected a number.")
        numbers.append(number)
    return numbers


def _check_some(reducer: str, values: Sequence[Any]) -> None:
    if not values:
        raise ReducerError(f"{reducer}: there are no values to choose from. Route around the edge when the list is empty.")
