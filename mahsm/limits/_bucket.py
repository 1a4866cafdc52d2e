"""The bucket of one provider and key: one line, first come first served, for all threads and event loops."""

import asyncio
import logging
import math
from collections import deque
from dataclasses import dataclass

from mahsm._waiting import OnStop, Turn, Way, left_behind, never_stopped, tasks
from mahsm.limits._estimate import Estimator
from mahsm.limits._quota import LONGEST_DEBT, Quota
from mahsm.limits._stats import Counts, LimitStats

_log = logging.getLogger("mahsm.limits")

_WORTH_A_WORD = 1.0
"""Least seconds of a wait that a provider asks for to be logged; with shorter ones it only meters a steady
flow."""


class Ticket:
    """A caller in the line, and the tokens that it was admitted with. Changes on the bucket's loop only."""

    __slots__ = ("came", "gone", "granted", "may_wait", "requests", "tokens", "turn")

    def __init__(
        self, requests: float, tokens: float, turn: Turn, came: float, *, may_wait: bool = True
    ) -> None:
        self.requests: float = requests
        self.tokens: float = tokens
        self.turn: Turn = turn
        self.came: float = came
        self.may_wait: bool = may_wait
        self.granted: bool = False
        self.gone: bool = False


@dataclass(frozen=True)
class Rates:
    """The rates of a bucket.

    Attributes:
        rate: Requests per second, or None for no bound.
        burst: Requests that a full bucket holds.
        token_rate: Tokens per second, or None for no bound.
        token_burst: Tokens that a full bucket holds.
    """

    rate: float | None
    burst: float
    token_rate: float | None
    token_burst: float


