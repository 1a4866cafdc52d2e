"""The bucket of one provider and key in this process: its line, and quotas of requests and tokens."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from mahsm._waiting import OnStop, Way, left_behind, never_stopped, tasks
from mahsm.limits._line import Line, Rates, Ticket
from mahsm.limits._quota import Quota
from mahsm.limits._stats import LimitStats

_SOON = 1e-6
"""Seconds that a timer may be early."""


class Bucket(Line):
    """Admits requests and their tokens together, one caller after the other.

    Any thread changes it, under a lock. So a caller that finds nobody in line and enough of both takes them
    and goes on; the loop is only for the timer of the first in line.
    """

    # The line.
    #
    # `_serve` serves the line, and looks at its head alone. Requests and tokens are taken together, when
    # there is enough of both. A small call never overtakes a large one, which would otherwise wait forever
    # for a full bucket. Whatever may let the head go earlier calls `_serve`: a call gave tokens back, the
    # head left the line. If it may go later, since the provider asked for a pause, the timer comes too
    # early, and is set anew.

    def __init__(self, name: str, rates: Rates, loop: asyncio.AbstractEventLoop, provider: str = "") -> None:
        super().__init__(name, rates, loop, provider)
        # A handler of a log record, or a finalizer, may come back here in the same thread.
        self._lock = threading.RLock()
        now = loop.time()
        self._requests = None if rates.rate is None else Quota(rates.rate, rates.burst, now)
        self._tokens = None if rates.token_rate is None else Quota(rates.token_rate, rates.token_burst, now)
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None

    async def acquire(
        self, way: Way, tokens: float = 0.0, *, may_wait: bool = True, on_stop: OnStop = never_stopped
    ) -> Ticket | None:
        """Go on if nobody waits and there is enough; otherwise wait in line, as `Line` says."""
        if left_behind.is_left():
            return None
        ticket = Ticket(1, self._bounded(tokens), None, self._loop.time())
        with self._lock:
            self._line.append(ticket)
            self._serve()
            if ticket.granted:
                return ticket
            if not may_wait:
                self._line.pop()
                return None
            ticket.turn = turn = way.turn()
        return await self._waited_for(ticket, turn, on_stop)

    def stats(self) -> LimitStats:
        """Return the statistics so far."""
        with self._lock:
            return self._stats_now()

    def _change(self, change: Callable[..., None], *args: Any) -> None:
        with self._lock:
            change(*args)

    def _join(self, ticket: Ticket) -> None:
        self._line.append(ticket)
        self._serve()

    def _look_again(self) -> None:
        self._serve()

    def _serve(self) -> None:
        """Admit those that are first in line and ready; set a timer for the next one."""
        now = self._loop.time()
        while self._line:
            head = self._line[0]
            if not head.gone:
                at = self._ready(head, now)
                if at > now + _SOON:
                    self._wake_at(at)
                    return
                self._take(head, at)
                self._grant(head)
            self._line.popleft()

    def _ready(self, ticket: Ticket, now: float) -> float:
        at = max(now, self._paused_until)
        if self._requests is not None:
            at = max(at, self._requests.ready(ticket.requests, now))
        if self._tokens is not None:
            at = max(at, self._tokens.ready(ticket.tokens, now))
        return at

    def _take(self, ticket: Ticket, at: float) -> None:
        if self._requests is not None:
            self._requests.take(ticket.requests, at)
        if self._tokens is not None:
            self._tokens.take(ticket.tokens, at)

    def _return(self, ticket: Ticket) -> None:
        now = self._loop.time()
        if self._requests is not None:
            self._requests.give(ticket.requests, now)
        if self._tokens is not None:
            self._tokens.give(ticket.tokens, now)

    def _correct(self, tokens: float) -> None:
        assert self._tokens is not None
        self._tokens.give(tokens, self._loop.time())
        self._serve()

    # The timer, on the loop.

    def _wake_at(self, at: float) -> None:
        if self._due is not None and self._due <= at:
            return
        self._due = at
        if tasks.is_running_here(self._loop):
            self._set_timer()
        else:
            self._loop.call_soon_threadsafe(self._set_timer)

    def _set_timer(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None if self._due is None else self._loop.call_at(self._due, self._on_time)

    def _on_time(self) -> None:
        with self._lock:
            self._timer = self._due = None
            self._serve()
