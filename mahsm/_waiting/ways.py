"""The two ways to wait: as a task of an event loop, or as a thread.

Code whose sync and async versions differ only in how they wait is written once, as a coroutine function that
takes a `Way`. A task awaits it. A thread runs it with `run_blocking`: given `THREAD`, it blocks wherever it
would suspend as a task, so a single `send` runs it to its end. Code that really suspends, such as a task
group, must not be reached with `THREAD`; `run_blocking` refuses it, since nothing would resume it.

The way is an argument, because it cannot be detected: a thread may have to block even if an event loop runs
in it, and a context variable would be inherited by code that waits in the other way.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from mahsm._waiting.turns import TaskTurn, ThreadTurn, Turn

P = ParamSpec("P")
T = TypeVar("T")


class Way:
    """A way to wait.

    Args:
        turn: Makes a turn of a caller that waits in this way.
    """

    def __init__(self, turn: Callable[[], Turn]) -> None:
        self.turn = turn

    async def call(self, blocks: Callable[[], T], awaits: Callable[[], Awaitable[T]]) -> T:
        """Call the sync version of a function in a thread, the async one in a task."""
        return blocks() if self is THREAD else await awaits()

    async def call_blocking(self, function: Callable[[], T]) -> T:
        """Call a blocking function; in a task, the call runs in another thread."""
        return function() if self is THREAD else await asyncio.to_thread(without_stop_iteration, function)

    async def call_to_end(self, function: Callable[[], T]) -> T:
        """Do what `call_blocking` does; a cancellation comes after the call has ended.

        For calls that hold or change something that the caller lets go of when it is cancelled.
        """
        if self is THREAD:
            return function()
        context = contextvars.copy_context()
        future = asyncio.get_running_loop().run_in_executor(
            None, lambda: context.run(lambda: without_stop_iteration(function))
        )
        future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # after a cancellation
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise


def without_stop_iteration(function: Callable[[], T]) -> T:
    """Call a function that may raise `StopIteration`, as `next` does.

    No coroutine can raise that, and an asyncio future that is given one never ends. It comes out as a
    `RuntimeError`, as it does out of a coroutine or a generator (PEP 479).
    """
    try:
        return function()
    except StopIteration as error:
        raise RuntimeError("the called function raised StopIteration") from error


TASK = Way(TaskTurn)
"""As a task of the running event loop."""

THREAD = Way(ThreadTurn)
"""As a thread that blocks."""


def run_blocking(core: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits as a thread, in this thread.

    Raises:
        RuntimeError: if it suspends, which only a task may.
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
    """Return the sync and the async version of a coroutine function that takes a way."""

    @wraps(core)
    def sync(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_blocking(core(THREAD, *args, **kwargs))

    def async_(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        return core(TASK, *args, **kwargs)

    return sync, async_
