"""`timeout`: a function that may take only so long."""

import asyncio
import functools
from typing import Any

import equinox as eqx

from mahsm._common import check
from mahsm._waiting import TASK, LeftBehind, Way, tasks
from mahsm.compose._part import (
    Composed,
    awaited_side,
    call_part,
    check_part,
    is_async,
    name_of,
    parameters_of_part,
)
from mahsm.operators._internal import Parameters

_MOST_LEFT = 1_000
"""Calls of one function that may be left behind at a moment; further ones are errors."""


class Timed(Composed):
    """A function that may take only so long. Made by `timeout`.

    Attributes:
        first: The function.
        seconds: Seconds for each call.
    """

    first: Any
    seconds: float = eqx.field(static=True)
    parameters: Parameters = eqx.field(static=True)
    _left: LeftBehind = eqx.field(static=True)

    @property
    def parts(self) -> tuple[Any, ...]:
        return (self.first,)

    async def _run(self, way: Way, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if way is TASK:
            return await self._awaited(args, options)
        late = f"took longer than {self.seconds:g} s"
        try:
            return tasks.call(functools.partial(self.first, *args, **options), self.seconds, left=self._left)
        except TimeoutError as error:
            if str(error) != late:
                raise
            raise TimeoutError(f"{name_of(self.first)} {late}") from None

    async def _awaited(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        scope = asyncio.timeout(self.seconds)
        try:
            async with scope:
                if is_async(self.first) or awaited_side(self.first) is not None:
                    return await call_part(self.first, TASK, args, options)
                return await tasks.in_thread(functools.partial(self.first, *args, **options), self._left)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise TimeoutError(
                f"{name_of(self.first)} took longer than {self.seconds:g} s"
            ) from error.__cause__


def timeout(fn: Any = None, /, seconds: float | None = None) -> Any:
    """Let a function take only so long.

    An async function is cancelled. A blocking one runs in a thread of its own, which is left behind, since
    nothing can stop it; at most 1,000 calls of a function are, and further ones fail.

    Args:
        fn: A function, sync or async, an operator or a DSPy module.
        seconds: Seconds for each call, > 0.

    Returns:
        An operator that is called like the function, and raises a TimeoutError; a decorator without one.

    Raises:
        TypeError: immediately, for what cannot be called, or without `seconds`.
        EdgeError: immediately, for seconds that are not > 0.

    Example:
        >>> import time
        >>> from mahsm import timeout
        >>> timeout(time.sleep, 0.01)(0.2)
        Traceback (most recent call last):
        TimeoutError: sleep took longer than 0.01 s
    """
    if isinstance(fn, int | float) and seconds is None:
        fn, seconds = None, fn
    if seconds is None:
        raise TypeError("timeout got no seconds; expected a number > 0. Write timeout(function, seconds=30).")
    check.seconds("timeout", "seconds", seconds)
    if fn is None:
        return functools.partial(timeout, seconds=seconds)
    check_part("timeout", fn)
    return Timed(first=fn, seconds=seconds, parameters=parameters_of_part(fn), _left=LeftBehind(_MOST_LEFT))
