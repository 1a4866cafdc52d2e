"""Admission of one attempt at the rate limiter, and its settlement; `admit` and `report`."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from mahsm._common import Answer, State
from mahsm._model_calls import AttemptCounter, calls, metered, observed, restored_context
from mahsm._waiting import TASK, THREAD, Closed, OnStop, Way, left_behind, never_stopped, run_blocking
from mahsm.errors import LimitError
from mahsm.limits import _registry
from mahsm.limits._estimate import characters, figure
from mahsm.limits._line import Line, Ticket
from mahsm.limits._rate_limit import RateLimit
from mahsm.policies import Retry, is_rate_limited, retry_after
from mahsm.policies._internal import RETRY_AFTER_CAP

Lend = Callable[[Way], AbstractAsyncContextManager[Any]]
"""Returns a block in which a waiting item lends its slots."""


def lends_nothing(_: Way) -> AbstractAsyncContextManager[Any]:
    """Return a block for an item that has no slots to lend."""
    return nullcontext()


@dataclass(frozen=True)
class Limited:
    """A limit, with its provider.

    Attributes:
        provider: The provider's name.
        limit: The limit, which chooses the bucket and estimates tokens.
        longest_pause: The most seconds for which a 429 pauses the bucket.
    """

    provider: str
    limit: RateLimit
    longest_pause: float

    @classmethod
    def of(
        cls, given: RateLimit | str, find_provider: Callable[[], str | None], retry: Retry | None = None
    ) -> "Limited":
        """Find the provider of a limit, or the limit of a provider.

        Args:
            given: The limit, or the name of a provider that has one.
            find_provider: Returns the provider's name, if the limit has none.
            retry: The retry policy, if it is not that of the limit.

        Raises:
            LimitError: if the provider is unknown, if it has no limit, or if it has another one.
        """
        if isinstance(given, str):
            limit = _registry.defined(given)
            return cls(given, limit, _longest_pause(retry or limit.retry_policy))
        provider = given.provider or find_provider()
        if provider is None:
            raise LimitError(
                "RateLimit has no provider, and the target has no DSPy language model to take it from. "
                "Pass RateLimit('openai', ...), or configure a dspy.LM."
            )
        _registry.define(provider, given)
        return cls(provider, given, _longest_pause(retry or given.retry_policy))

    def admission(
        self, state: State, adds: Any, lend: Lend = lends_nothing, on_stop: OnStop = never_stopped
    ) -> "Admission":
        """Make the admission of an attempt.

        Args:
            state: The state that the target is called with.
            adds: The part of it that is the item's own, for the length of the prompt.
            lend: Lends the item's slots while a further call waits.
            on_stop: Registers a callback that ends the wait of a further call.
        """
        bucket = _registry.bucket(self.provider, self.limit.key_of(state))
        return Admission(
            bucket, self._estimate(bucket, state, adds), lend, on_stop, longest_pause=self.longest_pause
        )

    def block(self, state: State, adds: Any) -> "Admitted":
        """Return a block that is one call."""
        return Admitted(self.admission(state, adds))

    def _estimate(self, bucket: Line, state: State, adds: Any) -> float:
        if bucket.rates.token_rate is None:
            return 0.0
        tokens = self.limit.tokens
        found: Any = tokens(state) if callable(tokens) else tokens
        if found is None:
            return bucket.estimates.of_prompt(characters(adds))
        return figure(f"{self.limit.label}: tokens returned", found)


def _longest_pause(retry: Retry | None) -> float:
    return RETRY_AFTER_CAP if retry is None else retry.retry_after_cap


class Admission:
    """One attempt's place at the limiter.

    The first model call inside uses that place. The admission is also the gate of the calls: it lets the
    first one pass, and further ones wait in line for a place of their own.
    """

    def __init__(
        self,
        bucket: Line,
        estimate: float,
        lend: Lend = lends_nothing,
        on_stop: OnStop = never_stopped,
        *,
        longest_pause: float = RETRY_AFTER_CAP,
    ) -> None:
        self.bucket = bucket
        self._longest_pause = longest_pause
        self._estimate = estimate
        self._lend = lend
        self._on_stop = on_stop
        self._lock = threading.Lock()
        self._ticket: Ticket | None = None
        self._covered = False
        self.passed: dict[UUID, calls.AdmittedCall] = {}
        self._failure: BaseException | None = None

    async def take(self, way: Way, on_stop: OnStop, *, may_wait: bool = True) -> bool:
        """Wait in line; return False if the wait was stopped, or is needed and `may_wait` is False."""
        self._ticket = self._from_around() or await self.bucket.acquire(
            way, self._reserve, may_wait=may_wait, on_stop=on_stop
        )
        return self._ticket is not None

    def give_back(self) -> None:
        """Give the place back: the attempt is not made."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self.bucket.cancel(ticket)

    def end(self, used: AttemptCounter, error: BaseException | None) -> None:
        """Settle the attempt, which has ended."""
        # Calls that are left were cancelled, and their end was not reported.
        for run in list(self.passed):
            if (left := self.passed.pop(run, None)) is not None:
                left.end(None, None)
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            answer = None
            if used.answers > used.unknown:
                is_cached = used.cached == used.answers
                answer = Answer("", used.input_tokens, used.output_tokens, cached=is_cached)
            _Passed(self, ticket, self._estimate).end(answer, error)
        elif error is not None:
            self.failed(error)

    def failed(self, error: BaseException) -> None:
        """Pause the bucket, if a call has failed with a 429 that says for how long."""
        # The same error is seen twice: at the call that raised it, and at the end of the attempt.
        if error is self._failure:
            return
        self._failure = error
        asked = retry_after(error) if is_rate_limited(error) else None
        if asked:
            self.bucket.pause(min(asked, self._longest_pause), asked)

    def cover(self) -> bool:
        """Return whether a call that asks once more has a place already.

        It has one if it is a chat model's call that has passed the gate, or the first call to ask.
        """
        if self.passed:
            return True
        with self._lock:
            first, self._covered = self._ticket is not None and not self._covered, True
        return first

    def hand_over(self) -> Ticket | None:
        """Return the ticket, for the call that begins now, if that is the first."""
        with self._lock:
            if self._covered:
                return None
            ticket, self._ticket = self._ticket, None
        return ticket

    # As a gate.

    async def enter(self, way: Way, characters: int) -> "_Passed":
        """Wait until one more call, with a prompt of so many characters, may be made."""
        ticket = self.hand_over()
        if ticket is not None:
            return _Passed(self, ticket, self._estimate)
        estimate = self.bucket.estimates.of_prompt(characters)
        async with nullcontext() if way is THREAD and _blocks_a_loop() else self._lend(way):
            ticket = await self.bucket.acquire(
                way, self.bucket.estimates.corrected(estimate), on_stop=self._on_stop
            )
        if ticket is None:
            raise Closed(RuntimeError("the run was stopped"))
        return _Passed(self, ticket, estimate)

    @property
    def _reserve(self) -> float:
        return self.bucket.estimates.corrected(self._estimate)

    def _from_around(self) -> Ticket | None:
        """Take the unused ticket of the attempt around this one, if it is of the same bucket."""
        around = calls.here().gate
        return around.hand_over() if isinstance(around, Admission) and around.bucket is self.bucket else None


