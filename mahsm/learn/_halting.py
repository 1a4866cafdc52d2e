"""When more samples are not worth it: reducers for `stop_when` of a `vmap`."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, cast

from mahsm._common import is_figure, shown
from mahsm.errors import LearnError, ReducerError
from mahsm.reducers import Key, Reducer, majority_vote, normalized


class _Votes(NamedTuple):
    left: int
    votes: tuple[Any, ...]
    counts: tuple[tuple[Any, int], ...]


class _Confident:
    def __init__(self, level: float, least: int, key: Key | None, normalize: bool) -> None:
        self._level = level
        self._least = least
        self._key = key
        self._normalize = normalize

    def init(self, total: int) -> _Votes:
        return _Votes(total, (), ())

    def add(self, state: _Votes, value: Any) -> _Votes:
        # A vote alone is the winner of its own vote.
        vote = majority_vote([value], key=self._key)
        compared = normalized(vote) if self._normalize else vote
        counts = tuple((each, count + (each == compared)) for each, count in state.counts)
        if all(each != compared for each, _ in counts):
            counts += ((compared, 1),)
        return _Votes(state.left - 1, (*state.votes, vote), counts)

    def decided(self, state: _Votes) -> bool:
        first, second, *_ = [*sorted((count for _, count in state.counts), reverse=True), 0, 0]
        if first > second + state.left:
            return True
        return first + second >= self._least and lead(first, second) >= self._level

    def result(self, state: _Votes) -> Any:
        return majority_vote(list(state.votes), normalize=self._normalize)


def confident(
    level: float = 0.95, *, least: int = 2, key: Key | None = None, normalize: bool = False
) -> Reducer:
    """Return a majority vote that is decided as soon as its leader is probably right.

    After `n` votes for the leader and `m` for the second, the share of the leader among the two has the
    posterior `Beta(n + 1, m + 1)`. The vote is decided if that share is above one half with probability
    `level`, or the lead cannot be overtaken. It is a confidence and no guarantee: the votes are looked at
    after each sample, and the second is the one that happens to be second.

    Args:
        level: The probability, in (0.5, 1).
        least: So many votes at least, >= 1.
        key: Vote on this part of each value; by default on the whole value.
        normalize: Count strings as equal that differ only in case, whitespace, and punctuation at their ends.

    Returns:
        A reducer for `stop_when=` of a `vmap`, and for `reduce_edge`.

    Raises:
        LearnError: if an argument is invalid.

    Example:
        >>> from mahsm import vmap
        >>> from mahsm.learn import confident
        >>> edge = vmap(lambda state: "Paris", sample=15, out_key="answers", stop_when=confident(0.95),
        ...             max_concurrency=1)
        >>> len(edge.invoke({})["answers"])
        4
    """
    if not is_figure(level, 0.5, 1.0) or level in (0.5, 1.0):
        raise LearnError(f"confident: level={shown(level)}; expected a probability in (0.5, 1).")
    _check_least("confident", least, 1)
    return _Confident(level, least, key, normalize)


def lead(first: int, second: int) -> float:
    """Return the probability that a share with the posterior `Beta(first + 1, second + 1)` is above 1/2.

    It is that of at most `first` heads in `first + second + 1` throws of a coin.
    """
    throws = first + second + 1
    return sum(math.comb(throws, heads) for heads in range(first + 1)) / 2**throws


class _Scores(NamedTuple):
    values: tuple[Any, ...]
    samples: int
    mean: float
    squares: float
    best: float


class _NoGain:
    def __init__(self, price: float, least: int, key: Key | None) -> None:
        self._price = price
        self._least = least
        self._key = key

    def init(self, total: int) -> _Scores:
        return _Scores((), 0, 0.0, 0.0, -math.inf)

    def add(self, state: _Scores, value: Any) -> _Scores:
        score = _score(value, self._key)
        count = state.samples + 1
        off = score - state.mean
        mean = state.mean + off / count
        squares = state.squares + off * (score - mean)
        return _Scores((*state.values, value), count, mean, squares, max(state.best, score))

    def decided(self, state: _Scores) -> bool:
        if state.samples < self._least:
            return False
        deviation = math.sqrt(state.squares / (state.samples - 1) * (1 + 1 / state.samples))
        return gain(state.best, state.mean, deviation) < self._price

    def result(self, state: _Scores) -> Any:
        if not state.values:
            raise ReducerError(
                "no_gain: there are no values to choose from. Route around the edge when the list is empty."
            )
        return max(state.values, key=partial(_score, key=self._key))


def no_gain(price: float, *, key: Key | None = None, least: int = 4) -> Reducer:
    """Return a best-of-n that is decided when one more sample is not expected to gain its price.

    The scores so far are taken for draws of a normal distribution. Its mean and deviation give the expected
    gain of one more sample over the best one.

    Args:
        price: The price of a sample, in units of the score, > 0.
        key: The score: a key of each value, or a function of it; by default the value itself.
        least: So many samples at least, >= 2: a deviation of few scores is uncertain.

    Returns:
        A reducer for `stop_when=` of a `vmap`, and for `reduce_edge`; its result is the value with the
        highest score.

    Raises:
        LearnError: if an argument is invalid; when it runs, if a score is not a number.
        ReducerError: when it reduces an empty list.

    Example:
        >>> from mahsm.learn import no_gain
        >>> best = no_gain(0.01, key="score", least=3)
        >>> state = best.init(10)
        >>> for score in (0.50, 0.81, 0.80, 0.79):
        ...     state = best.add(state, {"score": score})
        >>> best.decided(state), best.result(state)
        (False, {'score': 0.81})
    """
    if not is_figure(price) or price == 0:
        raise LearnError(f"no_gain: price={shown(price)}; expected a number > 0, in units of the score.")
    _check_least("no_gain", least, 2)
    return _NoGain(price, least, key)


def gain(best: float, mean: float, deviation: float) -> float:
    """Return by how much a normal draw is expected to exceed the best score so far; 0 if it does not."""
    if deviation == 0.0:
        return max(mean - best, 0.0)
    u = (best - mean) / deviation
    density = math.exp(-u * u / 2) / math.sqrt(2 * math.pi)
    return deviation * (density - u * math.erfc(u / math.sqrt(2)) / 2)


def _score(value: Any, key: Key | None) -> float:
    part: Any = value if key is None else key(value) if callable(key) else _field(value, key)
    if not is_figure(part, least=-1e300, most=1e300):
        raise LearnError(f"no_gain: the score of {shown(value)} is {shown(part)}; expected a number.")
    return float(part)


def _field(value: Any, key: str) -> Any:
    return cast("Mapping[str, Any]", value).get(key) if isinstance(value, Mapping) else None


def _check_least(reducer: str, least: Any, bound: int) -> None:
    if type(least) is not int or least < bound:
        raise LearnError(f"{reducer}: least={shown(least)}; expected an integer >= {bound}.")
