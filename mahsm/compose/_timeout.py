"""`timeout`: a function that may take so many seconds."""

from collections.abc import Callable
from functools import partial
from typing import Any, overload

from mahsm._common import MOST_SECONDS, check, is_figure, shown
from mahsm._waiting import THREAD, LeftBehind, Way, tasks
from mahsm.compose._calls import acall, call, kind_of
from mahsm.compose._function import AwaitedFunction, ComposedFunction, P, R, Shared
from mahsm.operators._internal import traced, with_settings

_AT_ONCE = 64
"""Concurrent calls of one function for which there is room; four times as many may hang."""


class _Hanging(Shared):
    """Calls that have been given up and still run."""

    def __init__(self) -> None:
        super().__init__()
        self.left = LeftBehind(_AT_ONCE)


class _Timeout(ComposedFunction[P, R]):
    made_by = "timeout"
    function: Any
    seconds: float
    hanging: _Hanging

    @property
    def first(self) -> Any:
        return self.function

    async def run(self, way: Way, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name, left = self.kind.name, self.hanging.left
        left.check(name)
        if way is not THREAD:
            async with tasks.deadline(self.seconds, name):
                return await acall(self.function, self.kind, args, kwargs, left)
        work = partial(call, self.function, self.kind, args, kwargs)
        # Traces of JAX are per thread.
        return work() if traced() else tasks.call(with_settings(work), self.seconds, left=left, name=name)


class _AwaitedTimeout(AwaitedFunction[P, R], _Timeout[P, R]):
    pass


@overload
def timeout(function: Callable[P, R], /, seconds: float) -> ComposedFunction[P, R]: ...
@overload
def timeout(*, seconds: float) -> Callable[[Callable[P, R]], ComposedFunction[P, R]]: ...
@overload
def timeout(seconds: float, /) -> Callable[[Callable[P, R]], ComposedFunction[P, R]]: ...
@check.arguments(timeout="Pass seconds=.")
def timeout(function: Any = None, /, seconds: Any = None) -> Any:
    """Raise an error if a call of a function takes too long; also as a decorator, `@timeout(seconds=10)`.

    An async function is cancelled. A blocking one cannot be stopped: it runs in a thread of its own, which is
    left behind, and begins no further call of a model there. At most 256 such calls of one function may hang.

    Args:
        function: A function, sync or async, an operator, or a DSPy module.
        seconds: The most seconds that a call may take, > 0.

    Raises:
        TypeError: immediately, if `function` cannot be called.
        ValueError: immediately, if `seconds` is invalid.
        TimeoutError: when called, after so many seconds.
        TooManyHanging: when called, if too many calls hang.

    Example:
        >>> import time
        >>> from mahsm import timeout
        >>> timeout(time.sleep, 0.01)(0.1)
        Traceback (most recent call last):
        ...
        TimeoutError: sleep: took longer than 0.01 s
    """
    if seconds is None and not callable(function):
        function, seconds = None, function
    if not (is_figure(seconds, most=MOST_SECONDS) and seconds > 0):
        raise ValueError(f"timeout: seconds={shown(seconds)}; expected a number > 0, such as seconds=30.")
    if function is None:
        return partial(timeout, seconds=seconds)
    kind = kind_of("timeout", function)
    cls: Any = _AwaitedTimeout if kind.is_async else _Timeout
    return cls(kind=kind, function=function, seconds=float(seconds), hanging=_Hanging())
