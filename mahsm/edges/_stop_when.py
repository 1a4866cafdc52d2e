"""Stopping a `vmap` early: when the entries so far decide what comes of it."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeAlias

from mahsm.reducers import Key, majority_vote

StopWhen: TypeAlias = Callable[[list[Any]], object]
"""A reducer that can be decided early, as `majority_vote`; or a function of the entries so far, in the order in which they
came, that says whether they are enough."""


class Accumulator(Protocol):
    """Takes entries one by one."""

    def add(self, entry: Any) -> bool:
        """Take one more; whether no further one can change the result."""
        ...


class _Majority:
    """Votes, until the lead cannot be caught up any more."""

    def __init__(self, total: int, key: Key | None = None) -> None:
        self._left = total
        self._key = key
        self._counts: list[tuple[Any, int]] = []

    def add(self, entry: Any) -> bool:
        self._left -= 1
        vote = majority_vote([entry], key=self._key)
        for place, (other, count) in enumerate(self._counts):
            if other == vote:
                self._counts[place] = (other, count + 1)
                break
        else:
            self._counts.append((vote, 1))
        first, second, *_ = [*sorted((count for _, count in self._counts), reverse=True), 0]
        return first > second + self._left


class _Enough:
    """All entries so far, for a plain function of them."""

    def __init__(self, function: StopWhen) -> None:
        self._function = function
        self._entries: list[Any] = []

    def add(self, entry: Any) -> bool:
        self._entries.append(entry)
        return bool(self._function(list(self._entries)))


def decider(stop_when: StopWhen, total: int) -> Callable[[Any], bool]:
    """What takes the entries of `total` items one by one, from any thread, and says when they are enough."""
    accumulator = _early(stop_when, total) or _Enough(stop_when)
    lock = threading.Lock()

    def add(entry: Any) -> bool:
        with lock:
            return accumulator.add(entry)

    return add


def _early(reducer: Any, total: int) -> Accumulator | None:
    """The accumulator of a reducer that has one; a reducer with options is a partial."""
    function, options = (reducer.func, reducer.keywords) if isinstance(reducer, partial) else (reducer, {})
    return _Majority(total, **options) if function is majority_vote else None
