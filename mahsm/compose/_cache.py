"""`cache`: a function whose results are kept.

A *flight* is a call that is being made. Equal calls that come meanwhile, from any thread or event loop, wait
for it. Under `await` it is a task of its own, so that a caller that is cancelled takes nothing from the
others; when all of them have been, it is cancelled too.
"""

import asyncio
import functools
import math
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from typing import Any, NamedTuple

import cachetools
import equinox as eqx

from mahsm._common import cache_key, check, shown
from mahsm._waiting import TASK, THREAD, Way, tasks
from mahsm.compose._part import Composed, call_part, check_part, name_of, parameters_of_part
from mahsm.errors import EdgeError
from mahsm.operators._internal import Parameters

_MISSING: Any = object()
_SIMPLE: frozenset[type] = frozenset({str, int, bool, bytes, type(None)})
"""Types whose values are equal only if they are the same, given the type."""


class CacheInfo(NamedTuple):
    """Statistics of a cache.

    Attributes:
        hits: Calls that got a result that was there, or was being made.
        misses: Calls that were made.
        maxsize: The most results that it keeps; None for no bound.
        currsize: The results that it keeps.
    """

    hits: int
    misses: int
    maxsize: int | None
    currsize: int


class _Flight:
    """A call that is being made.

    Attributes:
        future: Its result.
        loop: The event loop that it is made on, if any.
        waiters: The number of callers that await it.
        task: Its task, if it is awaited.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.future: Future[Any] = Future()
        self.loop = loop
        self.waiters = 0
        self.task: asyncio.Task[None] | None = None


def _now() -> float:
    return time.monotonic()


class _Store:
    """The results of one function, and its flights.

    Args:
        max_size: The most results; None for no bound.
        ttl: Seconds that a result is kept; None for no bound.
    """

    def __init__(self, max_size: int | None, ttl: float | None) -> None:
        size = math.inf if max_size is None else max_size
        self._max_size = max_size
        self._values: Any = (
            cachetools.LRUCache(size) if ttl is None else cachetools.TTLCache(size, ttl, timer=_now)
        )
        self._flights: dict[Any, _Flight] = {}
        self._lock = threading.Lock()
        self._hits = 0
        self._misses = 0

    def clear(self) -> None:
        """Forget all results; calls in progress keep theirs for those who wait."""
        with self._lock:
            self._values.clear()
            self._flights.clear()

    def info(self) -> CacheInfo:
        with self._lock:
            return CacheInfo(self._hits, self._misses, self._max_size, len(self._values))

    def _board(self, key: Any, loop: asyncio.AbstractEventLoop | None) -> tuple[Any, _Flight | None, bool]:
        """Return the result, if it is there; otherwise the flight, and whether it is the caller's to make."""
        with self._lock:
            value = self._values.get(key, _MISSING)
            if value is not _MISSING:
                self._hits += 1
                return value, None, False
            flight = self._flights.get(key)
            if flight is not None:
                self._hits += 1
                flight.waiters += 1
                return None, flight, False
            self._misses += 1
            flight = self._flights[key] = _Flight(loop)
            flight.waiters = 1
            return None, flight, True

    def _land(self, key: Any, flight: _Flight, value: Any, error: BaseException | None) -> None:
        with self._lock:
            is_kept = self._flights.get(key) is flight
            if is_kept:
                del self._flights[key]
                if error is None:
                    self._values[key] = value
        if error is None:
            flight.future.set_result(value)
        elif isinstance(error, Exception):
            flight.future.set_exception(error)
        else:
            flight.future.cancel()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return the result of a key; make it if it is neither there nor being made."""
        while True:
            value, flight, is_mine = self._board(key, None)
            if flight is None:
                return value
            if is_mine:
                try:
                    value = make()
                except BaseException as error:
                    self._land(key, flight, None, error)
                    raise
                self._land(key, flight, value, None)
                return value
            if flight.loop is not None and tasks.is_running_here(flight.loop):
                return make()  # to wait would block the loop that makes it
            try:
                return flight.future.result()
            except CancelledError:
                continue

    async def aget(self, key: Any, make: Callable[[], Awaitable[Any]]) -> Any:
        """Async version of `get`."""
        while True:
            loop = asyncio.get_running_loop()
            value, flight, is_mine = self._board(key, loop)
            if flight is None:
                return value
            if is_mine:
                flight.task = tasks.detached(self._made(key, flight, make))
            try:
                return await asyncio.shield(asyncio.wrap_future(flight.future))
            except asyncio.CancelledError:
                if tasks.is_cancelled_here() or not flight.future.cancelled():
                    raise
            finally:
                self._leave(flight)

    async def _made(self, key: Any, flight: _Flight, make: Callable[[], Awaitable[Any]]) -> None:
        try:
            value = await make()
        except BaseException as error:
            self._land(key, flight, None, error)
            if not isinstance(error, Exception):
                raise
        else:
            self._land(key, flight, value, None)

    def _leave(self, flight: _Flight) -> None:
        with self._lock:
            flight.waiters -= 1
            is_last = flight.waiters == 0 and not flight.future.done()
        if is_last and flight.task is not None and flight.loop is not None:
            flight.loop.call_soon_threadsafe(flight.task.cancel)


class Cached(Composed):
    """A function whose results are kept. Made by `cache`.

    Attributes:
        first: The function.
    """

    first: Any
    parameters: Parameters = eqx.field(static=True)
    _key: Callable[..., Any] | None = eqx.field(static=True)
    _store: _Store = eqx.field(static=True)

    @property
    def parts(self) -> tuple[Any, ...]:
        return (self.first,)

    def clear(self) -> None:
        """Forget all results."""
        self._store.clear()

    def info(self) -> CacheInfo:
        """Return the statistics of the cache."""
        return self._store.info()

    async def _run(self, way: Way, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        key = self._key_of(args, options)
        if way is THREAD:
            return self._store.get(key, lambda: self.first(*args, **options))
        return await self._store.aget(key, lambda: call_part(self.first, TASK, args, options))

    def _key_of(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if self._key is not None:
            return self._key(*args, **options)
        kinds: list[Any] = [*map(type, args)]
        if not options and _SIMPLE.issuperset(kinds):
            return (*kinds, *args)
        try:
            return cache_key((args, options))
        except Exception as error:
            raise TypeError(
                f"cache: an argument of {name_of(self.first)} has no key: {error}. Pass key=, a function of "
                "the arguments that returns what tells calls apart."
            ) from error


def cache(
    fn: Any = None,
    /,
    *,
    ttl: float | None = None,
    max_size: int | None = 1_000,
    key: Callable[..., Any] | None = None,
) -> Any:
    """Keep the results of a function.

    Equal calls at the same time, from any threads and event loops, are made once. An error goes to all that
    waited, and is not kept. Arguments are compared by type and value: `1`, `True` and `1.0` differ, inside of
    containers too; the order of a dict's keys makes no difference. A result is kept as it is, and not copied.

    Args:
        fn: A function, sync or async, an operator or a DSPy module.
        ttl: Seconds that a result is kept, > 0; by default as long as there is room.
        max_size: The most results, >= 1; the one that was used the longest ago makes room. None for no bound.
        key: From the arguments to what tells calls apart, which can be hashed; by default all arguments.

    Returns:
        An operator that is called like the function, with `clear()` and `info()`; a decorator without one.

    Raises:
        TypeError: immediately, for what cannot be called; when called, for an argument without a key.
        EdgeError: immediately, for an invalid `ttl` or `max_size`.

    Example:
        >>> from mahsm import cache
        >>> @cache(ttl=3600)
        ... def answer(question):
        ...     return question.upper()
        >>> answer("why"), answer("why")
        ('WHY', 'WHY')
        >>> answer.info()
        CacheInfo(hits=1, misses=1, maxsize=1000, currsize=1)
    """
    check.seconds("cache", "ttl", ttl)
    if max_size is not None:
        check.whole("cache", "max_size", max_size, "the most results that are kept")
    if key is not None and not callable(key):
        raise EdgeError(f"cache: key={shown(key)}; expected a function of the arguments.")
    if fn is None:
        return functools.partial(cache, ttl=ttl, max_size=max_size, key=key)
    check_part("cache", fn)
    return Cached(first=fn, parameters=parameters_of_part(fn), _key=key, _store=_Store(max_size, ttl))
