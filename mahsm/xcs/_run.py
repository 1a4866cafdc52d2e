"""`ProgramRun`: one call of a jitted function, with its steps."""

import asyncio
import bisect
import contextvars
import heapq
import itertools
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import nullcontext, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, cast

from mahsm._waiting import TASK, THREAD, StopCallbacks, Turn, run_blocking, set_awaited, tasks
from mahsm.edges._internal import AttemptRunner, CallSpec, EdgeRun, Ends, Item, Session, Tries
from mahsm.nodes._internal import Target
from mahsm.xcs._cells import Cell
from mahsm.xcs._containers import ATOMS, Arguments, forced
from mahsm.xcs._derived import Arrivals
from mahsm.xcs._durable import DurableSteps
from mahsm.xcs._greenlets import Body, body_here
from mahsm.xcs._pending import Pending
from mahsm.xcs._report import Report, StepRecord, Wait
from mahsm.xcs._step import is_async, name_of

current: "ContextVar[ProgramRun | None]" = ContextVar("mahsm_program", default=None)
"""The run of the jitted function whose own code runs here. Set by `jit`, unset in its steps; read by the calls
of rewritten code."""


def direct_run() -> "ProgramRun | None":
    """Return the run here if steps begin where they are called, since the code is not rewritten."""
    run = current.get()
    return run if run is not None and run.is_direct else None


class Escaping(BaseException):
    """Carries the error of a step out of a `try` that began after it, past the handlers of that `try`."""

    def __init__(self, error: BaseException, number: int) -> None:
        super().__init__(error)
        self.error = error
        self.number = number


