"""The two ways to wait: as a task of an event loop, or as a thread.

What differs only in how it waits is written once, as a coroutine function that is given a `Way`. A task
awaits it. A thread calls it with `run_blocking`: given `THREAD`, it blocks wherever it would suspend as a
task, so driving it is one `send`, which returns with its result. Code that really suspends, such as a task
group, must not be reached on the way of threads; `run_blocking` refuses it, since nothing would resume it.

The way is an argument and not found out, because neither of the things that could be looked at says it: a
thread may block although an event loop runs in it, and a context variable is inherited by what runs in
another way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from mahsm._waiting.turns import TaskTurn, ThreadTurn, Turn

P = ParamSpec("P")
T = TypeVar("T")


class Way:
    """How a caller waits.

    Args:
        turn: Makes a turn that is waited for in this way.
    """

    def __init__(self, turn: Callable[[], Turn]) -> None:
        self.turn = turn

    async def call(self, blocks: Callable[[], T], awaits: Callable[[], Awaitable[T]]) -> T:
        """Call the blocking version of a function as a thread, the awaitable one as a task."""
        return blocks() if self is THREAD else await awaits()

    async def call_blocking(self, function: Callable[[], T]) -> T:
        """Call a function that blocks; as a task, in another thread."""
        return function() if self is THREAD else await asyncio.to_thread(function)


TASK = Way(TaskTurn)
"""As a task of the running event loop."""

THREAD = Way(ThreadTurn)
"""As a thread that blocks."""


def run_blocking(core: Coroutine[Any, Any, T]) -> T:
    """Run, in this thread, a coroutine that waits as a thread.

    Raises:
        RuntimeError: if it suspends, as only a task may.
    """
    try:
        core.send(None)
    except StopIteration as done:
        return done.value
    core.close()
    raise RuntimeError("this waits for an event loop, and was called to wait as a thread")


def sides(
    core: Callable[Concatenate[Way, P], Coroutine[Any, Any, T]],
) -> tuple[Callable[P, T], Callable[P, Coroutine[Any, Any, T]]]:
    """Return the blocking and the awaitable version of a coroutine function that is given its way."""

    @wraps(core)
    def sync(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_blocking(core(THREAD, *args, **kwargs))

    def async_(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        return core(TASK, *args, **kwargs)

    return sync, async_
