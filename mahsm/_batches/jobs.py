"""A job: from its submission, or from where an earlier process left it, to its answers."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Protocol, TypeVar

from mahsm._batches.client import Client, Sent, is_passing
from mahsm._batches.journal import Journal, Note
from mahsm._batches.requests import Ask, At
from mahsm.errors import EdgeError

T = TypeVar("T")

_GROWTH = 1.5
"""Factor by which the seconds between two looks grow."""

_MOST = 8
"""Most of them, in multiples of `poll`."""

_GOODBYE = 10.0
"""Most seconds for which the end of a run waits for the answer to a submission."""

_LOOKS = 3
"""How often a job is looked for whose submission has got no answer."""


_FULL = frozenset({"token_limit_exceeded", "batch_limit_exceeded"})
"""OpenAI's codes for a job that is refused because too much is enqueued already."""

_UNANSWERED = frozenset({"batch_expired", "batch_cancelled"})
"""OpenAI's codes of requests that were not answered when their job ended."""

_NO_REASON = "batch entry errored"
"""What DSPy's client says of an error that it cannot read, such as one with such a code."""


@dataclass(frozen=True)
class Outcome:
    """What became of one request of a job.

    Attributes:
        answer: The answer, if there is one.
        error: The provider's error.
        is_expired: True if the provider has not answered, since the job expired or was cancelled.
    """

    answer: Any = None
    error: BaseException | None = None
    is_expired: bool = False


class Slot:
    """A place in a job: a request, the call that waits for it, and what became of it.

    Attributes:
        key: The request's key.
        at: The job's number, and the place in it.
        ask: The call; None in a job of an earlier process until an equal request is asked again.
        paid: The answer of an ordinary call that an earlier process has made instead, if it has.
        outcome: What became of the request, once known.
        is_old: True if the run has failed since, so that a request which has an error is asked again.
        job: The id of the job, once the outcome is known.
    """

    __slots__ = ("ask", "at", "is_old", "job", "key", "outcome", "paid")

    def __init__(
        self, key: str, at: At, ask: Ask | None = None, *, paid: Any = None, is_old: bool = False
    ) -> None:
        self.key = key
        self.at = at
        self.ask = ask
        self.paid = paid
        self.is_old = is_old
        self.outcome: Outcome | None = None
        self.job: str | None = None


class Waits(Protocol):
    """How a job waits."""

    async def until(self, job: "Job", seconds: float) -> None:
        """Return when the job should be looked at again."""
        ...


