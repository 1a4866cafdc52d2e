"""The block in which the calls of a run are collected, and submitted as jobs."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from contextvars import copy_context

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import GraphBubbleUp
from langgraph.types import interrupt

from mahsm import _spans
from mahsm._batches import Job, Journal, Rounds, status_of
from mahsm._model_calls import BATCH_SHARE, calls, has_batch_price
from mahsm._progress import Progress
from mahsm._spans import JobSpan
from mahsm._waiting import THREAD
from mahsm.edges._batched.place import Place
from mahsm.edges._shared.run import EdgeRun
from mahsm.edges._shared.saving import SAVER
from mahsm.edges._shared.streams import in_config
from mahsm.errors import EdgeError
from mahsm.policies import BatchAPI, BatchJobStatus


@asynccontextmanager
async def collected(
    run: EdgeRun, api: BatchAPI, progress: Progress, config: RunnableConfig
) -> AsyncGenerator[None, None]:
    """Return a block in which the model calls of a run's items are collected.

    Args:
        run: The run.
        api: The options.
        progress: The progress of the run.
        config: The config of the task that leads the run.

    Raises:
        EdgeError: if the run is to be interrupted, and nothing saves it.
    """
    journal = _journal(run)
    if journal is None and api.wait == "interrupt":
        raise EdgeError(
            f"{run.name}: BatchAPI(wait='interrupt') ends the run while jobs are open, and needs a "
            "checkpointer to go on. Compile the graph with one and pass a thread_id, or leave wait= out."
        )
    name = uuid.uuid4().hex if journal is None else journal.run
    rounds = Rounds(api, name, journal, _Watcher(run, progress, config))
    place = Place(rounds, rounds.root)
    rounds.start()
    is_complete = False
    try:
        with calls.changed(batched=place):
            yield
        is_complete = run.break_off.reason is None
    finally:
        # What no later run can collect is not to be paid for.
        cancel = journal is None or is_complete or run.ended is not None
        reason = run.break_off.reason
        has_failed = isinstance(reason, Exception) and not isinstance(reason, GraphBubbleUp)
        await run.way.call_to_end(rounds.end(cancel=cancel, has_failed=has_failed).result)
    if is_complete and place.is_unused and run.ended is None:
        raise EdgeError(
            f"{run.name}: batch_api= is given, but no item called a model of DSPy, so everything was done at "
            "the full price or without a model. Use DSPy modules or dspy_node in the target, or leave "
            "batch_api= out."
        )


def _journal(run: EdgeRun) -> Journal | None:
    saver = run.config.get("configurable", {}).get(SAVER)
    if not run.saved or not isinstance(saver, BaseCheckpointSaver):
        return None
    return Journal(run.config, None if run.way is THREAD else asyncio.get_running_loop())


class _Watcher:
    """Tells a run, its progress and its trace what its rounds say."""

    def __init__(self, run: EdgeRun, progress: Progress, config: RunnableConfig) -> None:
        self._run = run
        self._progress = progress
        self._config = config
        self._context = copy_context()
        self._spans: dict[Job, JobSpan] = {}

    def failed(self, error: BaseException) -> None:
        self._run.stop(error)

    def open_jobs(self, jobs: Sequence[BatchJobStatus]) -> None:
        self._run.stop(self._interrupted(list(jobs)))

    def _interrupted(self, jobs: list[BatchJobStatus]) -> BaseException:
        """Return LangGraph's interrupt; `interrupt` returns once for each answer that the run has had."""
        context = in_config(self._config)
        while True:
            try:
                context.run(interrupt, {"batch_jobs": jobs})
            except Exception as error:  # noqa: BLE001  a `GraphInterrupt`, unless LangGraph refuses it
                return error

    def began(self, job: Job) -> None:
        tracer = _spans.tracer()
        if tracer is None:
            return
        note = job.note
        given = {"round": note.number, "requests": len(note.keys), "label": note.label}
        name = f"batch job: {note.provider}/{note.model}"
        self._spans[job] = self._context.copy().run(tracer.job, name, given)

    def looked(self, jobs: Sequence[BatchJobStatus]) -> None:
        self._progress.show_jobs(jobs)

    def ended(self, job: Job, error: BaseException | None, jobs: Sequence[BatchJobStatus]) -> None:
        self._progress.show_jobs(jobs)
        span = self._spans.pop(job, None)
        if span is None:
            return
        status, note = status_of(job), job.note
        kept = ("id", "provider", "model", "status", "requests", "completed", "failed")
        span.note({key: status[key] for key in kept})
        span.note({"seconds": round(time.time() - note.at, 3), "seconds_queued": job.seconds_queued})
        is_known = has_batch_price(note.provider, note.model)
        span.note({"price": "batch price" if is_known else f"{BATCH_SHARE:g} of the ordinary price"})
        if error is not None:
            span.fail(error)
        span.end()
