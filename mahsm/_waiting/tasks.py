"""Starting concurrent work: the only file that makes threads and event loops."""

import asyncio
import contextvars
import inspect
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import CancelledError, Executor, Future, wait
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from typing import Any, TypeVar, cast

from mahsm._waiting.here import here, set_awaited
from mahsm._waiting.left_behind import LeftBehind, OwnCall
from mahsm._waiting.stops import stopped_by
from mahsm._waiting.turns import OnStop, StopCallback
from mahsm._waiting.ways import THREAD, Way, run_blocking

T = TypeVar("T")


@asynccontextmanager
async def task_group() -> AsyncGenerator[asyncio.TaskGroup, None]:
    """A task group out of which the first error comes as it was raised, never inside an exception group.

    LangGraph's `RetryPolicy(retry_on=...)` and DSPy's optimisers look at the type of what comes out.
    """
    try:
        async with asyncio.TaskGroup() as group:
            yield group
        return
    except BaseExceptionGroup as failures:
        error: BaseException = failures
        while isinstance(error, BaseExceptionGroup):
            error = cast("BaseException", error.exceptions[0])
    raise error  # out here, so that the error keeps its own cause and context


class _Background:
    """One event loop in a daemon thread, for the whole process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=_run_for_good, args=[self._loop], name=self._name, daemon=True
                ).start()
            return self._loop

    @contextmanager
    def replaced(self, loop: asyncio.AbstractEventLoop) -> Generator[None, None, None]:
        """Let another loop be this one in the block, in all threads."""
        kept, self._loop = self._loop, loop
        try:
            yield
        finally:
            self._loop = kept

    def _forget(self) -> None:  # a fork has the loop object but not its thread
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None


def _run_for_good(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop, also after a `SystemExit` or `KeyboardInterrupt` of a task ends it: whoever waits for the
    task gets that.
    """
    while not loop.is_closed():
        with suppress(BaseException):
            loop.run_forever()


_background = [_Background("mahsm-loop")]
"""For coroutines that synchronous code waits for. One for all, because async clients keep their connections
per loop: a loop per call would close them under the client's feet. Another one for coroutines that are waited
for by one on the first loop, which that blocks; and so on."""

_limits = _Background("mahsm-limits")
limits_loop = _limits.loop
"""The loop that rate limits and timers live on."""

limits_on = _limits.replaced
"""Another loop for them, in a block."""


def after(seconds: float, function: Callable[[], object]) -> Callable[[], object]:
    """Call a function once after so many seconds, in another thread; what comes back calls that off."""
    loop = limits_loop()
    timer: list[asyncio.TimerHandle] = []
    off = threading.Event()

    def start() -> None:
        if not off.is_set():
            timer.append(loop.call_later(seconds, function))

    def stop() -> None:
        off.set()
        loop.call_soon_threadsafe(lambda: [handle.cancel() for handle in timer])

    loop.call_soon_threadsafe(start)
    return stop


