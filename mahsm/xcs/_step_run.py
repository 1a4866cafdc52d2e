"""`StepRun`: one step of a running program."""

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, Protocol, cast

from mahsm._common import cached
from mahsm._waiting import TASK, StopCallbacks, Way, run_blocking, set_awaited, shared_threads, tasks
from mahsm.edges._internal import AttemptRunner, Item
from mahsm.xcs._cells import Cell, settling
from mahsm.xcs._containers import ATOMS, Arguments, forced, kind_of
from mahsm.xcs._current import current
from mahsm.xcs._report import StepRecord
from mahsm.xcs._step import is_async

_PLAIN: frozenset[type[Any]] = frozenset({list, dict, tuple, set, frozenset})


def _run_steps(begin: Callable[[], None] | None) -> None:
    """Run a step, and those that the end of each leaves to this thread."""
    while begin is not None:
        begin()
        begin, settling.next_step = settling.next_step, None


class _Cancelled(Exception):
    """A step was cancelled, because an earlier one failed. Never seen outside."""


class Stopped(RuntimeError):
    """Carries a StopIteration out of a coroutine, from which Python lets none come out."""

    def __init__(self, error: StopIteration) -> None:
        super().__init__(f"raised {error!r}")
        self.error = error


class StepHost(Protocol):
    """The run of a program, as its steps see it."""

    way: Way
    running: StopCallbacks

    @cached
    def pool(self) -> Executor:
        """The threads of blocking calls."""
        ...

    def start(self, step: "StepRun") -> None:
        """Run a step whose arguments are there, now or when others have ended."""
        ...

    def part(self, label: str, index: int, total: int) -> AbstractContextManager[Any]:
        """Return a block that is a step in traces."""
        ...

    def item_of(self, step: "StepRun") -> Item:
        """Return the item that stands for a step; it becomes the current one of this context."""
        ...

    def attempts_of(self, callee: Any, name: str) -> AttemptRunner:
        """Return what runs the attempts of a step."""
        ...

    def thread_is_free(self) -> None:
        """Let the next step that waits for a thread begin."""
        ...

    def failed(self) -> None:
        """Note that a step has failed, whose error comes out later."""
        ...

    def step_ended(self, number: int) -> None:
        """Forget a step that has ended."""
        ...


class StepRun:
    """One step: it begins when its arguments are there, and settles its cell.

    Attributes:
        cell: The cell of its result.
        context: The context that it runs in.
        task: Its task, in an async run.
        gate: Where its task waits for its arguments, if LangGraph saves it.
    """

    __slots__ = (
        "_args",
        "_callee",
        "_given",
        "_item",
        "_kwargs",
        "_record",
        "_run",
        "cell",
        "context",
        "gate",
        "is_cancelled",
        "task",
    )

    def __init__(self, run: StepHost, cell: Cell, callee: Any, given: Arguments, record: StepRecord) -> None:
        self._run = run
        self.cell = cell
        self._callee = callee
        self._given = given
        self._record = record
        self._args: Sequence[Any] = ()
        self._kwargs: dict[str, Any] = {}
        self._item: Item | None = None
        self.context = contextvars.copy_context()
        self.context.run(current.set, None)
        self.task: asyncio.Task[None] | None = None
        self.gate: Future[Any] | None = None
        self.is_cancelled = False

    @property
    def name(self) -> str:
        """Its name in reports and traces."""
        return self._record.name

    def begin(self, values: dict[int, Any]) -> None:
        """Run the step, since its arguments have arrived."""
        if self.is_cancelled:
            return
        self.fill(values)
        self._run.start(self)

    def fill(self, values: dict[int, Any]) -> None:
        """Complete the arguments by the values that were pending."""
        self._args, self._kwargs = self._given.filled(values)

    def cancel(self) -> None:
        """Cancel the step; a blocking call that is in progress goes on."""
        self.is_cancelled = True
        if self.gate is not None and self._item is None:
            self.open(error=_Cancelled())
        elif self.task is not None:
            self.task.cancel()
        elif self._item is not None:
            self._item.running.stop(_Cancelled())
        else:
            self.end(None, _Cancelled())

    def open(self, values: Any = None, error: BaseException | None = None) -> None:
        """Let a step of the durable form begin with the values of its arguments, or end with an error."""
        assert self.gate is not None
        with suppress(InvalidStateError):  # the arguments come while the step is cancelled
            if error is None:
                self.gate.set_result(values)
            else:
                self.gate.set_exception(error)

    def submit(self) -> None:
        """Run the step in a thread: in this one, if it is about to end another step."""
        if settling.keeps_next and settling.next_step is None:
            settling.next_step = self._begin
        else:
            shared_threads.start(partial(_run_steps, self._begin))

    def _begin(self) -> None:
        self.context.run(self._work)

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        given = {str(index): arg for index, arg in enumerate(self._args)} | self._kwargs
        return given, given

    def _work(self) -> None:
        set_awaited(False)
        value, error = None, None
        is_cancelled = self.is_cancelled
        if not is_cancelled:
            try:
                value = run_blocking(self.tried())
            except BaseException as raised:  # noqa: BLE001  it is raised where the value is used
                error = raised
        settling.keeps_next = True
        try:
            if not is_cancelled:
                self.end(value, error)
            self._run.thread_is_free()
        finally:
            settling.keeps_next = False

    async def arun(self) -> None:
        """Run the step as a task."""
        set_awaited(True)
        value, error = None, None
        try:
            value = await self.tried()
        except BaseException as raised:  # noqa: BLE001
            error = raised
        if error is None and kind_of(value) not in ATOMS and kind_of(value) not in _PLAIN:
            # Attributes and items of unknown objects may block, so they are read in a thread.
            self._run.pool.submit(self.end, value, None)
            return
        self.end(value, error)

    def task_ended(self, task: "asyncio.Task[None]") -> None:
        """End the step if its task was cancelled before its first turn."""
        if task.cancelled():
            self.end(None, _Cancelled())

    async def tried(self) -> Any:
        """Call what the step calls, in attempts."""
        if self.gate is not None:
            current.set(None)
        self._record.begin()
        name = self._record.name
        self._item = item = self._run.item_of(self)
        item.running = StopCallbacks()
        attempts = self._run.attempts_of(self._callee, name)
        call = self._awaited if self._run.way is TASK else self._blocking
        place = self._record.place
        with self._run.running.on_stop(item.running.stop), self._run.part(name, place, place + 1):
            return await attempts.run(item, self._state, cast("Any", call))

    def _blocking(self, _: Any) -> Any:
        try:
            return self._callee(*self._args, **self._kwargs)
        except StopIteration as error:
            raise Stopped(error) from None

    async def _awaited(self, _: Any) -> Any:
        call = partial(self._callee, *self._args, **self._kwargs)
        if is_async(self._callee):
            return await call()
        return await tasks.call_in_thread(call, self._run.pool, left=None)

    def end(self, value: Any, error: BaseException | None) -> None:
        """Settle the cell."""
        error = error.error if isinstance(error, Stopped) else error
        self._record.end(error)
        if error is not None:
            self._run.failed()
        self.cell.settle(forced(value) if error is None else None, error)
        self._run.step_ended(self.cell.number)
