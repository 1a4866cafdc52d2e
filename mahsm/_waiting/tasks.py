"""Starting concurrent work: besides `threads`, the only file that makes threads and event loops."""

import asyncio
import contextvars
import inspect
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from concurrent.futures import CancelledError, Executor, Future, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import FrameType, TracebackType
from typing import Any, TypeVar, cast

from mahsm._waiting.here import here, set_awaited
from mahsm._waiting.left_behind import LeftBehind, OwnCall
from mahsm._waiting.turns import OnStop, StopCallback
from mahsm._waiting.ways import TASK, THREAD, Way, run_blocking, without_stop_iteration

T = TypeVar("T")


class task_group:
    """A task group that raises the first error as it is, never inside an exception group.

    LangGraph's `RetryPolicy(retry_on=...)` and DSPy's optimisers look at the type of the error. It is a class
    and not a generator, since it runs for each edge run.
    """

    __slots__ = ("_group",)

    async def __aenter__(self) -> asyncio.TaskGroup:
        self._group = asyncio.TaskGroup()
        return await self._group.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._group.__aexit__(kind, error, trace)
            return
        except BaseExceptionGroup as failures:
            first: BaseException = failures
            while isinstance(first, BaseExceptionGroup):
                first = cast("BaseException", first.exceptions[0])
        # Raised outside of the `except` block, so that the error keeps its own cause and context.
        raise first


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
        """Replace the loop in the block, in all threads."""
        kept, self._loop = self._loop, loop
        try:
            yield
        finally:
            self._loop = kept

    def _forget(self) -> None:
        # A fork has the loop object, but not its thread.
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None