class Job:
    """One job. Its methods are for the loop of batches.

    Attributes:
        note: What is known of it.
        slots: Its requests.
        info: What the provider said of it last.
        tokens: Estimated input tokens.
    """

    def __init__(
        self,
        note: Note,
        slots: list[Slot],
        client: Client,
        journal: Journal | None,
        *,
        poll: float,
        window: str,
        tokens: float = 0.0,
        is_restored: bool = False,
    ) -> None:
        self.note = note
        self.slots = slots
        self.info: Any = None
        self.tokens = tokens
        self.seconds_queued: float | None = None
        """Seconds until the provider has begun to answer, as far as that was seen."""
        self._client = client
        self._journal = journal
        self._poll = poll
        self._window = window
        self._is_restored = is_restored
        token = int(sha256(note.label.encode()).hexdigest()[:12], 16)
        self.sent = Sent(note.label, token, len(slots), note.at)
        self._refused: list[str] = []
        """Jobs that had other requests."""

    @property
    def is_accepted(self) -> bool:
        """True if the provider has begun it: it refuses jobs before."""
        return self.info is not None and self.info.status not in ("queued", "failed")

    @property
    def is_refused(self) -> bool:
        """True if the provider has refused it because too much is enqueued already."""
        return self.info is not None and not _FULL.isdisjoint(_codes(self.info))

    async def run(self, waits: Waits, known: Callable[[], Iterable[str]]) -> None:
        """Submit the job, if that is left to do, and wait for its outcomes.

        Args:
            waits: How to wait between two looks.
            known: Returns the ids of the run's other jobs.
        """
        while True:
            if self.note.id is None:
                await self._submit(known)
            await self._until_done(waits)
            if await self._fetch():
                return
            # It was another job; this one is looked for once more.

    async def cancel(self) -> None:
        """Cancel it at the provider, if it is there."""
        if self.note.id is not None:
            await self._client.cancel(self.note.id)

    async def _submit(self, known: Callable[[], Iterable[str]]) -> None:
        if not self._is_restored and self._journal is not None:
            await self._journal.announce(self.note)
        pause, looks = min(self._poll, 5.0), _LOOKS if self._is_restored or self._refused else 0
        while True:
            for look in range(looks):
                if look:
                    await asyncio.sleep(pause)
                if (info := await self._found(known)) is not None:
                    return await self._has(info)
            if self._is_restored:
                # The provider's list may be late, therefore the looks. Only after all of them it is noted.
                await self._is_gone()
                raise NeverSubmitted
            requests = [slot.ask.request for slot in self.slots if slot.ask is not None]
            try:
                return await self._has(await self._submitted(requests))
            except Exception as error:
                if not is_passing(error):
                    raise
            # The provider may have accepted it nevertheless.
            looks = _LOOKS
            await asyncio.sleep(pause)
            pause = min(pause * _GROWTH, _MOST * self._poll)

    async def _submitted(self, requests: Sequence[Any]) -> Any:
        """Submit the requests. If the run ends meanwhile, the job is known, and can be cancelled."""
        task = asyncio.get_running_loop().create_task(self._client.submit(requests, self.sent, self._window))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task], timeout=_GOODBYE)
            if task.done() and not task.cancelled() and task.exception() is None:
                self.note = replace(self.note, id=task.result().id)
            task.cancel()
            raise

    async def _found(self, known: Callable[[], Iterable[str]]) -> Any:
        """Return what the provider says of this job, if it has one that may be it."""
        found = await self._persistently(
            lambda: self._client.find(self.sent, known=[*known(), *self._refused])
        )
        return found[0] if found else None

    async def _has(self, info: Any) -> None:
        self.info = info
        if self._journal is None:
            self.note = replace(self.note, id=info.id)
        else:
            self.note = await self._journal.submitted(self.note, info.id)

    async def _is_gone(self) -> None:
        if self._journal is not None:
            await self._journal.gone(self.note)

    async def _until_done(self, waits: Waits) -> None:
        assert self.note.id is not None
        id, pause = self.note.id, self._poll
        if self.info is None:
            self.info = await self._persistently(lambda: self._client.status(id))
        while not self.info.done:
            if self.seconds_queued is None and self.info.status != "queued":
                self.seconds_queued = round(time.time() - self.note.at, 3)
            await waits.until(self, pause)
            self.info = await self._persistently(lambda: self._client.status(id))
            pause = min(pause * _GROWTH, _MOST * self._poll)

    async def _fetch(self) -> bool:
        """Set the outcomes of the requests; return False if this was another job."""
        assert self.note.id is not None
        id = self.note.id
        if self.info.status == "failed":
            if self.is_refused:
                await self._is_gone()
            raise JobFailed(self.note, self.info)
        entries = await self._persistently(lambda: self._client.results(id, self.sent))
        if entries is None:
            self._refused.append(id)
            self.note, self.info = replace(self.note, id=None), None
            return False
        for place, slot in enumerate(self.slots):
            slot.outcome = _outcome(entries.get(place), self.note, place, self.info.status)
        return True

    async def _persistently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make an HTTP request again until it gets an answer."""
        pause = min(self._poll, 1.0)
        while True:
            try:
                return await call()
            except Exception as error:
                if not is_passing(error):
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * _GROWTH, _MOST * self._poll)


class NeverSubmitted(Exception):
    """A job that an earlier process has announced is not at the provider."""


class JobFailed(EdgeError):
    """The provider has refused a job as a whole."""

    def __init__(self, note: Note, info: Any) -> None:
        given = _errors(info)
        why = "; ".join(str(one.get("message") or one.get("code")) for one in given[:3]) or "no reason given"
        super().__init__(
            f"the batch job {info.id} ({len(note.keys)} requests to {note.provider}/{note.model}) failed: "
            f"{why}"
        )


def _errors(info: Any) -> list[dict[str, Any]]:
    """Return the provider's reasons for a job that failed."""
    data: Any = info.provider_data or {}
    errors: dict[str, Any] = data.get("errors") or {}
    return errors.get("data") or []


def _codes(info: Any) -> list[str]:
    return [str(one.get("code")) for one in _errors(info)]


def _outcome(entry: Any, note: Note, place: int, status: str) -> Outcome:
    if entry is None:
        # The provider names no request that it had not registered when the job ended.
        if status in ("expired", "cancelled"):
            return Outcome(is_expired=True)
        return Outcome(error=_error("provider", f"has no result{_of(note, place)}"))
    if entry.outcome in ("expired", "cancelled"):
        return Outcome(is_expired=True)
    if entry.ok:
        return Outcome(answer=entry.response)
    if entry.error.provider_code in _UNANSWERED or (
        status in ("expired", "cancelled") and entry.error.message == _NO_REASON
    ):
        return Outcome(is_expired=True)
    return Outcome(
        error=_error(entry.error.code, f"{entry.error.message}{_of(note, place)}", entry.error.provider_code)
    )


def _of(note: Note, place: int) -> str:
    return f" (request {place} of batch job {note.id})"


def _error(code: str, message: str, provider_code: str | None = None) -> BaseException:
    """Return the error that DSPy's client would raise for a code."""
    from dspy import lm15

    name = "".join(part.title() for part in code.split("_")) + "Error"
    kind: Any = getattr(lm15, name, lm15.ProviderError)
    if not issubclass(kind, lm15.ProviderError):
        kind = lm15.ProviderError
    return kind(message, provider_code=provider_code)
