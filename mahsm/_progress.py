"""Progress of edge runs: stream events, and the bars of `mahsm.progress()`."""

import itertools
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NotRequired

from typing_extensions import TypedDict

from mahsm._model_calls import Usage

if TYPE_CHECKING:
    from rich.console import Console

EVERY = 0.1
"""Least seconds between two events of one edge run; the first and the last are always sent."""


class ProgressEvent(TypedDict):
    """The progress of an edge run in `stream_mode="custom"`, up to ten times a second and once at the end.

    Attributes:
        edge: The edge's name.
        done: Finished items.
        total: Items in the batch.
        errors: Failed items.
        tokens: Input and output tokens of its model calls in this process. A call that is left behind counts
            when it ends.
        usd: Cost of these calls in US dollars, as far as prices are known.
        batch_jobs: With `batch_api`, the jobs that are open; left out where there are none.
    """

    edge: str
    done: int
    total: int
    errors: int
    tokens: int
    usd: float
    batch_jobs: NotRequired[Sequence[Mapping[str, Any]]]


Observer = Callable[[int, ProgressEvent], object]
"""A callback that takes the number of the edge run in this process, and an event."""

_observers: ContextVar[tuple[Observer, ...]] = ContextVar("mahsm_progress_observers", default=())
"""Set by `progress`; read when an edge run begins."""

_numbers = itertools.count()


class Progress:
    """Counts the finished items of one edge run, and sends events.

    Args:
        edge: The edge's name.
        total: Items in the batch.
        write: A callback for events besides the bars, such as LangGraph's stream writer.
        used: Usage of its model calls, which grows during the run.
    """

    def __init__(
        self,
        edge: str,
        total: int,
        write: Callable[[ProgressEvent], object] | None = None,
        used: Usage | None = None,
    ) -> None:
        self._event = ProgressEvent(edge=edge, done=0, total=total, errors=0, tokens=0, usd=0.0)
        self._write = write
        self._used = used or Usage()
        self._observers = _observers.get()
        self._is_heard = write is not None or bool(self._observers)
        self._number = next(_numbers)
        self._next = 0.0
        self._lock = threading.Lock()

    def step(self, *, failed: bool = False, count: int = 1) -> None:
        """Count one more finished item, or so many."""
        if not self._is_heard:
            return
        event = self._event
        with self._lock:
            event["done"] += count
            event["errors"] += failed
            now = time.monotonic()
            # `end` sends the last event.
            if now < self._next or event["done"] == event["total"]:
                return
            self._next = now + EVERY
            self._tell()

    def show_jobs(self, jobs: Sequence[Mapping[str, Any]]) -> None:
        """Send what providers say of the batch jobs that are open."""
        with self._lock:
            if jobs:
                self._event["batch_jobs"] = jobs
            else:
                self._event.pop("batch_jobs", None)
            if self._is_heard and time.monotonic() >= self._next:
                self._next = time.monotonic() + EVERY
                self._tell()

    def end(self, errors: int) -> None:
        """Send the last event. All items are done then, those of an earlier process included."""
        with self._lock:
            self._event.pop("batch_jobs", None)
            self._event.update(done=self._event["total"], errors=errors)
            self._tell()

    def _tell(self) -> None:
        event = self._event.copy()
        event.update(tokens=self._used.tokens, usd=self._used.usd)
        if self._write is not None:
            self._write(event)
        for observer in self._observers:
            observer(self._number, event)


def _note(runs: "list[ProgressEvent]", rate: float) -> str:
    """Return what stands beside a bar: failed items, items a second, tokens and cost."""
    errors, tokens, usd = (sum(run[key] for run in runs) for key in ("errors", "tokens", "usd"))
    found = [f"{errors:,} failed"] if errors else []
    found.append(f"{rate:,.{0 if rate >= 10 else 1}f}/s")
    if tokens:
        found.append(f"{tokens:,} tokens")
    if usd:
        found.append(f"${usd:,.4f}")
    if jobs := [job for run in runs for job in run.get("batch_jobs", ())]:
        answered = sum(job["completed"] for job in jobs)
        found.append(f"{answered:,} of {sum(job['requests'] for job in jobs):,} answered by batch jobs")
    return ", ".join(found)


@contextmanager
def progress(console: "Console | None" = None) -> Generator[None, None, None]:
    """Show a bar for each edge that runs in the block: items, failures, rate, tokens, cost, time left.

    Runs of one edge, in a loop or inside another edge, share a bar.

    Args:
        console: The console to draw on; stderr by default. Without a terminal, only finished bars appear.

    Example:
        >>> from mahsm import progress, vmap
        >>> edge = vmap(lambda state: state["item"] ** 2, batch_key="xs", out_key="squares")
        >>> with progress():
        ...     edge.invoke({"xs": [1, 2, 3]})
        {'squares': [1, 4, 9]}
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
    )
    rows: dict[str, TaskID] = {}
    latest: dict[int, ProgressEvent] = {}
    lock, is_over = threading.Lock(), threading.Event()
    times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    began = time.monotonic()

    bars = Bars(*columns, *times, console=console or Console(stderr=True))

    def observe(number: int, event: ProgressEvent) -> None:
        with lock:
            if is_over.is_set():
                return  # a blocking call that was left behind has ended
            latest[number] = event
            if not rows:
                bars.start()  # rich prints an empty line for a start without a bar
            if event["edge"] not in rows:
                rows[event["edge"]] = bars.add_task(event["edge"], total=None, note="")
            runs = [run for run in latest.values() if run["edge"] == event["edge"]]
            done = sum(run["done"] for run in runs)
            bars.update(
                rows[event["edge"]],
                completed=done,
                total=sum(run["total"] for run in runs),
                note=_note(runs, done / max(time.monotonic() - began, 1e-9)),
            )

    token = _observers.set((*_observers.get(), observe))
    try:
        yield
    finally:
        _observers.reset(token)
        with lock:
            is_over.set()
            if rows:
                bars.stop()