def _blocks_a_loop() -> bool:
    """Return whether a wait here blocks an event loop, whose tasks could then not give back a lent slot."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Passed:
    """One call that has been admitted."""

    def __init__(self, admission: Admission, ticket: Ticket, estimate: float) -> None:
        self._admission = admission
        self._ticket = ticket
        self._estimate = estimate

    def end(self, answer: Answer | None, error: BaseException | None) -> None:
        bucket, ticket = self._admission.bucket, self._ticket
        if error is not None:
            self._admission.failed(error)
        if answer is not None and answer.cached:
            bucket.cancel(ticket)
        elif answer is not None and answer.known and answer.tokens:
            bucket.settle(ticket, answer.tokens)
            if bucket.believes(answer.tokens):
                bucket.estimates.learn(self._estimate, answer.tokens, answer.output_tokens)
        elif error is None or isinstance(error, TimeoutError) or not isinstance(error, Exception):
            # It is unknown what the call took, so the estimate stands.
            bucket.settle(ticket, ticket.tokens)
        else:
            # Providers do not charge for an error.
            bucket.settle(ticket, 0)


class Admitted:
    """One call as a block, for `with` and `async with`: it waits in line first, and settles at the end."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._used = AttemptCounter()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        run_blocking(self._admission.take(THREAD, never_stopped))
        return self._begin()

    async def __aenter__(self) -> Self:
        await self._admission.take(TASK, never_stopped)
        return self._begin()

    def _begin(self) -> Self:
        left_behind.check()
        self._stack.enter_context(restored_context())
        self._stack.enter_context(observed())
        self._stack.enter_context(metered(self._used))
        self._stack.enter_context(calls.changed(gate=self._admission))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._admission.end(self._used, error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


def admit(
    rate_limit: RateLimit | Mapping[str, Any] | str, *, tokens: float = 0.0, state: State | None = None
) -> Admitted:
    """Wait in a provider's line, for a call that no edge makes: a block for `with` and `async with`.

    The block is the call. It is settled with the tokens that DSPy's and LangChain's models in it report, or
    that `report` is given; a 429 with Retry-After that it raises pauses the bucket.

    Args:
        rate_limit: A `RateLimit` with a provider, its arguments as a dict, or the name of a provider that has
            one.
        tokens: Tokens that the call will take, >= 0.
        state: The state for the limit's `key`.

    Raises:
        LimitError: immediately, if the provider has no limit, or if `tokens` is not a finite number >= 0.

    Example:
        >>> from mahsm import RateLimit, limits
        >>> with limits.admit(RateLimit("admit-example", rps=100, tpm=60_000), tokens=120):
        ...     limits.report(input_tokens=80, output_tokens=20)
        >>> limits.stats()["admit-example"].settled_tokens
        100.0
    """
    limited = Limited.of(RateLimit.of(rate_limit), lambda: None)
    bucket = _registry.bucket(limited.provider, limited.limit.key_of(state or {}))
    estimate = figure("limits.admit: tokens is", tokens)
    return Admitted(Admission(bucket, estimate, longest_pause=limited.longest_pause))


def report(
    *, input_tokens: int = 0, output_tokens: int = 0, usd: float | None = None, model: str = ""
) -> None:
    """Report the usage of a call that neither DSPy nor LangChain makes.

    The call then counts as a model call like theirs: it settles rate limits, and counts in budgets,
    `mahsm.usage()`, traces and progress events. Report each call once, when it has ended.

    Args:
        input_tokens: Tokens of the prompt, >= 0.
        output_tokens: Tokens of the answer, >= 0.
        usd: Its price in US dollars, if known.
        model: The model's name, for the `prices` of budgets.

    Raises:
        LimitError: immediately, if a value is not a finite number >= 0. Nothing has been counted then.

    Example:
        >>> from mahsm import Budget, limits, vmap
        >>> def call(state):
        ...     limits.report(input_tokens=90, output_tokens=10)
        ...     return state["item"]
        >>> budget = Budget(tokens=200)
        >>> edge = vmap(call, batch_key="xs", out_key="ys", budget=budget, on_error="drop", max_concurrency=1)
        >>> edge.invoke({"xs": [1, 2, 3]})
        {'ys': [1, 2]}
    """
    figure("limits.report: input_tokens is", input_tokens)
    figure("limits.report: output_tokens is", output_tokens)
    if usd is not None:
        figure("limits.report: usd is", usd, "US dollars")
    calls.record_call(Answer(model, input_tokens, output_tokens, usd))
