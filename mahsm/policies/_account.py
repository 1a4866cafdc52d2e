"""What all processes have spent of a shared budget: an account in Redis."""

import asyncio
import atexit
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from mahsm._redis import Down, Refused, Server, in_key, server_of
from mahsm._waiting import OnStop, Way, left_behind, never_stopped, tasks
from mahsm.errors import LimitError
from mahsm.policies._ask import Ask, Bounds, Call
from mahsm.policies._scripts import EXCHANGE
from mahsm.policies._spending import Spent

_BATCH = 128
_RETRY = 0.1
"""Seconds after which Redis is asked again while it is down."""

_KEPT = 30 * 86_400
"""Seconds after its last use for which an account is kept."""

_TOLD = 86_400
"""Seconds for which Redis remembers what it has told a process."""

_LAST_WORDS = 2.0
"""Most seconds for which the end of the process waits until everything is sent."""


class Account:
    """What this process knows of a shared budget, and has not told the others yet.

    Args:
        server: The Redis.
        name: The budget's name.
    """

    # Attempts ask before they begin, in one line for the process; `_serve` sends a question for many of them,
    # and takes along what was spent since. What was spent and nobody asks after is sent as well, immediately.
    # Totals here are never lower than those of Redis by more than what other processes have in flight.
    #
    # A question whose answer is lost may have taken effect. So it is asked again as it was (`_question`), and
    # has a number, by which Redis sees that.

    def __init__(self, server: Server, name: str) -> None:
        self.name = name
        self.server = server
        self._key = f"mahsm:budget:{{{in_key(name)}}}"
        self._loop = tasks.redis_loop()
        self._lock = threading.Lock()
        self._known, self._sent, self._unsent = [0.0] * 3, [0.0] * 3, [0.0] * 3
        self._generation, self._version = "", "0"
        self._me, self._number = os.urandom(8).hex(), 0
        self._question: tuple[list[Ask], list[Any]] | None = None
        self._asks: deque[Ask] = deque()
        self._serving = False
        self._listeners: list[Callable[[], object]] = []

    # From any thread.

    def spent(self) -> Spent:
        """Return what all processes have spent, as far as this one knows."""
        with self._lock:
            return Spent(*map(sum, zip(self._known, self._sent, self._unsent, strict=True)))

    def add(self, usd: float = 0.0, tokens: float = 0.0, calls: float = 0.0) -> None:
        """Add what this process has spent; negative calls were not made."""
        with self._lock:
            self._unsent = [a + float(b) for a, b in zip(self._unsent, (usd, tokens, calls), strict=True)]
        self._loop.call_soon_threadsafe(self._look_again)

    def listen(self, heard: Callable[[], object]) -> Callable[[], None]:
        """Call a function whenever something is known anew; return a function that ends this."""
        with self._lock:
            self._listeners.append(heard)

        def end() -> None:
            with self._lock:
                self._listeners.remove(heard)

        return end

    async def ask(
        self,
        way: Way,
        bounds: Bounds,
        on_stop: OnStop = never_stopped,
        *,
        call: Call | None = None,
        timeout: float | None = None,
    ) -> bool | None:
        """Ask whether an attempt may begin within these bounds; None if the wait was stopped.

        Args:
            way: How to wait.
            bounds: The bounds.
            on_stop: Registers a callback that ends the wait.
            call: The attempt is this call, which counts from when it may begin.
            timeout: Most seconds to wait.

        Raises:
            LimitError: if Redis refuses.
        """
        ask = Ask(bounds, call, way.turn())
        self._loop.call_soon_threadsafe(self._join, ask)

        def call_off(_: object) -> None:
            self._loop.call_soon_threadsafe(self._call_off, ask)

        try:
            with on_stop(call_off), left_behind.on_stop(call_off):
                await ask.turn.wait(timeout)
        except BaseException:
            self._loop.call_soon_threadsafe(self._leave, ask)
            raise
        if ask.failure is not None:
            raise LimitError(*ask.failure.args)
        if ask.may is None:
            self._loop.call_soon_threadsafe(self._call_off, ask)
        return None if ask.gone else ask.may

    def flush(self, seconds: float) -> None:
        """Wait until everything is sent, for at most so many seconds."""
        if any(self._unsent) or any(self._sent):
            with suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(self._sending(), self._loop).result(seconds)

    # On the loop.

    def _join(self, ask: Ask) -> None:
        self._asks.append(ask)
        self._look_again()

    def _call_off(self, ask: Ask) -> None:
        """Leave the line, unless there is an answer: then its caller uses it."""
        if ask.may is None and ask.failure is None:
            self._leave(ask)

    def _leave(self, ask: Ask) -> None:
        if ask.gone:
            return
        ask.gone = True
        if ask.may and ask.call is not None:
            ask.call.release()
        ask.turn.wake()

    def _look_again(self) -> None:
        if not self._serving:
            self._serving = True
            tasks.detached(self._serve())

    async def _serve(self) -> None:
        try:
            while self._question or self._first() or any(self._unsent):
                self._question = batch, args = self._question or self._ask_anew(self._first())
                try:
                    *spent, may = await self._exchange(args)
                except Down:
                    await asyncio.sleep(_RETRY)
                    continue
                self._question = None
                # Calls count in their run before it can see that they were the last ones.
                self._let(batch, int(may))
                self._learn([float(value) for value in spent])
                for ask in batch:
                    ask.turn.wake()
        except Refused as error:
            self._fail(str(error))
        except BaseException as error:
            self._fail(type(error).__name__)
            raise
        finally:
            self._serving = False

    def _fail(self, why: str) -> None:
        self._question = None
        with self._lock:
            # It may have come, and then counts twice: too much rather than too little is spent.
            unsent = zip(self._unsent, self._sent, strict=True)
            self._unsent, self._sent = [a + max(0.0, b) for a, b in unsent], [0.0] * 3
        for ask in self._asks:
            ask.failure = LimitError(f"the budget {self.name!r} cannot be shared: {why}.")
            ask.turn.wake()
        self._asks.clear()

    def _first(self) -> list[Ask]:
        """Return the first that ask the same, up to a batch."""
        while self._asks and self._asks[0].gone:
            self._asks.popleft()
        batch: list[Ask] = []
        for ask in self._asks:
            if len(batch) == _BATCH or (batch and ask.kind != batch[0].kind):
                break
            if not ask.gone:
                batch.append(ask)
        return batch

    def _let(self, batch: Sequence[Ask], may: int) -> None:
        """Let so many of them begin."""
        for place, ask in enumerate(batch):
            while self._asks.popleft() is not ask:
                pass  # it had left before
            ask.may = place < may
            if ask.may and ask.call is not None:
                ask.call.count()
                if ask.gone:
                    ask.call.release()

    def _learn(self, spent: list[float]) -> None:
        with self._lock:
            self._known, self._sent = spent, [0.0] * 3
            listeners = list(self._listeners)
        for heard in listeners:
            heard()

    def _ask_anew(self, batch: list[Ask]) -> tuple[list[Ask], list[Any]]:
        """Return a question: it tells what was spent, and asks for the attempts in the batch."""
        with self._lock:
            self._sent, self._unsent = self._unsent, [0.0] * 3
            known, sent = list(self._known), list(self._sent)
        bounds, counts = batch[0].kind if batch else ((None, None, None), False)
        shown = ["" if bound is None else float(bound) for bound in bounds]
        self._number += 1
        args: list[Any] = [self._generation, os.urandom(8).hex(), self._version, *known, *sent, *shown]
        return batch, [*args, len(batch), int(counts), 1000 * _KEPT, 1000 * _TOLD, self._number]

    async def _exchange(self, args: list[Any]) -> list[str]:
        """Return what all have spent, and how many of the attempts may begin."""
        waits = f"Calls of the budget {self.name!r} wait until it is back."
        keys = [self._key, f"{self._key}:{self._me}"]
        self._generation, self._version, *answer = await self.server.run(EXCHANGE, keys, args, waits)
        return answer

    async def _sending(self) -> None:
        while any(self._unsent) or any(self._sent):
            self._look_again()
            await asyncio.sleep(0.001)


class _Accounts:
    """The accounts of this process, by URL and name."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self._end)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._accounts: dict[tuple[str, str], Account] = {}

    def of(self, url: str, address: str, name: str) -> Account:
        with self._lock:
            found = self._accounts.get((url, name))
            if found is None:
                found = self._accounts[url, name] = Account(server_of(url, address), name)
            return found

    def _end(self) -> None:
        for account in list(self._accounts.values()):
            account.flush(_LAST_WORDS)


account_of = _Accounts().of
"""Returns the account of a URL, which was checked, and a name."""
