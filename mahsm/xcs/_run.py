"""`ProgramRun`: one call of a jitted function, with its steps."""

import asyncio
import heapq
import inspect
import itertools
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from contextlib import nullcontext, suppress
from typing import Any
from weakref import WeakKeyDictionary

import greenlet

from mahsm._common import cached
from mahsm._models import ModelBinding
from mahsm._waiting import TASK, THREAD, Turn, run_blocking, shared_threads
from mahsm.edges._internal import AttemptRunner, CallSpec, EdgeRun, Ends, Item, Session, Tries
from mahsm.nodes._internal import ModuleRef, Target
from mahsm.xcs._cells import Cell
from mahsm.xcs._containers import Arguments, forced
from mahsm.xcs._current import current
from mahsm.xcs._derived import Arrivals, attribute, derived, item
from mahsm.xcs._durable import DurableSteps
from mahsm.xcs._greenlets import Body, body_here
from mahsm.xcs._pending import Pending
from mahsm.xcs._report import Report
from mahsm.xcs._scopes import Scope
from mahsm.xcs._source import is_library
from mahsm.xcs._step import model_of, name_of
from mahsm.xcs._step_run import StepRun
from mahsm.xcs._strands import Strand


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
        self._has_failed = False
        self._limit = limit
        self._tries = tries
        self._loop = asyncio.get_running_loop() if around.way is TASK else None
        self._numbers = itertools.count()
        self._strands: WeakKeyDictionary[Any, Strand] = WeakKeyDictionary()
        self._last_strand: tuple[Any, Strand | None] = (None, None)
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

    def step(
        self, callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None = None
    ) -> Any:
        """Begin a step when its arguments are there; return its result, which is pending."""
        given = Arguments(args, kwargs)
        needed = given.needed.values()
        ordered = getattr(callee, "ordered", False)
        if ordered:
            self._wait_for_all()
        cell = self.new_cell(())
        cell.steps = (cell.number,)
        before = {number for one in needed for number in one.steps} if needed else ()
        record = self.report.step(cell.number, name or name_of(callee), before)
        step = StepRun(self, cell, callee, given, record)
        with self._lock:
            self._steps[cell.number] = step
        if self._durable is not None:
            self._durable.begin(self, step, needed, self._strand().next_label())
        else:
            Arrivals(needed, step.begin, step.end).start()
        pending = Pending(cell)
        return forced(pending) if ordered else pending

    def attempts_of(self, callee: Any, name: str) -> AttemptRunner:
        """Return what runs the attempts of a step; of a model or module, one of its own for its provider."""
        model = model_of(callee)
        found = self._attempts.get((name, id(model)))
        if found is None:
            held = None if model is None or isinstance(model, ModelBinding) else ModuleRef(model)
            target = Target(name, callee, None, source=callee if model is None else model, held=held)
            spec = CallSpec(name, target, self._tries, Ends())
            found = AttemptRunner(
                spec, self.way, self.span, self.not_begun, self.left, self.end_late, named=name
            )
            self._attempts[name, id(model)] = found
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
        task.add_done_callback(step.task_ended)

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
        cell = Cell(next(self._numbers), self, steps)
        self._strand().add(cell)
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
            self.report.waited(*place, began, cell.steps)

    def first_error(self, cell: Cell) -> BaseException:
        """Return the error to raise where a failed value is used."""
        return self._strand().first_error(cell)

    # Strands.

    def _strand(self) -> Strand:
        """Return the strand whose code runs here: that of a task, or of a thread."""
        here = greenlet.getcurrent()
        kept, strand = self._last_strand
        if kept is not here:
            found = self._strands.get(here)
            strand = self._strands[here] = Strand(self) if found is None else found
            self._last_strand = here, strand
        assert strand is not None
        return strand

    def branch(self) -> tuple[int, ...]:
        """Return the path of a strand that the code here is about to begin."""
        return self._strand().branch()

    def begin_branch(self, path: tuple[int, ...]) -> None:
        """Begin a strand."""
        self._strand().path = path

    def next_number(self) -> int:
        return next(self._numbers)

    def cancel(self, cells: Collection[Cell]) -> None:
        """Cancel the steps of some cells, and wait for them."""
        with self._lock:
            steps = [self._steps[cell.number] for cell in cells if cell.number in self._steps]
        for step in steps:
            step.cancel()
        for cell in cells:
            if cell.number in self._steps and not cell.is_settled:
                self.wait_for(cell)

    def scope(self) -> Scope:
        """Return a block whose steps have ended when it is left, such as the body of a `try`."""
        return Scope(self._strand)

    def _wait_for_all(self) -> None:
        """Wait for all steps; raise the error of an earlier one of this strand."""
        here = self._strand()
        for strand in list(self._strands.values()):
            if strand is not here:
                strand.wait()
        here.settle(here.scopes[0].mark if here.scopes else 0, drop=False)

    def will_format(self, parts: tuple[Any, ...]) -> None:
        """Do nothing: any string may be made."""

    def will_change(self, container: Any, method: str = "", key: Any = None) -> None:
        """Note how to undo a change of a container, if a step that has begun may still fail.

        Args:
            container: The container.
            method: The method that changes it.
            key: The key that changes, for the method `__setitem__` of a dict.
        """
        strand = self._strand()
        if not (self._steps or self._has_failed):
            strand.journal.clear()
        elif self._is_alone:
            strand.journal.note(self.next_number(), container, method, key)
        else:
            # Others may change the container too, and what they change cannot be undone.
            strand.succeed()

    @property
    def _is_alone(self) -> bool:
        """True if the code of the program runs in no more than one task."""
        return len(self._strands) == 1

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
