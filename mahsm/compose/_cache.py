"""`cache`: a function that is called once for equal arguments."""

import inspect
import math
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple, overload

from mahsm._common import MOST_SECONDS, check, is_figure, shown, tagged
from mahsm._waiting import Way
from mahsm.compose._calls import Kind, acall, arguments, call, call_as, kind_of
from mahsm.compose._flights import MISSING, Flight, Results
from mahsm.compose._function import AwaitedFunction, ComposedFunction, P, R
from mahsm.operators._internal import in_thread, traced


class CacheInfo(NamedTuple):
    """Statistics of a cache, as those of `functools.lru_cache`.

    Attributes:
        hits: Calls that were answered without a call of the function of their own.
        misses: Calls that called the function.
        maxsize: The most results that are kept, or None for no limit.
        currsize: The results that are kept now.
    """

    hits: int
    misses: int
    maxsize: int | None
    currsize: int


class CachedFunction(ComposedFunction[P, R]):
    """A function with a cache. Made by `cache`."""

    made_by = "cache"
    function: Any
    key: Any
    positions: tuple[str | None, ...]
    max_size: int | None
    results: Results

    @property
    def first(self) -> Any:
        return self.function

    def clear(self) -> None:
        """Forget all results and statistics; a call in progress is not kept either."""
        self.results.clear()

    def info(self) -> CacheInfo:
        """Return the statistics since the last `clear`."""
        results = self.results
        return CacheInfo(results.hits, results.misses, self.max_size, len(results))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        # Equinox makes the read of an attribute ten times as slow as that of a dict.
        fields = vars(self)
        kind: Kind = fields["kind"]
        results: Results = fields["results"]
        function = fields["function"]
        if results.are_of(function):
            key = _key_of(fields, args, kwargs)
            value = results.get(key)
            if value is not MISSING:
                return value
            if key is not None and not traced():
                return results.call(key, kind.name, partial(call, function, kind, args, kwargs))
        return call(function, kind, args, kwargs)

    async def run(self, way: Way, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kind, results, function = self.kind, self.results, self.function
        key = _key_of(vars(self), args, kwargs) if results.are_of(function) else None
        value = results.get(key)
        if value is not MISSING:
            return value
        if key is None or traced():
            return await call_as(way, function, kind, args, kwargs)

        async def begin(flight: Flight) -> None:
            work = partial(call, function, kind, args, kwargs)
            try:
                if kind.awaits:
                    results.end(key, flight, await acall(function, kind, args, kwargs))
                else:
                    # The thread ends the flight, so that a thread that waits for it needs no event loop.
                    await in_thread(partial(results.fill, key, flight, work))
            except BaseException as error:  # noqa: BLE001  the callers raise it
                results.end(key, flight, error=error)

        return await results.acall(key, kind.name, begin)


class AwaitedCachedFunction(AwaitedFunction[P, R], CachedFunction[P, R]):
    """An async function with a cache."""


def _key_of(fields: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
    """Return the key of a call, or None for a call that JAX traces and that has a tracer as an argument.

    Raises:
        TypeError: if an argument cannot be part of a key.
    """
    key, kind = fields["key"], fields["kind"]
    if key is not None:
        args, kwargs = (key(*args, **kwargs),), {}
    else:
        if kind.by_fields:
            args, kwargs = arguments(kind, args, kwargs)
        if kwargs:
            args, kwargs = _in_place(fields["positions"], args, kwargs)
    if not kwargs and len(args) == 1 and type(args[0]) is str:
        return args[0]
    try:
        return tagged((args, kwargs), by_value=True)
    except (TypeError, RecursionError) as error:
        if traced():
            return None
        raise TypeError(
            f"{kind.name}: the arguments {shown((*args, *kwargs.values()))} cannot be the key of a "
            f"cache: {error}. Pass key=, a function of the arguments that returns what tells them apart."
        ) from error


def _in_place(
    positions: tuple[str | None, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments with those by name at their positions, so that equal calls have equal keys."""
    rest, more = dict(kwargs), list(args)
    for name in positions[len(args) :]:
        if name not in rest:
            break
        more.append(rest.pop(name))
    return tuple(more), rest


def _positions(function: Any) -> tuple[str | None, ...]:
    """Return the names of the parameters that have a position; None for those without a name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have none
        return ()
    unnamed, named = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return tuple(
        each.name if each.kind is named else None for each in parameters if each.kind in (unnamed, named)
    )


@overload
def cache(
    function: Callable[P, R],
    /,
    ttl: float | None = ...,
    max_size: int | None = ...,
    key: Callable[..., Any] | None = ...,
) -> CachedFunction[P, R]: ...
@overload
def cache(
    *, ttl: float | None = ..., max_size: int | None = ..., key: Callable[..., Any] | None = ...
) -> Callable[[Callable[P, R]], CachedFunction[P, R]]: ...
@check.arguments()
def cache(
    function: Any = None,
    /,
    ttl: float | None = None,
    max_size: int | None = 1_000,
    key: Callable[..., Any] | None = None,
) -> Any:
    """Call a function once for equal arguments, and keep its results; as a decorator, `@cache(ttl=60)`.

    Arguments are equal if their types and values are, inside of containers too: 1, 1.0 and True differ, and
    the order of a dict does not matter. Lists, dicts, arrays, dataclasses and pydantic models are compared by
    value; objects that can be hashed, as Python compares them. `f(1, b=2)` and `f(a=1, b=2)` are equal calls.

    Concurrent calls with equal arguments, from any threads and event loops, make one call of the function. If
    it raises, so do all of them, and nothing is kept. A caller that is cancelled does not cancel the call for
    the others.

    Results are not copied: all callers get the same object, so do not change it.

    Args:
        function: A function, sync or async, an operator, or a DSPy module.
        ttl: Seconds for which a result is kept, > 0; None for no limit.
        max_size: The most results that are kept, >= 1; then the one that was not used for longest is dropped.
            None for no limit.
        key: Maps the arguments to what tells calls apart, by default the arguments.

    Returns:
        A function with `clear()`, and `info()` with `hits`, `misses`, `maxsize` and `currsize`.

    Raises:
        TypeError: immediately, if `function` cannot be called; when called, if an argument can be neither
            hashed nor compared by value.
        ValueError: immediately, if `ttl` or `max_size` is invalid.

    Example:
        >>> from mahsm import cache
        >>> @cache(ttl=3600)
        ... def double(number):
        ...     print("called")
        ...     return 2 * number
        >>> double(2), double(2), double(number=2)
        called
        (4, 4, 4)
        >>> double.info()
        CacheInfo(hits=2, misses=1, maxsize=1000, currsize=1)
    """
    if isinstance(function, int | float):
        raise TypeError(
            f"cache: got {function}; expected a function, an operator or a DSPy module. "
            f"For seconds, write @cache(ttl={function})."
        )
    if ttl is not None and not (is_figure(ttl, most=MOST_SECONDS) and ttl > 0):
        raise ValueError(f"cache: ttl={shown(ttl)}; expected seconds > 0, or None for no limit.")
    if max_size is not None and (type(max_size) is not int or max_size < 1):
        raise ValueError(
            f"cache: max_size={shown(max_size)}; expected an integer >= 1, or None for no limit."
        )
    if key is not None and not callable(key):
        raise TypeError(f"cache: key={shown(key)}; expected a function of the arguments.")
    if function is None:
        return partial(cache, ttl=ttl, max_size=max_size, key=key)
    kind = kind_of("cache", function)
    cls: Any = AwaitedCachedFunction if kind.is_async else CachedFunction
    return cls(
        kind=kind,
        function=function,
        key=key,
        positions=_positions(function),
        max_size=max_size,
        results=Results(math.inf if max_size is None else max_size, ttl),
    )
