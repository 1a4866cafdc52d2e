"""The line of one provider and key: callers of all threads and event loops, first come first served."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mahsm._waiting import OnStop, Turn, Way, left_behind, never_stopped, tasks
from mahsm.limits._estimate import Estimator
from mahsm.limits._quota import LONGEST_DEBT
from mahsm.limits._stats import Counts, LimitStats

_log = logging.getLogger("mahsm.limits")

_WORTH_A_WORD = 1.0
"""Least seconds of a wait that a provider asks for to be logged; with shorter ones it only meters a steady
flow."""


class Ticket:
    """A caller in the line, and the tokens that it was admitted with. Only its line changes it.

    Its turn is None if the caller goes on or leaves immediately.
    """

    __slots__ = ("came", "failure", "gone", "granted", "may_wait", "requests", "tokens", "turn")

    def __init__(
        self, requests: float, tokens: float, turn: Turn | None, came: float, *, may_wait: bool = True
    ) -> None:
        self.requests: float = requests
        self.tokens: float = tokens
        self.turn: Turn | None = turn
        self.came: float = came
        self.may_wait: bool = may_wait
        self.granted: bool = False
        self.gone: bool = False
        self.failure: Exception | None = None

    def wake(self) -> None:
        """Wake the caller, if it waits."""
        if self.turn is not None:
            self.turn.wake()


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


class Line:
    """Callers in line, and what they are told; a subclass says who may go, and when.

    Args:
        name: The provider, and the key if there is one.
        rates: Its rates.
        loop: The loop on which all state changes.
        provider: The provider alone, for the log: a key may be a secret.
    """

    # State changes one after the other, by `_change`: here on `_loop` only, in the order in which callers ask
    # for it.
    #
    # Giving back. A caller may give up at any time, also at the moment at which its ticket is granted. Both
    # events are changes, one after the other: if the ticket left first, it is never granted; if it was
    # granted first, leaving gives the tokens back. `gone` makes sure that this happens once. A caller whose
    # wait was only called off (`_call_off`) keeps a ticket that was granted first, since it is going to use
    # it or to give it back itself.

    def __init__(self, name: str, rates: Rates, loop: asyncio.AbstractEventLoop, provider: str = "") -> None:
        self.name = name
        self.provider: str = provider or name
        self.rates = rates
        self.estimates: Estimator = Estimator()
        self._loop = loop
        self._line: deque[Ticket] = deque()
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

        Raises:
            LimitError: if a limit that processes share cannot be had.
        """
        turn = way.turn()
        ticket = Ticket(1, self._bounded(tokens), turn, self._loop.time(), may_wait=may_wait)
        self._change(self._join, ticket)
        return await self._waited_for(ticket, turn, on_stop)

    async def _waited_for(self, ticket: Ticket, turn: Turn, on_stop: OnStop) -> Ticket | None:
        """Wait until a ticket in line is granted; return None if the wait was stopped."""
        try:
            with (
                on_stop(lambda _: self._call_off(ticket)),
                left_behind.on_stop(lambda _: self.cancel(ticket)),
            ):
                await turn.wait()
        except BaseException:
            self.cancel(ticket)
            raise
        if ticket.failure is not None:
            raise ticket.failure
        return ticket if ticket.granted and not ticket.gone else None

    def cancel(self, ticket: Ticket) -> None:
        """Leave the line, or give the tokens back: the call is not made."""
        self._change(self._leave, ticket)

    def _call_off(self, ticket: Ticket) -> None:
        """Leave the line, unless the ticket has been granted: then its caller uses it or gives it back."""
        self._change(self._leave_line, ticket)

    def settle(self, ticket: Ticket, used: float) -> None:
        """Settle a call, which was made and took `used` tokens."""
        self._change(self._settle, ticket, self._bounded(used))

    def believes(self, tokens: float) -> bool:
        """Return whether one call may have taken so many tokens: those that `LONGEST_DEBT` pays off."""
        return tokens <= self._most_tokens

    def pause(self, seconds: float, asked: float | None = None) -> None:
        """Admit no call for so many seconds; `asked` is what the provider asked for, if that is longer."""
        self._change(self._pause, seconds, seconds if asked is None else asked)

    def _change(self, change: Callable[..., None], *args: Any) -> None:
        """Make a change."""
        self._loop.call_soon_threadsafe(change, *args)

    def stats(self) -> LimitStats:
        """Return the statistics so far."""
        if tasks.is_running_here(self._loop):
            return self._stats_now()
        return asyncio.run_coroutine_threadsafe(self._stats(), self._loop).result()

    # What subclasses do, as a change.

    def _join(self, ticket: Ticket) -> None:
        """Put a ticket in line; one that may not wait is granted or woken immediately."""
        raise NotImplementedError

    def _look_again(self) -> None:
        """Look at the line anew, since something has changed."""
        raise NotImplementedError

    def _return(self, ticket: Ticket) -> None:
        """Take back the request and the tokens of a ticket."""
        raise NotImplementedError

    def _correct(self, tokens: float) -> None:
        """Take back tokens that a call did not use; a negative amount takes more."""
        raise NotImplementedError

    # Changes.

    def _grant(self, ticket: Ticket) -> None:
        ticket.granted = True
        self._counts.admitted(self._loop.time() - ticket.came)
        ticket.wake()

    def _leave_line(self, ticket: Ticket) -> None:
        if not ticket.granted:
            self._leave(ticket)

    def _leave(self, ticket: Ticket) -> None:
        if ticket.gone:
            return
        ticket.gone = True
        if ticket.granted:
            self._return(ticket)
            self._counts.gave_back()
        else:
            ticket.wake()
        self._look_again()

    def _settle(self, ticket: Ticket, used: float) -> None:
        self._counts.settled += used
        if self.rates.token_rate is not None and not ticket.gone:
            self._correct(ticket.tokens - used)

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

    async def _stats(self) -> LimitStats:
        return self._stats_now()

    def _stats_now(self) -> LimitStats:
        return self._counts.stats(waiting=sum(not ticket.gone for ticket in self._line))
