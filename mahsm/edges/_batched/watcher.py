"""What a run, its progress and its trace are told of its jobs."""

import time
from collections.abc import Sequence
from contextvars import copy_context

from langchain_core.runnables import RunnableConfig
from langgraph.types import interrupt

from mahsm import _spans
from mahsm._batches import Job, Watcher, status_of
from mahsm._model_calls import BATCH_SHARE, has_batch_price
from mahsm._progress import Progress
from mahsm._spans import JobSpan
from mahsm.edges._shared.run import EdgeRun
from mahsm.edges._shared.streams import in_config
from mahsm.policies import BatchJobStatus


class RunWatcher(Watcher):
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
        self.end_span(job, error)

    def end_span(self, job: Job, error: BaseException | None) -> None:
        """End the span of a job, if it has one."""
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
