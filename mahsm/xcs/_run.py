"""`ProgramRun`: one call of a jitted function, with its steps."""

import asyncio
import bisect
import heapq
import inspect
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import nullcontext, suppress
from typing import Any

from mahsm._common import cached
from mahsm._waiting import TASK, THREAD, Turn, run_blocking, shared_threads
from mahsm.edges._internal import AttemptRunner, CallSpec, EdgeRun, Ends, Item, Session, Tries
from mahsm.nodes._internal import Target
from mahsm.xcs._cells import Cell
from mahsm.xcs._containers import Arguments, forced
from mahsm.xcs._current import current
from mahsm.xcs._derived import Arrivals, attribute, derived, item
from mahsm.xcs._durable import DurableSteps
from mahsm.xcs._greenlets import Body, body_here
from mahsm.xcs._journal import Journal
from mahsm.xcs._pending import Pending
from mahsm.xcs._report import Report, Wait
from mahsm.xcs._scopes import Escaping, Scope
from mahsm.xcs._source import is_library
from mahsm.xcs._step import name_of
from mahsm.xcs._step_run import StepRun


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

    def __init__(
        self,
        name: str,
        around: Session,
        limit: int,
        tries: Tries,
        *,
        is_direct: bool,
        durable: DurableSteps | None = None,
    ) -> None:
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
        self._journal = Journal()
        self._has_failed = False
        self._limit = limit
        self._tries = tries
        self._loop = asyncio.get_running_loop() if around.way is TASK else None
        self._numbers = itertools.count()
        self._entries: list[Cell] = []
        self._most_entries = 1_000
        self._scopes: list[Scope] = []
        self.lock = threading.Lock()
        self._lock = threading.Lock()
        self._steps: dict[int, StepRun] = {}
        self._ready: list[tuple[int, Callable[[], None]]] = []
        self._open = 0
        self._attempts: dict[Any, AttemptRunner] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def threads(self) -> int:
        return self._limit

    @cached
    def pool(self) -> Executor:
        return shared_threads

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

    def failed(self) -> None:
        """Note that a step has failed, whose error comes out later."""
        self._has_failed = True

    def step_ended(self, number: int) -> None:
        """Forget a step that has ended."""
        with self._lock:
            self._steps.pop(number, None)

    # Cells.

    def derived(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of values, some of which may be pending, when they are there."""
        return derived(function, *args, **kwargs)

    def attribute(self, owner: Any, name: str) -> Any:
        """Return an attribute of a pending value."""
        return attribute(owner, name)

    def item_of_pending(self, owner: Any, key: Any) -> Any:
        """Return an item of a pending value."""
        return item(owner, key)

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
        if current.get() is self and (place := _place()) is not None:
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
            self._journal.undo(failed.number)
            raise failed.error
        if drop:
            self._drop(mark)

    def left_by(self, mark: int, error: BaseException) -> BaseException:
        """Return the error with which a block is left that began at a number, and cancel what began in it.

        The plain function would have met the errors of earlier steps first.
        """
        if isinstance(error, Escaping):
            if error.number < mark:
                self._journal.undo(error.number)
                self._drop(mark)
                return error
            error = error.error
        if isinstance(error, Exception):
            entries = self._between(mark, float("inf"))
            at = next((entry.number for entry in entries if entry.error is error), float("inf"))
            failed = self._first_failed(mark, at)
            if failed is not None and failed.error is not None:
                error, at = failed.error, failed.number
            self._journal.undo(at)
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

    def will_format(self, parts: tuple[Any, ...]) -> None:
        """Do nothing: any string may be made."""

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
            self._journal.note(number, container, method, key)
        else:
            self._journal.clear()

    def finish(self, *, failed: bool) -> None:
        """End the run: everything in it has been settled."""
        self.is_over = True
        for container in self.touched.values():
            # After an error some may never get a value, in containers that only the function had.
            with suppress(Exception) if failed else nullcontext():
                forced(container)
        self.touched.clear()


def _place() -> tuple[str, int] | None:
    """Return the file and the line of the user's code that waits here; None at the end of the function.

    That is the line that called the library, if one waits, such as `collections.Counter` for its items.
    """
    frame: Any = inspect.currentframe()
    place: tuple[str, int] | None = None
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("mahsm."):
            if frame.f_code.co_name in _ENDS:
                break
        elif place is None or not is_library(frame.f_code.co_filename):
            place = (frame.f_code.co_filename, frame.f_lineno)
            if not is_library(place[0]):
                break
        frame = frame.f_back
    return place


_ENDS = frozenset({"_in_scope", "_in_scope_async"})
