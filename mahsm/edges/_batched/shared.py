"""Jobs that several runs share, such as those of an evaluation, which runs a program for each example."""

import os
import threading
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from mahsm._batches import Job, Rounds, Watcher
from mahsm._waiting import Way
from mahsm.edges._batched.place import Place
from mahsm.edges._batched.watcher import RunWatcher
from mahsm.policies import BatchAPI, BatchJobStatus

_open: "dict[tuple[int, BatchAPI], _Shared]" = {}
"""What runs share that go on now, by the process, since a fork has no part in it, and the options."""

_lock = threading.Lock()


@asynccontextmanager
async def shared(api: BatchAPI, watcher: RunWatcher, way: Way) -> AsyncGenerator[Place, None]:
    """Return a block in which the calls of a run are collected with those of other runs."""
    key = os.getpid(), api
    with _lock:
        found = _open.get(key)
        if found is None or found.has_failed:
            found = _open[key] = _Shared(api)
        found.watchers.append(watcher)
        place = Place(found.rounds, found.rounds.root.inside())
    try:
        yield place
    finally:
        place.leave()
        with _lock:
            found.watchers.remove(watcher)
            is_last = not found.watchers
            if is_last and _open.get(key) is found:
                del _open[key]
        if is_last:
            await way.call_to_end(found.rounds.end(cancel=True, has_failed=False).result)


class _Shared(Watcher):
    """The rounds that runs share, which tell all of them what happens.

    Attributes:
        rounds: The rounds.
        watchers: Those of the runs that go on.
        has_failed: True if the rounds cannot go on.
    """

    def __init__(self, api: BatchAPI) -> None:
        self.rounds = Rounds(api, uuid.uuid4().hex, None, self, linger=api.linger)
        self.watchers: list[RunWatcher] = []
        self.has_failed = False
        self._of: dict[Job, RunWatcher] = {}
        self.rounds.start()

    def failed(self, error: BaseException) -> None:
        self.has_failed = True
        for watcher in self._now():
            watcher.failed(error)

    def open_jobs(self, jobs: Sequence[BatchJobStatus]) -> None:
        """Do nothing: only runs with a checkpointer are interrupted, and these share no jobs."""

    def began(self, job: Job) -> None:
        # The span of a job is in the trace of one run.
        for watcher in self._now()[:1]:
            self._of[job] = watcher
            watcher.began(job)

    def looked(self, jobs: Sequence[BatchJobStatus]) -> None:
        for watcher in self._now():
            watcher.looked(jobs)

    def ended(self, job: Job, error: BaseException | None, jobs: Sequence[BatchJobStatus]) -> None:
        if (watcher := self._of.pop(job, None)) is not None:
            watcher.end_span(job, error)
        self.looked(jobs)

    def _now(self) -> list[RunWatcher]:
        with _lock:
            return list(self.watchers)
