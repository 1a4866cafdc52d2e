"""Calls in progress that several callers wait for, in threads and on event loops."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Hashable
from concurrent import futures
from contextlib import suppress
from typing import Any

from cachetools import Cache, LRUCache, TTLCache
from langgraph.errors import GraphBubbleUp

from mahsm._waiting import TASK, THREAD, Closed, Latch, Way, left_behind, run_blocking, tasks
from mahsm.compose._function import Shared
from mahsm.errors import BudgetExceeded

MISSING: Any = object()

_OF_ONE_CALLER = (Closed, futures.CancelledError, BudgetExceeded, GraphBubbleUp)
"""Errors that concern the caller in whose context the call was made, and not those who wait for it."""


class Flight:
    """One call in progress.

    Attributes:
        landed: Opens when the call has ended.
        value: What it returned.
        error: What it raised.
        thread: The thread that it blocks.
        task: The task that it is, if its first caller awaits it.
        waiting: The number of callers that wait for the task.
    """

    __slots__ = ("error", "landed", "task", "thread", "value", "waiting")

    def __init__(self) -> None:
        self.landed: Latch = Latch()
        self.value: Any = MISSING
        self.error: BaseException | None = None
        self.thread: int | None = None
        self.task: asyncio.Task[None] | None = None
        self.waiting: int = 0

    @property
    def is_over(self) -> bool:
        """True if the call has ended."""
        return self.value is not MISSING or self.error is not None


class Results(Shared):
    """The results of a function, by key, and its calls in progress.

    A call has one flight for each key, which belongs to no caller. Its first caller begins it. A thread makes
    the call itself. A task begins another task, so that its own cancellation does not end the call while
    others wait; when the last one of them is cancelled, so is the call. If a flight ends with an error that
    concerns its first caller alone, those who wait begin another one.

    Args:
        max_size: The most results that are kept.
        ttl: Seconds for which they are kept, or None for no limit.
    """

    def __init__(self, max_size: float, ttl: float | None) -> None:
        super().__init__(max_size, ttl)
        self._lock = threading.Lock()
        self._values: Cache[Hashable, Any] = LRUCache(max_size)
        if ttl is not None:
            self._values = TTLCache[Hashable, Any, float](max_size, ttl)
        self._flights: dict[Hashable, Flight] = {}
        self._function: Any = MISSING
        self.hits: int = 0
        self.misses: int = 0

    def __len__(self) -> int:
        with self._lock:
            return len(self._values)

    def are_of(self, function: Any) -> bool:
        """Return whether the results are those of this function.

        A copy of an operator with other parameters, or with another DSPy module, is another function.
        """
        if self._function is MISSING:
            self._function = function
        return self._function is function

    def clear(self) -> None:
        """Forget all results, those of the calls in progress too."""
        with self._lock:
            self._values.clear()
            self._flights = {}
            self.hits = self.misses = 0

    def get(self, key: Hashable) -> Any:
        """Return a result, or `MISSING`."""
        with self._lock:
            try:
                # Without a default, which takes cachetools two lookups.
                value = self._values[key]
            except KeyError:
                return MISSING
            self.hits += 1
            return value

    def call(self, key: Hashable, name: str, function: Callable[[], Any]) -> Any:
        """Return the result of a key in a thread; `function` makes it if there is none."""
        while True:
            value, flight, is_first = self._look(key)
            if flight is None:
                return value
            if is_first:
                return self.fill(key, flight, function)
            if flight.thread == threading.get_ident() or (
                flight.task is not None and tasks.is_running_here(flight.task.get_loop())
            ):
                raise _waits_for_itself(name)
            run_blocking(self._wait(THREAD, key, flight))
            if _has_result(flight):
                return flight.value

    async def acall(
        self, key: Hashable, name: str, begin: Callable[[Flight], Coroutine[Any, Any, None]]
    ) -> Any:
        """Async version of `call`; `begin` ends the flight with a result or an error."""
        while True:
            value, flight, is_first = self._look(key)
            if flight is None:
                return value
            if is_first:
                flight.task = tasks.begin_apart(begin(flight))
            elif flight.task is not None and flight.task is asyncio.current_task():
                raise _waits_for_itself(name)
            await self._wait(TASK, key, flight)
            if is_first and flight.error is not None:
                raise flight.error
            if _has_result(flight):
                return flight.value

    def fill(self, key: Hashable, flight: Flight, function: Callable[[], Any]) -> Any:
        """Make the call of a flight in this thread."""
        flight.thread = threading.get_ident()
        try:
            value = function()
        except BaseException as error:
            self.end(key, flight, error=error)
            raise
        self.end(key, flight, value)
        return value

    def end(
        self, key: Hashable, flight: Flight, value: Any = MISSING, error: BaseException | None = None
    ) -> None:
        """End a flight; of no effect if it has ended."""
        with self._lock:
            if flight.is_over:
                return
            flight.value, flight.error = value, error
            if self._flights.get(key) is flight:
                del self._flights[key]
                if error is None:
                    with suppress(ValueError):  # max_size=0 keeps nothing
                        self._values[key] = value
        flight.landed.open()

    def _look(self, key: Hashable) -> tuple[Any, Flight | None, bool]:
        """Return the result of a key; or its flight, and whether it is a new one."""
        with self._lock:
            value = self._values.get(key, MISSING)
            if value is not MISSING:
                self.hits += 1
                return value, None, False
            flight = self._flights.get(key)
            if is_first := flight is None:
                self.misses += 1
                flight = self._flights[key] = Flight()
            else:
                self.hits += 1
            flight.waiting += 1
            return MISSING, flight, is_first

    async def _wait(self, way: Way, key: Hashable, flight: Flight) -> None:
        try:
            await flight.landed.wait(way, left_behind.on_stop)
            left_behind.check()
        finally:
            with self._lock:
                flight.waiting -= 1
                is_left = not (flight.waiting or flight.is_over)
                if is_left and self._flights.get(key) is flight:
                    # A caller that comes now must not wait for a call that is being cancelled.
                    del self._flights[key]
            if is_left and flight.task is not None:
                with suppress(RuntimeError):  # its loop is closed
                    flight.task.get_loop().call_soon_threadsafe(flight.task.cancel)


def _has_result(flight: Flight) -> bool:
    """Return whether a flight has a result.

    Raises:
        Exception: the error of the flight, if it concerns all who waited.
    """
    error = flight.error
    if isinstance(error, Exception) and not isinstance(error, _OF_ONE_CALLER):
        raise error
    return error is None


def _waits_for_itself(name: str) -> RuntimeError:
    return RuntimeError(
        f"{name} is called inside of a call with the same arguments, or on the event loop of one, and would "
        "wait for itself forever. Call it with other arguments, or await acall."
    )
