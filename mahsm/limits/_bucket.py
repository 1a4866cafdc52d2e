"""The bucket of one provider and key in this process: its line, and quotas of requests and tokens."""

import asyncio

from mahsm.limits._line import Line, Rates, Ticket
from mahsm.limits._quota import Quota


class Bucket(Line):
    """Admits requests and their tokens together, one caller after the other.

    The quotas live on one event loop; callers cross over to it, and are woken where they wait.
    """

    # The line.
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

    def __init__(self, name: str, rates: Rates, loop: asyncio.AbstractEventLoop, provider: str = "") -> None:
        super().__init__(name, rates, loop, provider)
        self._requests = None if rates.rate is None else Quota(rates.rate, rates.burst)
        self._tokens = None if rates.token_rate is None else Quota(rates.token_rate, rates.token_burst)
        self._quotas = [quota for quota in (self._requests, self._tokens) if quota is not None]
        self._serving = False
        self._waiting: asyncio.Timeout | None = None

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
        self._grant(ticket)

    def _return(self, ticket: Ticket) -> None:
        for quota, amount in self._amounts(ticket):
            quota.give(amount)

    def _correct(self, tokens: float) -> None:
        assert self._tokens is not None
        self._tokens.give(tokens)
        self._look_again()

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
