"""Cuts the items of a run into parts, sends them to workers, and takes their results."""

import hashlib
import pickle
import threading
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from mahsm._model_calls import calls, count_attempt
from mahsm._waiting import Closed, Turn
from mahsm.edges._vmap.executors.crossing import packed, versions
from mahsm.edges._vmap.executors.engines import Engine, engine_of, is_gone
from mahsm.edges._vmap.executors.marks import remove_mark
from mahsm.edges._vmap.executors.pace import Pace
from mahsm.edges._vmap.executors.program import Program, program_of
from mahsm.edges._vmap.executors.values import packed_value
from mahsm.edges._vmap.executors.worker import Part, Reply, run_part
from mahsm.edges._vmap.results import Taker
from mahsm.edges._vmap.run import VmapRun
from mahsm.errors import BudgetExceeded, EdgeError
from mahsm.policies._internal import lease_budgets, release, spendings

_GRACE = 2.0
"""Seconds after the deadline that parts have to come back, which end by themselves at the deadline."""

_LARGE = 64 * 1024
"""Bytes from which a program is not sent with each part, but to workers that do not have it."""


@dataclass
class _Sent:
    """A part that was sent.

    Attributes:
        places: The places of its items.
        losses: How many workers have died with these items.
        began: When it was sent.
        is_whole: True if it has to have the program.
        is_alone: True if nothing else is on its way.
        mark: The name of its mark, if it has one.
    """

    places: Sequence[int]
    losses: int = 0
    began: float = 0.0
    is_whole: bool = False
    is_alone: bool = False
    mark: str = ""


