"""Lists: joining them, their first values, and the fusion of rankings."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, TypeVar, cast, overload

from mahsm._common import shown
from mahsm.edges._internal import streams_as
from mahsm.errors import ReducerError
from mahsm.reducers._values import Key, check_some, check_whole, parts

T = TypeVar("T")


@overload
def concat(values: Sequence[Any], /, *, key: Key | None = None, separator: str = "\n\n") -> Any: ...
@overload
def concat(*, key: Key | None = None, separator: str = "\n\n") -> Callable[[Sequence[Any]], Any]: ...
def concat(values: Sequence[Any] | None = None, /, *, key: Key | None = None, separator: str = "\n\n") -> Any:
    """Join strings to one string, or lists to one list.

    Args:
        values: Strings, or lists.
        key: Where the string or list is: a key of each value, or a function of it; by default the value
            itself.
        separator: The separator of two strings.

    Raises:
        ReducerError: if the values are neither all strings nor all lists.

    Example:
        >>> concat([[1, 2], [3]])
        [1, 2, 3]
        >>> concat(["one", "two"], separator=", ")
        'one, two'
    """
    if values is None:
        return partial(concat, key=key, separator=separator)
    found = parts("concat", values, key)
    if found and all(isinstance(part, str) for part in found):
        return separator.join(found)
    for part in found:
        if isinstance(part, str | Mapping) or not isinstance(part, Iterable):
            raise ReducerError(
                f"concat: found {shown(cast('object', part))}; expected all strings, or all lists. Set key=."
            )
    return list(chain.from_iterable(found))


class _First:
    """Streaming form of `first`: decided as soon as it has enough values."""

    def __init__(self, *, k: int = 1, where: Callable[[Any], object] | None = None) -> None:
        self._k = k
        self._where = where

    def init(self, total: int) -> list[Any]:
        return []

    def add(self, state: list[Any], value: Any) -> list[Any]:
        return [*state, value] if self._where is None or self._where(value) else state

    def decided(self, state: list[Any]) -> bool:
        return len(state) >= self._k

    def result(self, state: list[Any]) -> list[Any]:
        return state[: self._k]


@overload
def first(values: Sequence[T], /, *, k: int = 1, where: Callable[[T], object] | None = None) -> list[T]: ...
@overload
def first(
    *, k: int = 1, where: Callable[[Any], object] | None = None
) -> Callable[[Sequence[Any]], list[Any]]: ...
@streams_as(_First)
def first(
    values: Sequence[Any] | None = None, /, *, k: int = 1, where: Callable[[Any], object] | None = None
) -> Any:
    """Return the first `k` values that are good enough; all of these if there are fewer.

    As `stop_when` of a `vmap`, it stops the run as soon as there are `k`.

    Args:
        values: The candidates.
        k: The number of values, >= 1.
        where: A function that returns whether a value is good enough; by default all values are.

    Raises:
        ReducerError: if `k` is not an integer >= 1.

    Example:
        >>> first([0.2, 0.9, 0.8], where=lambda score: score > 0.5)
        [0.9]
    """
    check_whole("first", "k", k)
    if values is None:
        return partial(first, k=k, where=where)
    return [value for value in values if where is None or where(value)][:k]


@overload
def rank_fusion(values: Sequence[Sequence[T]], /, *, k: int = 60, id: Key | None = None) -> list[T]: ...
@overload
def rank_fusion(*, k: int = 60, id: Key | None = None) -> Callable[[Sequence[Sequence[Any]]], list[Any]]: ...
def rank_fusion(
    values: Sequence[Sequence[Any]] | None = None, /, *, k: int = 60, id: Key | None = None
) -> Any:
    """Merge several rankings, such as those of several searches, into one; best first.

    An entry scores `1 / (k + rank)` in each ranking that contains it, with ranks from 1: reciprocal rank
    fusion, Cormack, Clarke and Buettcher (SIGIR 2009), whose `k` of 60 is the default. Entries with equal
    scores keep the order in which they first occur.

    Args:
        values: The rankings, each best first. Of an entry that occurs twice in one, the first place counts.
        k: Smoothing constant, >= 1: the larger it is, the less the rank matters.
        id: Identity of an entry: a key of the entry, or a function of it; by default the entry itself.

    Raises:
        ReducerError: if there are no rankings, an entry lacks the key, or its identity is not hashable.

    Example:
        >>> rank_fusion([["a", "b", "c"], ["b", "c"], ["b", "a"]])
        ['b', 'a', 'c']
    """
    check_whole("rank_fusion", "k", k)
    if values is None:
        return partial(rank_fusion, k=k, id=id)
    check_some("rank_fusion", values)
    scores: dict[Hashable, float] = {}
    entries: dict[Hashable, Any] = {}
    for ranking in values:
        if isinstance(ranking, str | Mapping) or not isinstance(ranking, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ReducerError(
                f"rank_fusion: found {shown(ranking)}; expected a ranking, a list with the best first."
            )
        ids = parts("rank_fusion", ranking, id)
        seen: set[Hashable] = set()
        for rank, (entry_id, entry) in enumerate(zip(ids, ranking, strict=True), 1):
            if not isinstance(entry_id, Hashable):
                raise ReducerError(
                    f"rank_fusion: {shown(entry_id)} is not hashable, so it cannot identify an entry. Pass "
                    "id=, such as id='url'."
                )
            if entry_id not in seen:
                seen.add(entry_id)
                entries.setdefault(entry_id, entry)
                scores[entry_id] = scores.get(entry_id, 0.0) + 1 / (k + rank)
    return [entries[entry_id] for entry_id in sorted(scores, key=lambda entry_id: -scores[entry_id])]
