"""Votes: the most frequent answer, and the answer with the highest weight."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar, get_args, overload

from mahsm.edges._internal import streams_as
from mahsm.errors import ReducerError
from mahsm.reducers._values import Key, check_some, numbers, parts

T = TypeVar("T")
Tally = list[tuple[Any, Any, float]]
"""For each distinct vote: the value to compare, the value to return if it wins, and its weight so far."""
Give: TypeAlias = Literal["key", "item"]
"""The result of a vote: the winning part, or the first value that has it."""


def normalized(vote: Any) -> Any:
    """Fold a string's case and whitespace, and strip punctuation; return other values unchanged.

    Example:
        >>> normalized("  The  Answer. ")
        'the answer'
    """
    return re.sub(r"\s+", " ", vote).strip(" .,;:!?'\"`*()[]").casefold() if isinstance(vote, str) else vote


def _count(tally: Tally, vote: Any, given: Any, weight: float, *, normalize: bool) -> None:
    compared = normalized(vote) if normalize else vote
    for place, (other, first, so_far) in enumerate(tally):
        if other == compared:
            tally[place] = (other, first, so_far + weight)
            return
    tally.append((compared, given, weight))


def check_give(reducer: str, give: object) -> None:
    if give not in get_args(Give):
        raise ReducerError(f"{reducer}: give={give!r}; expected 'key' or 'item'.")


class _Majority:
    """Streaming form of `majority_vote`: decided as soon as the lead cannot be overtaken."""

    def __init__(self, *, key: Key | None = None, normalize: bool = False, give: Give = "key") -> None:
        self._key = key
        self._normalize = normalize
        self._give = give

    def init(self, total: int) -> tuple[int, Tally]:
        return total, []

    def add(self, state: tuple[int, Tally], value: Any) -> tuple[int, Tally]:
        left, tally = state
        vote = parts("majority_vote", [value], self._key)[0]
        _count(tally, vote, value if self._give == "item" else vote, 1, normalize=self._normalize)
        return left - 1, tally

    def decided(self, state: tuple[int, Tally]) -> bool:
        left, tally = state
        first, second, *_ = [*sorted((weight for _, _, weight in tally), reverse=True), 0, 0]
        return first > second + left

    def result(self, state: tuple[int, Tally]) -> Any:
        return _winner("majority_vote", state[1])


@overload
def majority_vote(
    values: Sequence[T], /, *, key: Key | None = None, normalize: bool = False, give: Give = "key"
) -> Any: ...
@overload
def majority_vote(
    *, key: Key | None = None, normalize: bool = False, give: Give = "key"
) -> Callable[[Sequence[Any]], Any]: ...
@streams_as(_Majority)
def majority_vote(
    values: Sequence[Any] | None = None,
    /,
    *,
    key: Key | None = None,
    normalize: bool = False,
    give: Give = "key",
) -> Any:
    """Return the value that occurs most often.

    As `stop_when` of a `vmap`, it stops the run as soon as the lead cannot be overtaken.

    Args:
        values: The votes. They are compared with `==`, so dicts and lists can be voted on too.
        key: Vote on this part of each value; by default on the whole value.
        normalize: Count strings as equal that differ only in case, whitespace, and punctuation at their ends;
            the first one of these is returned unchanged.
        give: What to return: `"key"`, the part that was voted on, or `"item"`, the first value that has the
            winning part.

    Raises:
        ReducerError: if there are no votes, a vote lacks the key, or `give` is invalid.

    Example:
        >>> majority_vote(["paris", "rome", "paris"])
        'paris'
        >>> majority_vote([{"answer": 4}, {"answer": 5}, {"answer": 4}], key="answer")
        4
        >>> majority_vote(["Paris.", "rome", "paris"], normalize=True)
        'Paris.'
        >>> answers = [{"answer": 4, "why": "2 + 2"}, {"answer": 5}, {"answer": 4}]
        >>> majority_vote(answers, key="answer", give="item")
        {'answer': 4, 'why': '2 + 2'}
    """
    check_give("majority_vote", give)
    if values is None:
        return partial(majority_vote, key=key, normalize=normalize, give=give)
    tally: Tally = []
    for value, vote in zip(values, parts("majority_vote", values, key), strict=True):
        _count(tally, vote, value if give == "item" else vote, 1, normalize=normalize)
    return _winner("majority_vote", tally)


@overload
def weighted_vote(
    values: Sequence[T],
    /,
    *,
    weight: Key,
    key: Key | None = None,
    normalize: bool = False,
    give: Give = "key",
) -> Any: ...
@overload
def weighted_vote(
    *, weight: Key, key: Key | None = None, normalize: bool = False, give: Give = "key"
) -> Callable[[Sequence[Any]], Any]: ...
def weighted_vote(
    values: Sequence[Any] | None = None,
    /,
    *,
    weight: Key,
    key: Key | None = None,
    normalize: bool = False,
    give: Give = "key",
) -> Any:
    """Return the value whose votes have the highest total weight, such as answers weighted by confidence.

    Args:
        values: The votes.
        weight: The weight of a vote, >= 0: a key of the vote, or a function of it.
        key: Vote on this part of each value; by default on the whole value.
        normalize: Count strings as equal that differ only in case, whitespace, and punctuation at their ends.
        give: What to return: `"key"`, the part that was voted on, or `"item"`, the first value that has the
            winning part.

    Raises:
        ReducerError: if there are no votes, a vote lacks the key, a weight is negative or not a number (NaN
            is refused too), or `give` is invalid.

    Example:
        >>> votes = [{"answer": 4, "sure": 0.9}, {"answer": 5, "sure": 0.4}, {"answer": 5, "sure": 0.3}]
        >>> weighted_vote(votes, weight="sure", key="answer")
        4
    """
    check_give("weighted_vote", give)
    if values is None:
        return partial(weighted_vote, weight=weight, key=key, normalize=normalize, give=give)
    weights = numbers("weighted_vote", values, weight)
    if weights and min(weights) < 0:
        place = weights.index(min(weights))
        raise ReducerError(
            f"weighted_vote: the weight of value {place} is {weights[place]:g}; expected a number >= 0."
        )
    tally: Tally = []
    for value, vote, heavy in zip(values, parts("weighted_vote", values, key), weights, strict=True):
        _count(tally, vote, value if give == "item" else vote, heavy, normalize=normalize)
    return _winner("weighted_vote", tally)


def _winner(reducer: str, tally: Tally) -> Any:
    check_some(reducer, tally)
    # `max` returns the first of several equal entries.
    return max(tally, key=lambda entry: entry[2])[1]