def _run_for_good(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop forever, even if a task raises `SystemExit` or `KeyboardInterrupt`.

    Such an error ends `run_forever`; the task's own caller gets it, and all other tasks have to go on.
    """
    while not loop.is_closed():
        with suppress(BaseException):
            loop.run_forever()


_background = [_Background("mahsm-loop")]
"""Loops for coroutines that synchronous code waits for. All share the first one, because async clients keep
their connections per loop, and a loop per call would close them while the client still uses them. A coroutine
on it may run synchronous code that waits for another coroutine, which blocks the first loop; that other one
runs on the second loop, and so on."""

_limits = _Background("mahsm-limits")
limits_loop = _limits.loop
"""Returns the loop of rate limits and timers."""

worker_loop = _Background("mahsm-worker").loop
"""Returns the loop on which a worker of an edge runs async targets."""

limits_on = _limits.replaced
"""Replaces that loop in a block."""

redis_loop = _Background("mahsm-redis").loop
"""Returns the loop of what processes share through Redis, which has real time even under a fake clock."""

batch_loop = _Background("mahsm-batches").loop
"""Returns the loop of the jobs of batch APIs."""


_detached: set["asyncio.Task[Any]"] = set()
"""Tasks that have no other reference: an event loop keeps only weak ones."""


def detached(coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """Begin a task of the running loop that may outlive its caller; the coroutine passes its errors on."""
    task = asyncio.get_running_loop().create_task(coroutine)
    _detached.add(task)
    task.add_done_callback(_detached.discard)
    return task


def after(seconds: float, function: Callable[[], object]) -> Callable[[], object]:
    """Call a function once after so many seconds, in another thread; return a function that cancels this."""
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
    """Return whether this is called on the loop, so that waiting for the loop would block it."""
    with suppress(RuntimeError):
        return asyncio.get_running_loop() is loop
    return False


def is_cancelled_here() -> bool:
    """Return whether the running task, if any, was cancelled itself, and not something that it awaited."""
    # In a thread without a loop, `current_task` raises.
    with suppress(RuntimeError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return False


def never_stopped(_: StopCallback) -> AbstractContextManager[None]:
    """Return a block that nothing stops."""
    return nullcontext()


def call(
    function: Callable[[], T | Awaitable[T]],
    timeout: float | None = None,
    on_stop: OnStop = never_stopped,
    left: LeftBehind | None = None,
    name: str = "",
) -> T:
    """Call a function from synchronous code, and wait for its result if that is awaitable.

    An awaitable runs on the background loop, in this thread's context, and is cancelled after `timeout`. A
    function that blocks cannot be stopped: with a `timeout` it gets a thread of its own, which may be left
    behind.

    Args:
        function: The function to call.
        timeout: Seconds, or None for no timeout.
        on_stop: Registers, while an awaitable is waited for, the callback that cancels it.
        left: Counts the calls that are left behind.
        name: What took too long, for the error.

    Raises:
        TimeoutError: after `timeout` seconds.
    """
    if inspect.iscoroutinefunction(function) or timeout is None:
        value = without_stop_iteration(function)
    else:
        own = OwnCall(left or LeftBehind(1))
        value = _result(in_own_thread(function, own), own, timeout, name)
    return _wait_for(value, timeout, on_stop, name) if inspect.isawaitable(value) else cast("T", value)


_apart: set[asyncio.Task[Any]] = set()
"""Tasks that nobody else may hold: a loop keeps weak references only."""


def begin_apart(core: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Begin a task on the running loop that a cancellation of its caller does not cancel.

    It ends with its loop at the latest. It must not raise, since nothing awaits it.
    """
    task = asyncio.get_running_loop().create_task(core)
    _apart.add(task)
    task.add_done_callback(_apart.discard)
    return task


class deadline:
    """An `async with` block that is cancelled after `timeout` seconds, with an error that says so.

    It is a class and not a generator, which would cost more: it runs for each attempt.

    Raises:
        TimeoutError: after `timeout` seconds.
    """

    __slots__ = ("_name", "_scope", "_timeout", "_token")

    def __init__(self, timeout: float | None, name: str = "") -> None:
        self._timeout, self._name = timeout, name

    async def __aenter__(self) -> None:
        self._scope = asyncio.timeout(self._timeout)
        self._token = None if self._timeout is None else here.set(here.get().stopped_by(self._why))
        await self._scope.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        late = error
        try:
            await self._scope.__aexit__(kind, error, trace)
        except TimeoutError as over:
            late = over
        finally:
            if self._token is not None:
                here.reset(self._token)
        # Otherwise it is an error of the block.
        if self._scope.expired() and isinstance(late, TimeoutError):
            raise _too_long(self._timeout, self._name) from late.__cause__

    def _why(self) -> BaseException | None:
        return _too_long(self._timeout, self._name) if self._scope.expired() else None


def call_with_stop(function: Callable[[], T], stop: StopCallback) -> T:
    """Call a function that waits for other threads; on Ctrl-C, call `stop` and let the function end.

    Only the main thread gets a `KeyboardInterrupt`. There the function runs in a thread of its own: raised
    inside it, the interrupt would have to wait for the very threads that it should stop.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    future, thread = _own_thread(function)
    started = False
    try:
        with _interrupts_held_back():
            thread.start()
            started = True
        # A signal that arrives just before a wait without a timeout would not end it.
        while not wait([future], timeout=0.1).done:
            pass
    except BaseException as error:
        stop(error)
        if started:
            wait([future])
        raise
    return future.result()


@contextmanager
def _interrupts_held_back() -> Generator[None, None, None]:
    """Let a Ctrl-C in the block come at its end; only for the main thread."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if held:
        handler(*held[0])


async def call_as(way: Way, function: Callable[[], T | Awaitable[T]]) -> T:
    """Call a function of the user's, and wait for its result if that is awaitable."""
    if way is THREAD:
        return call(function)
    value = function()
    return await value if inspect.isawaitable(value) else cast("T", value)


async def run_in(
    way: Way, context: contextvars.Context, core: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Run a coroutine function in a context: as a task of its own, or in this thread.

    If only that task is cancelled, and not its caller, it ends without an error.
    """
    if way is THREAD:
        context.run(lambda: run_blocking(core()))
        return
    async with task_group() as group:
        group.create_task(core(), context=context)


async def run_together(
    way: Way, cores: Sequence[Callable[[], Coroutine[Any, Any, None]]], pool: Callable[[], Executor]
) -> None:
    """Run coroutine functions at the same time, each in a copy of this context: as tasks, or in threads.

    Args:
        way: The way in which they wait.
        cores: The functions.
        pool: Returns a pool with a thread for each of them.

    Raises:
        BaseException: the first error. Tasks are cancelled then; threads have ended.
    """
    if way is TASK:
        async with task_group() as group:
            for core in cores:
                group.create_task(core())
        return

    def run(core: Callable[[], Coroutine[Any, Any, None]]) -> None:
        run_blocking(core())

    begun = [pool().submit(contextvars.copy_context().run, run, core) for core in cores]
    wait(begun)
    for future in begun:
        future.result()


async def call_in_thread(function: Callable[[], T], pool: Executor, *, left: LeftBehind | None) -> T:
    """Await a blocking function in `pool`; with `left`, in a thread of its own that may be left behind."""
    if left is not None:
        return await in_thread(function, left)
    return await _ended(pool.submit(contextvars.copy_context().run, _blocking, function), None)


async def in_thread(function: Callable[[], T], left: LeftBehind | None = None) -> T:
    """Await a blocking function in a thread of its own; on cancellation, the thread is left behind."""
    own = OwnCall(left or LeftBehind(1))
    return await _ended(in_own_thread(function, own), own)


async def _ended(future: "Future[T]", own: OwnCall | None) -> T:
    try:
        return await asyncio.wrap_future(future)
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and _has_result(future):
            # The call had ended before the loop was told; its result may be paid for, so it counts.
            return future.result()
        if own is not None:
            own.leave(error)
        raise


def _has_result(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _blocking(function: Callable[[], T]) -> T:
    """Call a function in a thread where it may block."""
    set_awaited(False)
    return without_stop_iteration(function)


def _wait_for(awaitable: Awaitable[T], timeout: float | None, on_stop: OnStop, name: str = "") -> T:
    depth = here.get().depth
    if depth == len(_background):
        _background.append(_Background(f"mahsm-loop-{depth}"))
    loop = _background[depth].loop()
    ended: Future[T] = Future()
    tasks: list[asyncio.Task[T]] = []

    async def run() -> T:
        here.set(here.get().waiting(depth + 1, awaited=True))
        async with deadline(timeout, name):
            return await awaitable

    def start() -> None:
        tasks.append(loop.create_task(run()))
        tasks[0].add_done_callback(lambda task: _settle(ended, task, awaitable))

    def cancel() -> None:
        # A task that is cancelled has not ended yet, and is still waited for.
        loop.call_soon_threadsafe(lambda: tasks[0].cancel())

    loop.call_soon_threadsafe(start)
    try:
        with on_stop(lambda _: cancel()):
            return ended.result()
    except BaseException:
        # It is a Ctrl-C in this thread, if the task has not ended.
        if not ended.done():
            cancel()
        raise


def _settle(ended: "Future[T]", task: "asyncio.Task[T]", awaitable: Awaitable[T]) -> None:
    """Pass on the result or the error of a task."""
    if task.cancelled():
        # If the task had not begun, neither had the coroutine, which then warns unless it is closed.
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        ended.set_exception(CancelledError())
    elif (error := task.exception()) is not None:
        ended.set_exception(error)
    else:
        ended.set_result(task.result())


def _result(future: "Future[T]", own: OwnCall, timeout: float, name: str) -> T:
    try:
        return future.result(timeout)
    except BaseException as error:
        # The function's own error.
        if future.done():
            raise
        # A Ctrl-C in this thread.
        if not isinstance(error, TimeoutError):
            own.leave(error)
            raise
        late = _too_long(timeout, name)
        own.leave(late)
        raise late from None


def _too_long(timeout: float | None, name: str) -> TimeoutError:
    took = f"took longer than {timeout:g} s"
    return TimeoutError(f"{name}: {took}" if name else took)


def in_own_thread(function: Callable[[], T], own: OwnCall | None = None) -> "Future[T]":
    """Call a function in a thread of its own, in this context; `own` is the call if it may be left behind."""
    future, thread = _own_thread(function, own)
    thread.start()
    return future


def _own_thread(
    function: Callable[[], T], own: OwnCall | None = None
) -> "tuple[Future[T], threading.Thread]":
    """Return the future of such a call, and its thread, which has not started."""
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

    # From now on the future counts as running, so it cannot be cancelled.
    future.set_running_or_notify_cancel()
    return future, threading.Thread(target=run, name="mahsm-item", daemon=True)