class Bucket:
    """Admits requests and their tokens together, one caller after the other.

    The quotas live on one event loop; callers cross over to it, and are woken where they wait.

    Args:
        name: The provider, and the key if there is one.
        rates: Its rates.
        loop: The loop of all buckets.
        provider: The provider alone, for the log: a key may be a secret.
    """

    # The line.
    #
    # All state changes on `_loop` only. The methods for callers schedule the change there, and it happens in
    # the order in which they were called; so a bucket needs no lock, and never blocks a caller's loop.
    #
    # One coroutine, `_serve`, serves the line, and looks at its head alone. Requests and tokens are taken
    # together, when there is enough of both. A small call never overtakes a large one, which would otherwise
    # wait forever for a full bucket. `_serving` is True from the moment at which `_serve` is scheduled until
    # it has found that the line is empty and nothing is owed; so it never runs twice.
    #
    # While the head has to wait, `_serve` sleeps in `_until_ready`, within a timeout that is never due by
    # itself: `_waiting`. Whatever may let the head go earlier, or later, calls `_look_again`, which lets the
    # timeout expire now: a call gave tokens back, the head left the line, the provider asked for a pause.
    # `_serve` then looks at the head anew. Nothing is lost by that, because the wait takes nothing from the
    # quotas; the tokens are taken in `_admit`, when all of them are there.
    #
    # Giving back. A caller may give up at any time, also at the moment at which its ticket is granted. Both
    # events happen on the loop, one after the other: if the ticket left first, it is never granted; if it was
    # granted first, leaving gives the tokens back. `gone` makes sure that this happens once. A caller whose
    # wait was only called off (`_call_off`) keeps a ticket that was granted first, since it is going to use
    # it or to give it back itself.

    def __init__(self, name: str, rates: Rates, loop: asyncio.AbstractEventLoop, provider: str = "") -> None:
        self.name = name
        self.provider: str = provider or name
        self.rates = rates
        self.estimates: Estimator = Estimator()
        self._loop = loop
        self._requests = None if rates.rate is None else Quota(rates.rate, rates.burst)
        self._tokens = None if rates.token_rate is None else Quota(rates.token_rate, rates.token_burst)
        self._quotas = [quota for quota in (self._requests, self._tokens) if quota is not None]
        self._line: deque[Ticket] = deque()
        self._serving = False
        self._waiting: asyncio.Timeout | None = None
        self._paused_until = 0.0
        self._pause_said = 0.0
        self._most_tokens = (
            math.inf if rates.token_rate is None else rates.token_burst + LONGEST_DEBT * rates.token_rate
        )
        self._doubted = False
        self._counts = Counts()

    # From any thread.

    async def acquire(
        self, way: Way, tokens: float = 0.0, *, may_wait: bool = True, on_stop: OnStop = never_stopped
    ) -> Ticket | None:
        """Wait in line; return None if the wait was stopped, or is needed and `may_wait` is False.

        Args:
            way: How to wait.
            tokens: Tokens that the call will take.
            may_wait: Wait if that is needed.
            on_stop: Registers a callback that ends the wait.
        """
        turn = way.turn()
        ticket = Ticket(1, self._bounded(tokens), turn, self._loop.time(), may_wait=may_wait)
        self._loop.call_soon_threadsafe(self._join, ticket)
        try:
            with (
                on_stop(lambda _: self._call_off(ticket)),
                left_behind.on_stop(lambda _: self.cancel(ticket)),
            ):
                await turn.wait()
        except BaseException:
            self.cancel(ticket)
            raise
        return ticket if ticket.granted and not ticket.gone else None

    def cancel(self, ticket: Ticket) -> None:
        """Leave the line, or give the tokens back: the call is not made."""
        self._loop.call_soon_threadsafe(self._leave, ticket)

    def _call_off(self, ticket: Ticket) -> None:
        """Leave the line, unless the ticket has been granted: then its caller uses it or gives it back."""
        self._loop.call_soon_threadsafe(self._leave_line, ticket)

    def settle(self, ticket: Ticket, used: float) -> None:
        """Settle a call, which was made and took `used` tokens."""
        self._loop.call_soon_threadsafe(self._settle, ticket, self._bounded(used))

    def believes(self, tokens: float) -> bool:
        """Return whether one call may have taken so many tokens: those that `LONGEST_DEBT` pays off."""
        return tokens <= self._most_tokens

    def pause(self, seconds: float, asked: float | None = None) -> None:
        """Admit no call for so many seconds; `asked` is what the provider asked for, if that is longer."""
        self._loop.call_soon_threadsafe(self._pause, seconds, seconds if asked is None else asked)

    def stats(self) -> LimitStats:
        """Return the statistics so far."""
        if tasks.is_running_here(self._loop):
            return self._stats_now()
        return asyncio.run_coroutine_threadsafe(self._stats(), self._loop).result()

    # On the loop.

    def _join(self, ticket: Ticket) -> None:
        if not ticket.may_wait and self._waiting is not None:
            ticket.turn.wake()
            return
        self._line.append(ticket)
        if not self._serving:
            self._look_again()

    async def _serve(self) -> None:
        """Admit the first in line, again and again, until the line is empty and nothing is owed."""
        while self._line or any(quota.owes for quota in self._quotas):
            if not self._line:
                await self._until_ready(None)
                continue
            head = self._line[0]
            can = head.gone or self._can_admit(head)
            if head.may_wait and not can:
                await self._until_ready(head)
                continue
            self._line.popleft()
            if not can:
                head.turn.wake()
            elif not head.gone:
                await self._admit(head)
        self._serving = False

    async def _until_ready(self, head: Ticket | None) -> None:
        """Wait until debts are paid and the first in line can be admitted, or until something changes."""
        try:
            async with asyncio.timeout(None) as self._waiting:
                # Debts are paid first, and also while the line is empty; otherwise the bucket would not leak
                # until the next call comes.
                for quota in self._quotas:
                    await quota.pay()
                if head is not None:
                    await asyncio.sleep(max(0.0, self._paused_until - self._loop.time()))
                    for quota, amount in self._amounts(head):
                        await quota.wait(amount)
        except TimeoutError:
            pass
        finally:
            self._waiting = None

    async def _admit(self, ticket: Ticket) -> None:
        for quota, amount in self._amounts(ticket):
            await quota.take(amount)
        ticket.granted = True
        self._counts.admitted(self._loop.time() - ticket.came)
        ticket.turn.wake()

    def _leave_line(self, ticket: Ticket) -> None:
        if not ticket.granted:
            self._leave(ticket)

    def _leave(self, ticket: Ticket) -> None:
        if ticket.gone:
            return
        ticket.gone = True
        if ticket.granted:
            for quota, amount in self._amounts(ticket):
                quota.give(amount)
            self._counts.gave_back()
        else:
            ticket.turn.wake()
        self._look_again()

    def _settle(self, ticket: Ticket, used: float) -> None:
        self._counts.settled += used
        if self._tokens is not None and not ticket.gone:
            self._tokens.give(ticket.tokens - used)
            self._look_again()

    def _pause(self, seconds: float, asked: float) -> None:
        now = self._loop.time()
        until = now + seconds
        if until <= self._paused_until:
            return
        was_paused = now < self._paused_until
        self._counts.paused(until - max(self._paused_until, now))
        self._paused_until = until
        self._look_again()
        # Several calls meet the same pause, which is logged once.
        is_news = not was_paused or seconds > 2 * self._pause_said
        if is_news and asked >= _WORTH_A_WORD:
            self._say_pause(seconds, asked)

    def _say_pause(self, seconds: float, asked: float) -> None:
        self._pause_said = seconds
        cut = (
            f" It asked for {round(asked, 2):.12g} s; Retry(retry_after_cap=...) bounds the wait."
            if asked > seconds
            else ""
        )
        _log.warning(
            "%s asks to wait: it is not called for %.12g s.%s", self.provider, round(seconds, 2), cut
        )

    def _bounded(self, tokens: float) -> float:
        """Return the tokens of one call, or the most that one call can be charged for."""
        if self.believes(tokens):
            return tokens
        if not self._doubted:
            self._doubted = True
            text = (
                "%s: one call takes %.3g tokens, more than the limit allows in ten minutes. It counts as %d."
            )
            _log.warning(text, self.provider, tokens, self._most_tokens)
        return self._most_tokens

    def _look_again(self) -> None:
        """Look at the line anew, since something has changed."""
        if not self._serving:
            self._serving = True
            asyncio.run_coroutine_threadsafe(self._serve(), self._loop)
        elif self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(self._loop.time())

    def _can_admit(self, ticket: Ticket) -> bool:
        if self._loop.time() < self._paused_until:
            return False
        return all(quota.has(amount) for quota, amount in self._amounts(ticket))

    def _amounts(self, ticket: Ticket) -> list[tuple[Quota, float]]:
        pairs = ((self._requests, ticket.requests), (self._tokens, ticket.tokens))
        return [(quota, amount) for quota, amount in pairs if quota is not None]

    async def _stats(self) -> LimitStats:
        return self._stats_now()

    def _stats_now(self) -> LimitStats:
        return self._counts.stats(waiting=sum(not ticket.gone for ticket in self._line))
