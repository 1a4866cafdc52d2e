"""Rounds: the requests of a run are collected, submitted as jobs, and answered."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from operator import methodcaller
from typing import Any

from mahsm._batches.abilities import Known
from mahsm._batches.client import Client
from mahsm._batches.earlier import EarlierJobs, places
from mahsm._batches.estimates import Estimates
from mahsm._batches.jobs import Job, JobFailed, NeverSubmitted, Outcome, Slot
from mahsm._batches.journal import Journal, Note
from mahsm._batches.pending import Pending
from mahsm._batches.queues import Queue
from mahsm._batches.requests import Ask, AtFullPrice, Endpoint, Wake, Where
from mahsm._batches.seats import Seat, Table
from mahsm._batches.watcher import Watcher, not_accepted, status_of
from mahsm._waiting import Turn, tasks, wake_all
from mahsm.policies import BatchAPI, BatchJobStatus

_GOODBYE = 10.0
"""Most seconds for which the end of a run waits for its ordinary calls, and for its jobs to be cancelled."""

_PATIENCE = 60.0
"""Seconds without a new request after which a job is submitted although some items go on."""


class Rounds:
    """The requests and jobs of one run.

    What has to do with jobs happens on one event loop of the process, however the run waits. Requests come
    from any thread.

    Args:
        api: The options.
        run: The name of the run, which a run that goes on has again.
        journal: Where jobs are noted, or None if nothing is saved.
        watcher: Is told what happens.
        linger: Seconds without a new request after which a job is submitted, when every item waits.
    """

    def __init__(
        self, api: BatchAPI, run: str, journal: Journal | None, watcher: Watcher, *, linger: float = 0.0
    ) -> None:
        self.api = api
        self.root = Seat(Table(self._all_wait))
        self.endpoints: dict[Endpoint, Endpoint] = {}
        """For models as users name them: where their requests go."""
        self.abilities: Known = {}
        self._run = run
        self._journal = journal
        self._watcher = watcher
        self._linger = linger
        self._loop = tasks.batch_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._incoming: list[Ask] = []
        """Requests on their way to the loop, which is woken once for all of them."""
        self._calls: set[asyncio.Task[Any]] = set()
        """Ordinary calls that are under way."""
        self._early: list[Ask] | None = []
        self._queues: dict[Where, Queue] = defaultdict(lambda: Queue(api.poll))
        self._earlier = EarlierJobs(journal)
        self._jobs: list[Job] = []
        self._waiting: set[Job] = set()
        self._clients: dict[Endpoint, Client] = {}
        self._estimates = Estimates()
        self._pending = Pending(api, self._estimates)
        self._number = 0
        # Requests that have joined and are not taken yet come before any further look.
        self._joined = self._taken = 0
        self._last = time.monotonic()

    # From any thread.

    def start(self) -> None:
        """Begin: read what an earlier process has left."""
        self._loop.call_soon_threadsafe(self._begin, self._main())

    def join(self, ask: Ask) -> None:
        """Take a request; its seat waits from now on."""
        with self.root.lock:
            self._joined += 1
            is_first = not self._incoming
            self._incoming.append(ask)
        if is_first:
            self._loop.call_soon_threadsafe(self._guarded, self._take_all)
        ask.seat.waits()

    def complete(self, ask: Ask) -> "Future[Any]":
        """Make an ordinary call in place of a request that a job has not answered."""

        async def made() -> Any:
            call = self._loop.create_task(self._complete(ask))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            # A later run does not pay for an answer that is noted, so the end of this one waits for it.
            return await (call if self._journal is None else asyncio.shield(call))

        return asyncio.run_coroutine_threadsafe(made(), self._loop)

    def end(self, *, cancel: bool, has_failed: bool) -> "Future[None]":
        """End; with `cancel`, the jobs that are open are cancelled at the provider.

        If the run has failed, a run that goes on with it asks again what has had an error.
        """
        return asyncio.run_coroutine_threadsafe(self._end(cancel=cancel, has_failed=has_failed), self._loop)

    def _all_wait(self) -> None:
        self._loop.call_soon_threadsafe(self._guarded, self._look)

    # On the loop.

    def _guarded(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001  nobody else would hear of it
            self._watcher.failed(error)

    def _begin(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _main(self) -> None:
        try:
            self._number = await self._earlier.read()
        except Exception as error:  # noqa: BLE001  whatever a checkpointer raises
            self._watcher.failed(error)
            return
        early, self._early = self._early or [], None
        for ask in early:
            self._place(ask)
        self._look()
        patience = max(_PATIENCE, self._linger)
        while True:
            # Seats are counted. This is for items that wait for what another item holds, which waits here.
            await asyncio.sleep(patience)
            if time.monotonic() - self._last >= patience:
                self._close_all()

    async def _complete(self, ask: Ask) -> Any:
        answer = await self._client(ask.endpoint).complete(ask.request)
        if self._journal is not None and isinstance(ask.failure, AtFullPrice):
            try:
                await self._journal.answered(ask.failure.at, answer)
            except Exception as error:  # noqa: BLE001  whatever a checkpointer raises
                self._watcher.failed(error)
        return answer

    def _take_all(self) -> None:
        with self.root.lock:
            asks, self._incoming = self._incoming, []
        for ask in asks:
            self._take(ask)

    def _take(self, ask: Ask) -> None:
        self._taken += 1
        self._last = time.monotonic()
        if self._early is not None:
            self._early.append(ask)
        else:
            self._place(ask)

    def _place(self, ask: Ask) -> None:
        """Give a request its place in a job of an earlier process, or keep it for the next job."""
        if ask.is_over:
            return
        self._restore(ask.endpoint)
        if (slot := self._earlier.slot_for(ask)) is not None:
            self._give(slot)
            return
        if self._pending.add(ask) >= self.api.max_requests:
            self._close(ask.endpoint)

    def _restore(self, endpoint: Endpoint) -> None:
        """Go on with the jobs of an endpoint that an earlier process has left."""
        for note, slots in self._earlier.take(endpoint.where):
            self._run_job(endpoint, note, slots, is_restored=True)

    def _look(self) -> None:
        """Submit what is pending if every item waits."""
        if self._early is None and self.root.is_still and self._joined == self._taken:
            left = self._linger and self._last + self._linger - time.monotonic()
            if left > 0:
                self._loop.call_later(left, self._guarded, self._look)
                return
            self._close_all()
            self._tell_if_open()

    def _close_all(self) -> None:
        for endpoint in self._pending.endpoints:
            while self._pending.of(endpoint) and self._close(endpoint):
                pass

    def _close(self, endpoint: Endpoint) -> bool:
        """Submit what is pending for an endpoint, as one job if it fits into one.

        Return False if nothing more may be enqueued now.
        """
        if not self._queues[endpoint.where].takes:
            return False
        asks, tokens = self._pending.take(endpoint, sum(job.tokens for job in self._jobs))
        if asks:
            self._submit(endpoint, asks, tokens)
        return bool(asks) or not self._pending.of(endpoint)

    def _submit(self, endpoint: Endpoint, asks: Sequence[Ask], tokens: int) -> None:
        number, self._number = self._number, self._number + 1
        note = Note(
            number=number,
            label=f"mahsm {self._run} {number}"[-512:],
            provider=endpoint.provider,
            model=endpoint.model,
            base_url=endpoint.base_url,
            keys=[ask.key for ask in asks],
            at=time.time(),
        )
        slots = [Slot(ask.key, at, ask) for (at, _), ask in zip(places(note), asks, strict=True)]
        self._run_job(endpoint, note, slots, tokens=tokens)

    def _run_job(
        self,
        endpoint: Endpoint,
        note: Note,
        slots: list[Slot],
        *,
        tokens: float = 0.0,
        is_restored: bool = False,
    ) -> None:
        job = Job(
            note,
            slots,
            self._client(endpoint),
            self._journal,
            poll=self.api.poll,
            window=self.api.window,
            tokens=tokens,
            is_restored=is_restored,
        )
        self._jobs.append(job)
        self._queues[note.where].enter(job)
        self._watcher.began(job)
        self._begin(self._life_of(job))

    def _client(self, endpoint: Endpoint) -> Client:
        if endpoint not in self._clients:
            self._clients[endpoint] = Client(endpoint)
        return self._clients[endpoint]

    async def _life_of(self, job: Job) -> None:
        failure: Exception | None = None
        try:
            await job.run(self, lambda: [one.note.id for one in self._jobs if one.note.id])
        except Exception as error:  # noqa: BLE001  it is passed on
            failure = error
        finally:
            self._jobs.remove(job)
            self._waiting.discard(job)
            self._leave_queue(job, failure)
            is_error = failure is not None and not isinstance(failure, NeverSubmitted)
            self._watcher.ended(job, failure if is_error else None, self._statuses())
        self._conclude(job, failure)
        self._look()

    def _leave_queue(self, job: Job, failure: Exception | None) -> None:
        queue = self._queues[job.note.where]
        if failure is None:
            queue.accept()
        is_refused = isinstance(failure, JobFailed) and job.is_refused
        if (seconds := queue.leave(job, is_refused=is_refused)) is not None:
            self._begin(self._open(queue, seconds))

    async def _open(self, queue: Queue, seconds: float) -> None:
        await asyncio.sleep(seconds)
        queue.open()
        self._guarded(self._look)

    def _conclude(self, job: Job, failure: Exception | None) -> None:
        """Pass on what a job has come to."""
        from dspy.lm15 import InvalidRequestError, LM15Error

        if failure is None:
            self._settle(job)
        elif isinstance(failure, NeverSubmitted) or job.is_refused:
            self._give_back(job)
        elif isinstance(failure, JobFailed):
            self._settle(job, Outcome(error=InvalidRequestError(str(failure))))
        elif isinstance(failure, LM15Error):
            self._settle(job, Outcome(error=failure))
        else:
            # Of the checkpointer, for example.
            self._watcher.failed(failure)

    def _give_back(self, job: Job) -> None:
        """Place the requests of a job again."""
        asks = [slot.ask for slot in job.slots if slot.ask is not None]
        self._earlier.drop(job)
        self._estimates.release(asks)
        for ask in asks:
            self._place(ask)

    def _settle(self, job: Job, of_all: Outcome | None = None) -> None:
        """Give each request of a job its outcome."""
        self._estimates.release(slot.ask for slot in job.slots if slot.ask is not None)
        woken: list[Turn] = []
        for slot in job.slots:
            slot.outcome, slot.job = of_all or slot.outcome, job.note.id
            self._give(slot, woken.append)
        wake_all(woken)

    def _give(self, slot: Slot, wake: Wake = methodcaller("wake")) -> None:
        """Give the call that waits for a request its outcome, once both are there."""
        ask, outcome = slot.ask, slot.outcome
        if ask is None or outcome is None:
            return
        ask.job = slot.job
        if outcome.answer is not None:
            self._estimates.learn(ask.endpoint, outcome.answer.usage.output_tokens or 0)
            ask.settle(outcome.answer, wake=wake)
        elif slot.paid is not None:
            ask.job = None
            ask.settle(slot.paid, wake=wake)
        elif outcome.error is not None and slot.is_old:
            self._place(ask)
        elif outcome.error is not None:
            ask.settle(failure=outcome.error, wake=wake)
        elif self.api.on_expired == "retry":
            self._place(ask)
        elif self.api.on_expired == "sync":
            self._call_at_full_price(ask, slot, wake)
        else:
            ask.settle(failure=_expired(ask), wake=wake)

    def _call_at_full_price(self, ask: Ask, slot: Slot, wake: Wake) -> None:
        # If the ordinary call had an error in an earlier process, a later job may have the request.
        if (later := self._earlier.slot_for(ask)) is not None:
            self._give(later, wake)
        else:
            ask.settle(failure=AtFullPrice(slot.at), wake=wake)

    # How jobs wait.

    async def until(self, job: Job, seconds: float) -> None:
        """Wait until a job should be looked at again."""
        self._watcher.looked(self._statuses())
        self._waiting.add(job)
        if job.is_accepted:
            self._queues[job.note.where].accept()
        self._look()
        await asyncio.sleep(seconds)
        self._waiting.discard(job)
        if self._journal is None and all(slot.ask is not None and slot.ask.is_over for slot in job.slots):
            await self._cancel_unread(job)

    @staticmethod
    async def _cancel_unread(job: Job) -> None:
        """Cancel a job whose calls wait no more: of the runs that share jobs, theirs has ended."""
        from dspy.lm15 import LM15Error

        with suppress(LM15Error, OSError):  # it may be done by now; else the next look tries again
            await job.cancel()

    def _tell_if_open(self) -> None:
        if self.api.wait != "interrupt" or not self.root.is_still:
            return
        # What is pending then is more than may be enqueued.
        if self._waiting.issuperset(self._jobs) and (found := self._statuses()):
            self._watcher.open_jobs(found)

    def _statuses(self) -> list[BatchJobStatus]:
        refused = [job for queue in self._queues.values() for job in queue.refused]
        return [*map(status_of, self._jobs), *map(not_accepted, refused)]

    async def _end(self, *, cancel: bool, has_failed: bool) -> None:
        open_jobs = [*self._jobs, *(self._unclaimed() if cancel else ())]
        await self._cancelled(self._tasks)
        if not cancel and self._calls:
            await asyncio.wait(self._calls, timeout=_GOODBYE)
        await self._cancelled(self._calls)
        if cancel and open_jobs:
            left = {self._loop.create_task(job.cancel()) for job in open_jobs}
            await asyncio.wait(left, timeout=_GOODBYE)
            await self._cancelled(left)
        for client in self._clients.values():
            await client.aclose()
        if has_failed and self._journal is not None:
            await self._journal.failed(self._number - 1)

    def _unclaimed(self) -> list[Job]:
        """Return the jobs of an earlier process that no request has come for, such as of another model."""
        return [
            Job(note, [], self._client(self._like(note)), None, poll=self.api.poll, window=self.api.window)
            for note in self._earlier.left
        ]

    def _like(self, note: Note) -> Endpoint:
        """Return the endpoint of a job, with the key of another one of the same provider."""
        plain = Endpoint(note.provider, note.model, note.base_url)
        for known in self._clients:
            if (known.provider, known.base_url) == (note.provider, note.base_url):
                return replace(plain, api_key=known.api_key, timeout=known.timeout)
        return plain

    @staticmethod
    async def _cancelled(open_tasks: "set[asyncio.Task[Any]]") -> None:
        """Cancel tasks, and wait for them; their errors have no reader any more."""
        left = list(open_tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        for task in left:
            if not task.cancelled():
                task.exception()


def _expired(ask: Ask) -> BaseException:
    from dspy.lm15 import TimeoutError as Late

    return Late(f"the batch job of this request to {ask.endpoint.label} ended before it was answered")