def is_running_here(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether this is called on the loop, which waiting for it would block."""
    with suppress(RuntimeError):
        return asyncio.get_running_loop() is loop
    return False


def is_cancelled_here() -> bool:
    """Whether the running task, if there is one, was cancelled itself, and not something that it awaited."""
    with suppress(RuntimeError):  # in a thread there is none
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return False


def never_stopped(_: StopCallback) -> AbstractContextManager[None]:
    """Of a block that nothing stops."""
    return nullcontext()


def call(
    function: Callable[[], T | Awaitable[T]],
    timeout: float | None = None,
    on_stop: OnStop = never_stopped,
    left: LeftBehind | None = None,
) -> T:
    """Call a function from synchronous code, and wait for what it gives back if that is awaitable.

    An awaitable runs on the background loop, in this thread's context, and is cancelled when time is up. A
    function that blocks cannot be stopped: with a `timeout` it gets a thread of its own, which is left to run
    on.

    Args:
        function: What to call.
        timeout: Seconds, or None to wait as long as it takes.
        on_stop: While an awaitable is waited for, this holds the function that cancels it.
        left: Counts the calls that are left to run on.

    Raises:
        TimeoutError: when time is up.
    """
    if inspect.iscoroutinefunction(function) or timeout is None:
        value = _without_stop_iteration(function)
    else:
        own = OwnCall(left or LeftBehind(1))
        value = _result(in_own_thread(function, own), own, timeout)
    return _wait_for(value, timeout, on_stop) if inspect.isawaitable(value) else cast("T", value)


@asynccontextmanager
async def deadline(timeout: float | None) -> AsyncGenerator[None, None]:
    """Cancel the block after `timeout` seconds, with an error that says so.

    Raises:
        TimeoutError: when time is up.
    """
    scope = asyncio.timeout(timeout)
    why = (
        nullcontext()
        if timeout is None
        else stopped_by(lambda: _too_long(timeout) if scope.expired() else None)
    )
    try:
        with why:
            async with scope:
                yield
    except TimeoutError as error:
        if scope.expired():
            raise _too_long(timeout) from error.__cause__
        raise  # the block's own


def call_with_stop(function: Callable[[], T], stop: StopCallback) -> T:
    """Call a function that waits for other threads; on Ctrl-C `stop` it first, and let it end.

    Only the main thread gets a `KeyboardInterrupt`. There the function runs in a thread of its own, since
    inside of it the interrupt would go on waiting for the very threads that it is to stop.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    future = in_own_thread(function)
    try:
        # A signal that comes just before an endless wait would not end it.
        while not wait([future], timeout=0.1).done:
            pass
    except BaseException as error:
        stop(error)
        wait([future])
        raise
    return future.result()


async def call_as(way: Way, function: Callable[[], T | Awaitable[T]]) -> T:
    """Call a function of the user's, and wait for what it returns if that is awaitable."""
    if way is THREAD:
        return call(function)
    value = function()
    return await value if inspect.isawaitable(value) else cast("T", value)


async def run_in(
    way: Way, context: contextvars.Context, core: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Run a coroutine function in a context: as a task of its own, or in this thread.

    A task that is cancelled by itself, and not with the caller, ends without an error.
    """
    if way is THREAD:
        context.run(lambda: run_blocking(core()))
        return
    async with task_group() as group:
        group.create_task(core(), context=context)


async def call_in_thread(function: Callable[[], T], pool: Executor, *, left: LeftBehind | None) -> T:
    """Await a function that blocks: in `pool`, or in a thread of its own if it may be left behind, where
    `left` counts it.
    """
    if left is not None:
        return await in_thread(function, left)
    return await _ended(pool.submit(contextvars.copy_context().run, _blocking, function), None)


async def in_thread(function: Callable[[], T], left: LeftBehind | None = None) -> T:
    """Await a function that blocks, in a thread of its own; if this is cancelled, the function is left to run
    on.
    """
    own = OwnCall(left or LeftBehind(1))
    return await _ended(in_own_thread(function, own), own)


async def _ended(future: "Future[T]", own: OwnCall | None) -> T:
    try:
        return await asyncio.wrap_future(future)
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and _has_result(future):
            # It had ended, and the loop had not heard of it: what it gave may be paid for.
            return future.result()
        if own is not None:
            own.leave(error)
        raise


def _has_result(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _blocking(function: Callable[[], T]) -> T:
    """Call a function in a thread where it may block."""
    set_awaited(False)
    return _without_stop_iteration(function)


def _without_stop_iteration(function: Callable[[], T]) -> T:
    """Call a function that may raise `StopIteration`, as `next` does.

    No coroutine can raise that, and an asyncio future that is given one never ends. It comes out as a
    `RuntimeError`, as it does out of a coroutine or a generator (PEP 479).
    """
    try:
        return function()
    except StopIteration as error:
        raise RuntimeError("the called function raised StopIteration") from error


def _wait_for(awaitable: Awaitable[T], timeout: float | None, on_stop: OnStop) -> T:
    depth = here.get().depth
    if depth == len(_background):
        _background.append(_Background(f"mahsm-loop-{depth}"))
    loop = _background[depth].loop()
    ended: Future[T] = Future()
    tasks: list[asyncio.Task[T]] = []

    async def run() -> T:
        here.set(here.get().waiting(depth + 1, awaited=True))
        async with deadline(timeout):
            return await awaitable

    def start() -> None:
        tasks.append(loop.create_task(run()))
        tasks[0].add_done_callback(lambda task: _settle(ended, task, awaitable))

    def cancel() -> None:  # what is cancelled has not ended yet, and is waited for
        loop.call_soon_threadsafe(lambda: tasks[0].cancel())

    loop.call_soon_threadsafe(start)
    try:
        with on_stop(lambda _: cancel()):
            return ended.result()
    except BaseException:
        if not ended.done():  # Ctrl-C in this thread
            cancel()
        raise


def _settle(ended: "Future[T]", task: "asyncio.Task[T]", awaitable: Awaitable[T]) -> None:
    """Hand on how a task has ended."""
    if task.cancelled():
        if inspect.iscoroutine(awaitable):
            awaitable.close()  # which has not begun, if the task had not
        ended.set_exception(CancelledError())
    elif (error := task.exception()) is not None:
        ended.set_exception(error)
    else:
        ended.set_result(task.result())


def _result(future: "Future[T]", own: OwnCall, timeout: float) -> T:
    try:
        return future.result(timeout)
    except BaseException as error:
        if future.done():
            raise  # the function's own
        if not isinstance(error, TimeoutError):  # Ctrl-C
            own.leave(error)
            raise
        late = _too_long(timeout)
        own.leave(late)
        raise late from None


def _too_long(timeout: float | None) -> TimeoutError:
    return TimeoutError(f"took longer than {timeout:g} s")


def in_own_thread(function: Callable[[], T], own: OwnCall | None = None) -> "Future[T]":
    """Call a function in a thread of its own, in this context; nobody has to wait for it, if `own` knows of
    that.
    """
    future: Future[T] = Future()
    context = contextvars.copy_context()

    def call() -> T:
        with nullcontext() if own is None else own.running():
            return function()

    def run() -> None:
        try:
            result = context.run(_blocking, call)
        except BaseException as error:  # noqa: BLE001  it is raised where the result is awaited
            future.set_exception(error)
        else:
            future.set_result(result)

    future.set_running_or_notify_cancel()  # nobody can cancel it: it runs
    threading.Thread(target=run, name="mahsm-item", daemon=True).start()
    return future