class ProgramRun(EdgeRun):
    """One call of a jitted function.

    Its own code runs where it was called, and begins steps, each of which runs in a thread or a task. A step
    is an item of this run for limits, budgets, usage and slots, as those of edges are.

    Args:
        name: The name of the function.
        around: The session of the run.
        limit: The number of steps that run at the same time.
        tries: How each step is tried.
        is_direct: True if the function is not rewritten.
        durable: Begins the steps, if LangGraph saves them.
    """

    def __init__(self, name: str, around: Session, limit: int, tries: Tries, *, is_direct: bool, durable: DurableSteps | None = None) -> None:
        super().__init__(name, around, slots=limit, unsaved=1)
        # Steps are saved by LangGraph's functional API, if at all.
        self.saving, self.saved = None, False
        self.is_direct = is_direct
        self._durable = durable
        self.is_over = False
        self.body: Body | None = None
        self.report = Report(name)
        self.touched: dict[int, Any] = {}
        """Containers of the user's that pending values were put into."""
        self._journal: list[tuple[int, Callable[[], None]]] = []
        self._has_failed = False
        self._limit = limit
        self._tries = tries
        self._loop = asyncio.get_running_loop() if around.way is TASK else None
        self._numbers = itertools.count()
        self._entries: list[Cell] = []
        self._most_entries = 1_000
        self._scopes: list[Scope] = []
        self._lock = threading.Lock()
        self._steps: dict[int, StepRun] = {}
        self._ready: list[tuple[int, Callable[[], None]]] = []
        self._open = 0
        self._attempts: dict[Any, AttemptRunner] = {}
        self._idle = threading.Condition(self._lock)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def threads(self) -> int:
        return self._limit

    @property
    def pool(self) -> Any:
        return tasks.shared_pool()

    def close(self, *, wait: bool) -> None:
        """Do nothing: the threads are the process's."""

    def facts(self) -> dict[str, Any]:
        failed = sum(record.error is not None for record in self.report.steps)
        ended = sum(record.ended is not None for record in self.report.steps)
        return {
            **self.facts_of(len(self.report.steps), finished=ended, failed=failed),
            "concurrency": self._limit,
            "waits": len(self.report.waits),
        }

    # Steps.

    def step(self, callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Begin a step when its arguments are there; return its result, which is pending."""
        given = Arguments(args, kwargs)
        needed = given.needed.values()
        ordered = getattr(callee, "ordered", False)
        if ordered:
            self.settle(self._scopes[0].mark if self._scopes else 0, drop=False)
        cell = self.new_cell(())
        cell.steps = (cell.number,)
        before = sorted({number for one in needed for number in one.steps}) if needed else ()
        record = self.report.step(cell.number, name_of(callee), before)
        step = StepRun(self, cell, callee, given, record)
        with self._lock:
            self._steps[cell.number] = step
        if self._durable is not None:
            self._durable.begin(self, step, needed)
        else:
            Arrivals(needed, step.begin, step.end).start()
        pending = Pending(cell)
        return forced(pending) if ordered else pending

    def attempts_of(self, callee: Any, name: str) -> AttemptRunner:
        """Return what runs the attempts of a step."""
        found = self._attempts.get(name)
        if found is None:
            target = Target(name, callee, None, source=callee)
            spec = CallSpec(name, target, self._tries, Ends())
            found = AttemptRunner(spec, self.way, self.span, self.not_begun, self.left, self.end_late)
            self._attempts[name] = found
        return found

    def item_of(self, step: "StepRun") -> Item:
        """Return the item that stands for a step; it becomes the current one of this context."""
        return self.item(step.cell.number)

    def start(self, step: "StepRun") -> None:
        """Run a step whose arguments are there, now or when others have ended."""
        if self._loop is not None:
            if threading.get_ident() == self._thread:
                self._start_task(step)
            else:
                self._loop.call_soon_threadsafe(self._start_task, step)
            return
        with self._lock:
            if self._open >= self._limit:
                heapq.heappush(self._ready, (step.cell.number, step.submit))
                return
            self._open += 1
        step.submit()

    @property
    def _thread(self) -> int:
        return 0 if self.body is None else self.body.thread

    def _start_task(self, step: "StepRun") -> None:
        assert self._loop is not None
        if step.is_cancelled:
            return
        task = self._loop.create_task(step.arun(), context=step.context)
        step.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def thread_is_free(self) -> None:
        """Let the next step that waits for a thread begin."""
        with self._lock:
            self._open -= 1
            submit = None
            if self._ready and self._open < self._limit:
                submit = heapq.heappop(self._ready)[1]
                self._open += 1
        if submit is not None:
            submit()

    def thread_is_taken(self) -> None:
        """Count a step that goes on after it had lent its slot; its thread is there already."""
        with self._lock:
            self._open += 1

    def failed(self) -> None:
        """Note that a step has failed, whose error comes out later."""
        self._has_failed = True

    def step_ended(self, number: int) -> None:
        """Forget a step that has ended."""
        with self._idle:
            self._steps.pop(number, None)
            if not self._steps:
                self._idle.notify_all()

    # Cells.

    def new_cell(self, steps: tuple[int, ...]) -> Cell:
        """Make a cell for the next value of the program."""
        with self._lock:
            cell = Cell(next(self._numbers), self, steps)
            self._entries.append(cell)
            if len(self._entries) > self._most_entries:
                self._entries = [one for one in self._entries if not one.is_settled or one.error is not None]
                self._most_entries = 2 * len(self._entries) + 1_000
        return cell

    def wait_for(self, cell: Cell) -> None:
        """Wait until a cell is settled, in the thread or the task that the function runs in."""
        began = time.monotonic()
        if (body := body_here()) is not None:
            body.wait_for(cell)
        elif self._loop is not None and threading.get_ident() == self._thread:
            raise RuntimeError(
                "a pending value was used by a callback of the event loop, which cannot wait; use it in the "
                "jitted function, or in a task."
            )
        else:
            turn: Turn = THREAD.turn()
            cell.wake(turn)
            run_blocking(turn.wait())
        if current.get() is self:  # not in another thread of the user's
            if (place := _place()) is not None:
                self.report.waited(Wait(*place, began, time.monotonic(), cell.steps))

    def first_error(self, cell: Cell) -> BaseException:
        """Return the error to raise where a failed value is used: that of the first step that failed.

        It escapes from a `try` that began after the step: the plain function would not have reached it.
        """
        mark = self._scopes[-1].mark if self._scopes else 0
        failed = self._first_failed(mark, cell.number) or cell
        assert failed.error is not None
        return Escaping(failed.error, failed.number) if failed.number < mark else failed.error

    def _first_failed(self, mark: int, end: float) -> Cell | None:
        """Wait for the cells from one number to another, in their order; return the first that failed."""
        for entry in self._between(mark, end):
            if not entry.is_settled:
                self.wait_for(entry)
            if entry.error is not None:
                return entry
        return None

    def _between(self, mark: int, end: float) -> list[Cell]:
        with self._lock:
            first = bisect.bisect_left(self._entries, mark, key=lambda cell: cell.number)
            return [cell for cell in self._entries[first:] if cell.number < end]

    def settle(self, mark: int, *, drop: bool = True) -> None:
        """Wait for everything that began since a number.

        Raises:
            BaseException: the error of the first that failed; what began after it is cancelled.
        """
        failed = self._first_failed(mark, float("inf"))
        if failed is not None:
            assert failed.error is not None
            self._undo(failed.number)
            raise failed.error
        if drop:
            self._drop(mark)

    def left_by(self, mark: int, error: BaseException) -> BaseException:
        """Return the error with which a block is left that began at a number, and cancel what began in it.

        The plain function would have met the errors of earlier steps first.
        """
        if isinstance(error, Escaping):
            if error.number < mark:
                self._undo(error.number)
                self._drop(mark)
                return error
            error = error.error
        if isinstance(error, Exception):
            entries = self._between(mark, float("inf"))
            at = next((entry.number for entry in entries if entry.error is error), float("inf"))
            failed = self._first_failed(mark, at)
            if failed is not None and failed.error is not None:
                error, at = failed.error, failed.number
            self._undo(at)
        self._drop(mark)
        return error

    def _drop(self, mark: int) -> None:
        """Cancel what began since a number and has not ended, wait for it, and forget it."""
        with self._lock:
            first = bisect.bisect_left(self._entries, mark, key=lambda cell: cell.number)
            dropped = self._entries[first:]
            del self._entries[first:]
            steps = [step for number, step in self._steps.items() if number >= mark]
        for step in steps:
            step.cancel()
        for cell in dropped:
            if cell.number in self._steps and not cell.is_settled:
                self.wait_for(cell)

    def scope(self) -> "Scope":
        """Return a block whose steps have ended when it is left, such as the body of a `try`."""
        return Scope(self)

    def enter(self, scope: "Scope") -> None:
        with self._lock:
            scope.mark = next(self._numbers)
        self._scopes.append(scope)

    def leave(self, scope: "Scope") -> None:
        self._scopes.remove(scope)

    # Changes of containers.
    #
    # The function's code goes on after a step has begun, and may change lists and dicts that are still used
    # after the step has failed: by the handler of a `try`, or by the caller. The plain function would not have
    # reached these changes. So each change is noted with its number, and changes that came after the failed
    # step are undone, the last one first.

    def will_change(self, container: Any, method: str = "", key: Any = None) -> None:
        """Note how to undo a change of a container, if a step that has begun may still fail.

        Args:
            container: The container.
            method: The method that changes it.
            key: The key that changes, for the method `__setitem__` of a dict.
        """
        if self._steps or self._has_failed:
            with self._lock:
                number = next(self._numbers)
            self._journal.append((number, _restorer(container, method, key)))
        elif self._journal:
            self._journal.clear()

    def _undo(self, after: float) -> None:
        while self._journal and self._journal[-1][0] > after:
            self._journal.pop()[1]()

    def finish(self, *, failed: bool) -> None:
        """End the run: everything in it has been settled."""
        self.is_over = True
        for container in self.touched.values():
            # After an error some may never get a value, in containers that only the function had.
            with suppress(Exception) if failed else nullcontext():
                forced(container)
        self.touched.clear()


class Scope:
    """A block of a program: what begins in it has ended when the block is left, or has been cancelled."""

    __slots__ = ("_run", "mark")

    def __init__(self, run: ProgramRun) -> None:
        self._run = run
        self.mark = 0

    def __enter__(self) -> "Scope":
        self._run.enter(self)
        return self

    def settle(self) -> None:
        """Wait for everything that has begun in the block."""
        self._run.settle(self.mark, drop=False)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            first = self._settled() if error is None else error
            if first is not None:
                first = self._run.left_by(self.mark, first)
        finally:
            self._run.leave(self)
        if first is not error:
            assert first is not None
            raise first

    def _settled(self) -> BaseException | None:
        try:
            self._run.settle(self.mark)
        except BaseException as error:  # noqa: BLE001  what began after it is to be cancelled
            return error
        return None


def _restorer(container: Any, method: str, key: Any) -> Callable[[], None]:
    """Return a function that undoes a change of a container."""
    if type(container) is list and method in {"append", "extend", "__iadd__"}:
        length = len(container)
        return lambda: container.__delitem__(slice(length, None))
    if type(container) is dict and method == "__setitem__":
        if key in container:
            return partial(container.__setitem__, key, container[key])
        return lambda: container.pop(key, None)
    kept = container.copy()

    def restore() -> None:
        container.clear()
        (container.update if hasattr(container, "update") else container.extend)(kept)

    return restore


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

    def __init__(self, run: ProgramRun, cell: Cell, callee: Any, given: Arguments, record: StepRecord) -> None:
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
            with suppress(InvalidStateError):  # its arguments have just come
                self.gate.set_exception(_Cancelled())
        elif self.task is not None:
            self.task.cancel()
        elif self._item is not None:
            self._item.running.stop(_Cancelled())
        else:
            self.end(None, _Cancelled())

    def submit(self) -> None:
        self._run.pool.submit(self.context.run, self._work)

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        given = {str(index): arg for index, arg in enumerate(self._args)} | self._kwargs
        return given, given

    def _work(self) -> None:
        set_awaited(False)
        value, error = None, None
        if not self.is_cancelled:
            try:
                value = run_blocking(self.tried())
            except BaseException as raised:  # noqa: BLE001  it is raised where the value is used
                error = raised
            self.end(value, error)
        self._run.thread_is_free()

    async def arun(self) -> None:
        """Run the step as a task."""
        set_awaited(True)
        value, error = None, None
        try:
            value = await self.tried()
        except BaseException as raised:  # noqa: BLE001
            error = raised
        if error is None and type(value) not in ATOMS and type(value) not in _PLAIN:
            # Attributes and items of unknown objects may block, so they are read in a thread.
            self._run.pool.submit(self.end, value, None)
            return
        self.end(value, error)

    async def tried(self) -> Any:
        if self.gate is not None:
            current.set(None)
        self._record.begin()
        name = self._record.name
        self._item = item = self._run.item_of(self)
        item.running = StopCallbacks()
        attempts = self._run.attempts_of(self._callee, name)
        call = self._awaited if self._run.way is TASK else self._blocking
        with self._run.running.on_stop(item.running.stop):
            return await attempts.run(item, self._state, cast("Any", call))

    def _blocking(self, _: Any) -> Any:
        return self._callee(*self._args, **self._kwargs)

    async def _awaited(self, _: Any) -> Any:
        call = partial(self._callee, *self._args, **self._kwargs)
        if is_async(self._callee):
            return await call()
        return await tasks.call_in_thread(call, self._run.pool, left=None)

    def end(self, value: Any, error: BaseException | None) -> None:
        """Settle the cell."""
        self._record.end(error)
        if error is not None:
            self._run.failed()
        self.cell.settle(forced(value) if error is None else None, error)
        self._run.step_ended(self.cell.number)


class _Cancelled(Exception):
    """A step was cancelled, because an earlier one failed. Never seen outside."""


_PLAIN = frozenset({list, dict, tuple, set, frozenset})


def _place() -> tuple[str, int] | None:
    """Return the file and the line of the user's code that waits here; None at the end of the function."""
    frame: Any = sys._getframe(1)  # noqa: SLF001
    while frame is not None and frame.f_globals.get("__name__", "").startswith("mahsm."):
        if frame.f_code.co_name in _ENDS:
            return None
        frame = frame.f_back
    return None if frame is None else (frame.f_code.co_filename, frame.f_lineno)


_ENDS = frozenset({"_in_scope", "_in_scope_async"})
