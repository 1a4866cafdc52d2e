"""Calls of functions that are not rewritten: they get values, and functions that return values."""

import functools
import inspect
from collections.abc import Callable, Coroutine
from types import CoroutineType, FunctionType
from typing import Any

from mahsm.xcs._containers import ATOMS, forced, kind_of, rewritten_codes
from mahsm.xcs._current import Program, running
from mahsm.xcs._greenlets import in_body
from mahsm.xcs._scopes import scope


def foreign(callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call what is not rewritten: it gets values, and functions that return values."""
    return callee(*[given(arg) for arg in args], **{name: given(arg) for name, arg in kwargs.items()})


def given(value: Any) -> Any:
    kind = kind_of(value)
    if kind in ATOMS:
        return value
    if kind is FunctionType and id(value.__code__) in rewritten_codes:
        return _returning_values(value)
    if kind is CoroutineType and id(value.cr_code) in rewritten_codes:
        return _as_strand(value)
    return forced(value)


def _as_strand(coroutine: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
    """Return a coroutine of rewritten code for code that may run it beside others."""
    run = running()
    return in_body(_forced_result(coroutine, run, () if run is None else run.branch()))


async def _forced_result(
    coroutine: Coroutine[Any, Any, Any], run: Program | None, path: tuple[int, ...]
) -> Any:
    if run is not None:
        run.begin_branch(path)
    with scope():
        result = await coroutine
    return forced(result)


def _returning_values(function: FunctionType) -> Callable[..., Any]:
    """Wrap a rewritten function for code that is not: such as a `key`, or a callback."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return await _as_strand(function(*args, **kwargs))

        return awaited

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with scope():
            result = function(*args, **kwargs)
        return forced(result)

    return called
