"""Seats of branches in an item whose model calls are collected for jobs."""

import threading
from collections.abc import Callable
from contextvars import Context
from functools import partial

from mahsm._model_calls import calls


class Seats:
    """Seats of the branches that may run now: the item goes on without an answer while one of them does.

    A branch has its seat before it begins: at the beginning of the run, or before the seat of the last one
    that it waits for is given up. Where no calls are collected, there are no seats.

    Args:
        before: Returns of each branch those that it waits for.
    """

    def __init__(self, before: Callable[[], dict[str, set[str]]]) -> None:
        self._around = calls.here().batched
        self._lock = threading.Lock()
        self._before = {} if self._around is None else before()
        self._seats: dict[str, calls.Batched] = {}
        self._begin()

    def give_to(self, name: str, context: Context) -> None:
        """Let a branch run in its seat."""
        with self._lock:
            seat = self._seats.get(name)
        if seat is not None:
            context.run(partial(calls.change, batched=seat))

    def ended(self, name: str) -> None:
        """Give up the seat of a branch that has ended."""
        with self._lock:
            for others in self._before.values():
                others.discard(name)
            self._begin()
            seat = self._seats.pop(name, None)
        if seat is not None:
            seat.leave()

    def close(self) -> None:
        """Give up all seats."""
        with self._lock:
            self._before.clear()
            left, self._seats = self._seats, {}
        for seat in left.values():
            seat.leave()

    def _begin(self) -> None:
        if self._around is None:
            return
        for name in [name for name, others in self._before.items() if not others]:
            del self._before[name]
            self._seats[name] = self._around.inside()
