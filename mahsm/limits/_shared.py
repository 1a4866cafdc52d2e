"""The bucket of one provider and key in a process that shares it: its own line, and quotas in Redis."""

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from mahsm._redis import Down
from mahsm._waiting import tasks
from mahsm.errors import LimitError
from mahsm.limits._line import Line, Rates, Ticket
from mahsm.limits._shared_quota import HORIZON, LocalPart, Places, SharedQuota

IfDown = Literal["wait", "local", "raise"]

_BATCH = 128
"""Most tickets in one question."""

_COLLECTED = 0.02
"""Seconds for which what is given back is collected before it is sent."""

_RETRY = 0.1
"""Seconds after which Redis is asked again while it is down."""

_BEAT = 5.0
"""Seconds between two signs of life of a process that may have to know the number of sharers."""


class SharedBucket(Line):
    """Admits calls of this process as far as the quotas allow that all processes share.

    Args:
        rates: Its rates.
        quota: The quotas.
        if_down: What happens while Redis is down.
        name: The provider, and the key if there is one.
        provider: The provider alone.
    """

    # `_serve` asks for the first in line, up to a batch of them, until the line is empty. Those that are
    # given a place leave the line, and are woken when it begins, in a few milliseconds. The others stay, and
    # it asks again when Redis has said (`_nap`), or earlier, when something has changed that lets them begin
    # earlier.
    #
    # Callers that may not wait are asked for apart, for places that begin immediately. They are woken without
    # a place as soon as anybody before them has none.
    #
    # While Redis is down, nobody gets a place from it, and the line stays as it is. With `if_down="local"`,
    # the process takes its part of the rate meanwhile (`_local`), and `_probe` looks whether Redis is back.

    def __init__(self, rates: Rates, quota: SharedQuota, if_down: IfDown, name: str, provider: str) -> None:
        super().__init__(name, rates, tasks.redis_loop(), provider)
        self._quota = quota
        self._if_down: IfDown = if_down
        self._serving = False
        self._asleep: asyncio.Event | None = None
        self._asked = -math.inf
        self._claims = False
        self._sending = False
        self._pause_unsent = False
        self._sharers = 0
        self._all_paused_until = -math.inf
        self._local: LocalPart | None = None
        self._closed = False
        if if_down == "local":
            self._loop.call_soon_threadsafe(lambda: tasks.detached(self._beat()))

    def close(self) -> None:
        """End what runs by itself; calls that have begun are still settled."""
        self._closed = True

    # The line.

    def _join(self, ticket: Ticket) -> None:
        if not ticket.may_wait and self._asleep is not None:
            ticket.wake()
            return
        self._line.append(ticket)
        self._look_again()

    def _look_again(self) -> None:
        if not self._serving:
            if self._line:
                self._serving = True
                tasks.detached(self._serve())
        elif self._asleep is not None and (not self._line or self._line[0].gone):
            self._asleep.set()

    async def _serve(self) -> None:
        try:
            while (batch := self._first()) or self._claims:
                if not batch:
                    # Those that waited have left, and do not hold up other processes any longer.
                    with suppress(Down):
                        await self._show_up()
                    continue
                delays, nap = await self._ask(batch)
                self._let(batch, delays)
                if len(delays) < len(batch):
                    self._refuse_impatient()
                    await self._nap(nap)
        except LimitError as error:
            self._fail(error)
        except BaseException as error:
            self._fail(LimitError(f"the limit of {self.provider!r} cannot be shared: {type(error).__name__}"))
            raise
        finally:
            self._serving = False

    def _first(self) -> list[Ticket]:
        """Return the first in line: up to a batch, all of which may wait, or none."""
        while self._line and self._line[0].gone:
            self._line.popleft()
        batch: list[Ticket] = []
        for ticket in self._line:
            if ticket.gone:
                continue
            if len(batch) == _BATCH or (batch and ticket.may_wait is not batch[0].may_wait):
                break
            batch.append(ticket)
        return batch

    async def _ask(self, batch: Sequence[Ticket]) -> tuple[list[float], float]:
        """Return the seconds until each of the first begins, and those until the next one should ask."""
        now = self._loop.time()
        if self._is_paused:
            return [], self._paused_until - now - HORIZON / 2
        if self._local is not None:
            return self._take_locally(self._local, batch)
        asked = [(ticket.tokens, now - ticket.came) for ticket in batch]
        self._asked = now
        try:
            places = await self._quota.take(asked, may_wait=batch[0].may_wait)
        except Down as down:
            return self._without_redis(batch, down)
        self._hear(places)
        self._claims = batch[0].may_wait and len(places.delays) < len(batch)
        return places.delays, places.nap

    @property
    def _is_paused(self) -> bool:
        return self._paused_until > self._loop.time() + HORIZON

    def _let(self, batch: Sequence[Ticket], delays: Sequence[float]) -> None:
        now = self._loop.time()
        for ticket, delay in zip(batch, delays, strict=False):
            while self._line.popleft() is not ticket:
                pass  # it had left before
            if delay > 0:
                self._loop.call_at(now + delay, self._begin, ticket)
            else:
                self._begin(ticket)

    def _begin(self, ticket: Ticket) -> None:
        if ticket.gone:
            self._return(ticket)
        else:
            self._grant(ticket)

    def _refuse_impatient(self) -> None:
        """Wake those that may not wait: somebody before them has to."""
        refused = [ticket for ticket in self._line if not ticket.may_wait]
        if refused:
            kept = [ticket for ticket in self._line if ticket.may_wait]
            self._line.clear()
            self._line.extend(kept)
            for ticket in refused:
                ticket.wake()

    async def _nap(self, seconds: float) -> None:
        self._asleep = asyncio.Event()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asleep.wait()
        self._asleep = None

    def _fail(self, error: LimitError) -> None:
        failed = list(self._line)
        self._line.clear()
        for ticket in failed:
            ticket.failure = LimitError(*error.args)
            ticket.wake()

    # What is given back, and pauses.

    def _return(self, ticket: Ticket) -> None:
        self._give(ticket.requests, ticket.tokens)

    def _correct(self, tokens: float) -> None:
        if tokens:
            self._give(0.0, tokens)

    def _give(self, requests: float, tokens: float) -> None:
        if self._local is not None:
            self._local.give(requests, tokens)
            return
        self._quota.give(requests, tokens)
        self._send_in(_COLLECTED)

    def _pause(self, seconds: float, asked: float) -> None:
        before = self._paused_until
        super()._pause(seconds, asked)
        if self._paused_until > before:
            self._pause_unsent = True
            self._send_in(0.0)

    def _send_in(self, seconds: float) -> None:
        if not self._sending or not seconds:
            self._sending = True
            self._loop.call_later(seconds, lambda: tasks.detached(self._send()))

    async def _send(self) -> None:
        self._sending = False
        if self._asleep is not None and not self._pause_unsent and not self._is_paused:
            # The question that is next takes it along.
            self._asleep.set()
            return
        pause = max(0.0, self._paused_until - self._loop.time()) if self._pause_unsent else 0.0
        if not pause and not self._quota.owes:
            return
        try:
            await self._quota.flush(pause)
            self._pause_unsent = False
        except Down:
            self._send_in(_RETRY)

    # While Redis is down.

    def _without_redis(self, batch: Sequence[Ticket], down: Down) -> tuple[list[float], float]:
        if self._if_down == "raise":
            raise LimitError(
                f"the limit of {self.provider!r} is shared, and {down}. The call was not made; with "
                'limits.share(..., if_down="wait") it waits.'
            )
        if self._if_down == "local" and self._sharers:
            self._local = LocalPart(self.rates, self._sharers, max(self._loop.time(), self._all_paused_until))
            tasks.detached(self._probe())
            return self._take_locally(self._local, batch)
        return [], _RETRY

    def _take_locally(self, part: LocalPart, batch: Sequence[Ticket]) -> tuple[list[float], float]:
        given: list[float] = []
        for ticket in batch:
            if wait := part.take(self._loop.time(), ticket.tokens):
                return given, min(wait, _RETRY)
            given.append(0.0)
        return given, 0.0

    async def _probe(self) -> None:
        """Look whether Redis is back, until it is."""
        while self._local is not None and not self._closed:
            await asyncio.sleep(_RETRY)
            with suppress(Down):
                await self._show_up()
                self._quota.give(0.0, self._local.owed(self._loop.time()))
                self._local = None
                self._send_in(_COLLECTED)

    async def _beat(self) -> None:
        """Let the other processes know that this one is there, and how many there are."""
        while not self._closed:
            if self._local is None and self._loop.time() >= self._asked + _BEAT / 2:
                if self._asleep is not None and not self._is_paused:
                    # A call that waits for long keeps its place when it is asked for.
                    self._asleep.set()
                elif not self._serving or self._is_paused:
                    with suppress(Down):
                        await self._show_up()
            await asyncio.sleep(_BEAT)

    async def _show_up(self) -> None:
        self._claims, self._asked = False, self._loop.time()
        # A caller gets the error with its own question.
        with suppress(LimitError):
            self._hear(await self._quota.take([]))

    def _hear(self, places: Places) -> None:
        self._sharers = places.sharers
        self._all_paused_until = self._loop.time() + places.pause