class Parts:
    """The parts of one run.

    Args:
        run: The run.
        sink: Takes the results.
        executor: Runs them.
        make: Makes the edge in a worker, given the items at a time.
    """

    def __init__(self, run: VmapRun, sink: Taker, executor: Any, make: "partial[Any]") -> None:
        self._run, self._sink = run, sink
        self._engine: Engine = engine_of(run.name, executor)
        self._program: Program = program_of(run, make)
        self._blob, self._modules = packed(run.name, self._program)
        self._digest = hashlib.sha256(self._blob).hexdigest()
        self._pace = Pace(self._share)
        self._sent: dict[Future[Any], _Sent] = {}
        self._again: deque[_Sent] = deque()
        self._suspects: deque[_Sent] = deque()
        self._ready: list[int] = []
        self._is_known = self._has_replies = False
        self._is_read = False
        self._left = 0
        self._lock = threading.Lock()
        self._ended: list[Future[Any]] = []
        self._turn: Turn | None = None
        self._deadline = None if run.spec.ends.deadline is None else time.monotonic() + run.spec.ends.deadline

    @property
    def _workers(self) -> int:
        return min(self._engine.workers, self._run.spec.concurrency.max_concurrency)

    @property
    def _share(self) -> int:
        """How many items may run at a time in one worker."""
        return max(1, self._run.spec.concurrency.max_concurrency // self._workers)

    async def run(self, blocks: AsyncIterator[Sequence[int]], count: int) -> None:
        """Run items until all have an outcome, or the run has ended.

        Args:
            blocks: Yields the places of the items.
            count: How many they are.

        Raises:
            Closed: if the run was stopped.
            EdgeError: if the executor cannot run them.
        """
        self._left = count
        run = self._run
        try:
            with run.not_begun.on_stop(self._wake), run.running.on_stop(self._wake):
                while await self._fill(blocks):
                    await self._wait()
                    for future in self._take_ended():
                        await self._take(self._back(future), future)
        except Exception:
            if run.saving is not None:
                await self._save_rest()
            raise
        finally:
            for future in list(self._sent):
                future.cancel()
                self._back(future)

    def _back(self, future: "Future[Any]") -> _Sent:
        """Take a part off those on their way."""
        part = self._sent.pop(future)
        remove_mark(part.mark)
        return part

    async def _save_rest(self) -> None:
        """Keep what parts bring that are on their way when the run breaks off, so that it is saved."""
        for future in () if self._engine.cancels_begun else self._sent:
            future.cancel()  # has an effect if no worker has begun it
        while self._sent and not self._is_late:
            ended = [future for future in self._sent if future.done()]
            if not ended:
                await self._until(lambda: any(future.done() for future in self._sent), self._seconds_left)
            for future in ended:
                part = self._back(future)
                with suppress(Exception, CancelledError):
                    reply = cast("Reply", pickle.loads(future.result()))
                    self._count(reply)
                    await self._keep(part, replace(reply, failures={}))

    # Sending.

    async def _fill(self, blocks: AsyncIterator[Sequence[int]]) -> bool:
        """Send as many parts as may be on their way; return whether there is anything to wait for."""
        run = self._run
        while run.ended is None:
            self._check_stopped()
            if len(self._sent) >= self._most:
                return True
            await self._ask_budgets()
            if run.ended is not None:
                break
            self._check_stopped()
            part = await self._next(blocks)
            if part is None:
                break
            await self._send(part)
        self._check_stopped()
        # If calls in progress are cancelled, their results are not waited for.
        return bool(self._sent) and run.running.reason is None and not self._is_late

    async def _ask_budgets(self) -> None:
        """Wait until the budgets that processes share let a part begin; the run ends if one is spent."""
        run = self._run
        try:
            release(await lease_budgets(run.way, run.not_begun.on_stop, calls=False))
        except BudgetExceeded:
            if run.ended is None:
                raise

    @property
    def _most(self) -> int:
        if any(part.is_alone for part in self._sent.values()):
            return 1
        if self._workers < self._engine.workers:
            return self._workers  # any worker may get a part, and each runs its share
        # One more than run at a time, so that no worker waits for its next part.
        return min(2, self._engine.at_a_time + 1) * self._workers

    @property
    def _is_stopped(self) -> bool:
        """True if the results of parts on their way are not waited for."""
        run = self._run
        return run.running.reason is not None or (run.not_begun.reason is not None and run.ended is None)

    def _check_stopped(self) -> None:
        run = self._run
        if run.not_begun.reason is not None and run.ended is None:
            raise Closed(run.not_begun.reason)

    async def _next(self, blocks: AsyncIterator[Sequence[int]]) -> _Sent | None:
        """Return the next part to send; None if there is none now."""
        if self._again:
            return self._again.popleft()
        if self._suspects:
            if self._sent:
                return None
            # So it is known that no other item has ended the worker, if that dies again.
            part = self._suspects.popleft()
            part.is_alone = True
            return part
        size = self._size()
        while len(self._ready) < size and not self._is_read and self._may_read():
            block = await anext(blocks, None)
            if block is None:
                self._is_read = True
            else:
                self._ready += await self._run.uncached(block, self._sink)
        places, self._ready = self._ready[:size], self._ready[size:]
        self._left -= len(places)
        if places and places[-1] - places[0] == len(places) - 1:
            return _Sent(range(places[0], places[-1] + 1))  # which crosses in a few bytes
        return _Sent(places) if places else None

    def _may_read(self) -> bool:
        """Return whether the next block can be read without waiting for a result."""
        ranges = self._run.open_ranges
        return ranges is None or ranges.has_room or not (self._ready or self._sent)

    def _size(self) -> int:
        size = self._pace.size(self._left, self._workers)
        for spending in spendings():
            if spending.most_calls is not None:
                left = max(1, int(spending.most_calls - spending.spent().calls))
                size = min(size, -(-left // self._most))
        return size

    async def _send(self, part: _Sent) -> None:
        run = self._run
        places, batch = part.places, run.batch
        items = batch[places.start : places.stop] if isinstance(places, range) else [batch[n] for n in places]
        stops = run.spec.failures.on_error == "raise"
        part.mark = uuid.uuid4().hex if self._engine.repeats else ""
        seconds = None if self._deadline is None else self._deadline - time.monotonic()
        orphans, workers = self._engine.leaves_orphans, self._workers
        work = Part(places, items, self._share, workers, stops, seconds, orphans, part.mark)
        try:
            data = packed_value(tuple(work))
        except Exception as error:
            raise EdgeError(
                f"{run.name}: an item cannot be sent to workers: {type(error).__name__}: {error}. Pass plain "
                "values, such as paths, and make the rest in the target."
            ) from error
        if self._pace.weighed(len(places), len(data)):
            self._cut(part, self._pace.most)
            return
        blob = self._blob if part.is_whole or not self._is_known else b""
        part.began = time.monotonic()
        try:
            future = self._engine.submit(run_part, versions(), self._modules, self._digest, blob, data)
        except Exception as error:
            raise EdgeError(f"{run.name}: {self._engine.name} takes no work: {error}. {_RESUME}") from error
        self._sent[future] = part
        future.add_done_callback(self._end)

    def _cut(self, part: _Sent, size: int) -> None:
        """Let a part be sent in pieces."""
        places = part.places
        pieces = [replace(part, places=places[at : at + size]) for at in range(0, len(places), size)]
        self._again.extend(pieces)

    # Waiting.

    def _end(self, future: "Future[Any]") -> None:
        with self._lock:
            self._ended.append(future)
        self._wake()

    def _wake(self, _: object = None) -> None:
        with self._lock:
            turn = self._turn
        if turn is not None:
            turn.wake()

    @property
    def _is_late(self) -> bool:
        """True if parts on their way should have ended by themselves, since the deadline is over."""
        return self._deadline is not None and time.monotonic() >= self._deadline + _GRACE

    @property
    def _seconds_left(self) -> float | None:
        """How long parts on their way are waited for."""
        return None if self._deadline is None else max(0.0, self._deadline + _GRACE - time.monotonic())

    async def _wait(self) -> None:
        await self._until(lambda: bool(self._ended) or self._is_stopped, self._seconds_left)

    async def _until(self, is_over: Callable[[], bool], timeout: float | None = None) -> None:
        """Wait to be woken, unless it is over already."""
        turn = self._run.way.turn()
        with self._lock:
            self._turn = turn
        if not is_over():
            await turn.wait(timeout)
        with self._lock:
            self._turn = None

    def _take_ended(self) -> list["Future[Any]"]:
        with self._lock:
            ended, self._ended = self._ended, []
        return [future for future in ended if future in self._sent]

    # Results.

    async def _take(self, part: _Sent, future: "Future[Any]") -> None:
        run = self._run
        try:
            reply = cast("Reply", pickle.loads(data := future.result()))
        except BaseException as error:  # noqa: BLE001  mapped
            self._failed(part, error)
            return
        self._has_replies = True
        if reply.refusal:
            raise EdgeError(f"{run.name}: {reply.refusal}")
        if reply.exit:
            raise self._read(reply.exit)
        if reply.is_lost:
            self._lose(part)
            return
        if reply.is_unknown:
            part.is_whole = True
            self._again.append(part)
            return
        self._is_known = len(self._blob) > _LARGE
        self._pace.took(len(part.places), time.monotonic() - part.began)
        self._pace.weighed(len(part.places), len(data))
        self._count(reply)
        await self._keep(part, reply)
        for spending in spendings():
            spending.begun()

    def _count(self, reply: Reply) -> None:
        for answer in reply.answers:
            calls.begin_call()
            calls.end_call(answer)
        for _ in range(reply.attempts):
            count_attempt()

    async def _keep(self, part: _Sent, reply: Reply) -> None:
        run = self._run
        places, entries = part.places, self._read(reply.entries)
        if isinstance(entries, dict):
            found = cast("dict[int, Any]", entries)
            places, entries = [places[number] for number in found], list(found.values())
        if self._program.updates:
            for place, entry in zip(places, entries, strict=True):
                await run.keep_update(place, entry, self._sink)
        else:
            run.tally.all_succeeded(places, entries, self._sink)
        if run.open_ranges is not None:
            for place in places:
                await run.ended_in_range(place)
        for number, (data, attempts) in (reply.failures or {}).items():
            place = part.places[number]
            run.fail_item(place, self._read(data), attempts, self._sink)
            await run.ended_in_range(place)
        has_outcome = len(places) + len(reply.failures or ())
        if has_outcome < len(part.places) and run.ended is None and run.spec.ends.deadline is not None:
            run.end_late(run.spec.ends.deadline)  # which the worker's clock has reached before

    def _read(self, data: bytes) -> Any:
        try:
            return pickle.loads(data)
        except Exception as error:
            raise EdgeError(
                f"{self._run.name}: what a worker has sent back cannot be read here: {type(error).__name__}: "
                f"{error}. Return plain values, or install here what the worker has."
            ) from error

    def _failed(self, part: _Sent, error: BaseException) -> None:
        """Handle a part that has no reply."""
        run, engine = self._run, self._engine
        if engine.is_loss(error) and engine.survives:
            self._lose(part)
            return
        if is_gone(error) or engine.is_loss(error):
            hint = _RESUME if self._has_replies or is_gone(error) else _GUARD
            why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0].rstrip('.')}"
            raise EdgeError(
                f"{run.name}: {engine.name} has ended, or one of its workers has: {why}. {hint}"
            ) from error
        if isinstance(error, Exception):
            raise EdgeError(
                f"{run.name}: a worker could not run a part: {type(error).__name__}: {error}. Install mahsm "
                "and what the target imports there."
            ) from error
        raise error

    def _lose(self, part: _Sent) -> None:
        """Send the items of a part again whose worker has died: in pieces, and at last one item alone."""
        losses = part.losses + 1
        if len(part.places) > 1:
            self._cut(_Sent(part.places, losses), -(-len(part.places) // _PIECES))
        elif not part.is_alone:
            self._suspects.append(_Sent(part.places, losses))
        else:
            error = EdgeError(
                f"{self._run.name}: the worker that ran this item has died, {losses} times. Look for memory "
                "that runs out, or a crash in native code."
            )
            self._run.fail_item(part.places[0], error, losses, self._sink)


_PIECES = 16
"""Pieces of a part whose worker has died. After each death, it takes seconds to start another worker, so an
item that ends its worker has to be found in few steps."""

_RESUME = (
    "Resume the run with an executor that works: with a checkpointer or a sink, finished items are not "
    "called again."
)

_GUARD = (
    "If the workers could not begin, their error is on stderr: put what starts them under "
    f"`if __name__ == '__main__':`, in a file. {_RESUME}"
)
