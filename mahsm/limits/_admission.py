"""Letting one attempt through: what it waits for, what stands for it, and how it is settled."""

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
from mahsm.limits._bucket import Bucket, Ticket
from mahsm.limits._estimate import characters, figure
from mahsm.limits._rate_limit import RateLimit
from mahsm.policies import Retry, is_rate_limited, retry_after
from mahsm.policies._internal import RETRY_AFTER_CAP

Lend = Callable[[Way], AbstractAsyncContextManager[Any]]
"""Makes a block in which the slots of an item are lent, because it waits."""


def lends_nothing(_: Way) -> AbstractAsyncContextManager[Any]:
    """Make a block of an item that has no slots."""
    return nullcontext()


@dataclass(frozen=True)
class Limited:
    """A limit, with the provider that it is of.

    Attributes:
        provider: Whose limit it is.
        limit: How to choose the bucket and to estimate tokens.
        longest_pause: Seconds that a 429 pauses the bucket for at most.
    """

    provider: str
    limit: RateLimit
    longest_pause: float

    @classmethod
    def of(
        cls, given: RateLimit | str, find_provider: Callable[[], str | None], retry: Retry | None = None
    ) -> "Limited":
        """Find out who the provider is.

        Args:
            given: The limit, or the name of a provider that has one.
            find_provider: Names the provider if the limit does not.
            retry: What is tried again, if that is not as the limit says.

        Raises:
            LimitError: if nobody says, if the provider has no limit, or if it has another one.
        """
        if isinstance(given, str):
            limit = _registry.defined(given)
            return cls(given, limit, _longest_pause(retry or limit.retry_policy))
        provider = given.provider or find_provider()
        if provider is None:
            raise LimitError(
                "RateLimit has no provider, and there is no DSPy language model to take it from. "
                "Pass RateLimit('openai', ...), or configure a dspy.LM."
            )
        _registry.define(provider, given)
        return cls(provider, given, _longest_pause(retry or given.retry_policy))

    def admission(
        self, state: State, adds: Any, lend: Lend = lends_nothing, on_stop: OnStop = never_stopped
    ) -> "Admission":
        """What an attempt needs to begin.

        Args:
            state: The state that the target is called with.
            adds: What of it is the item's own, for the length of the prompt.
            lend: Lends the item's slots while a further call waits.
            on_stop: Holds what ends the wait of a further call.
        """
        bucket = _registry.bucket(self.provider, self.limit.key_of(state))
        return Admission(
            bucket, self._estimate(bucket, state, adds), lend, on_stop, longest_pause=self.longest_pause
        )

    def block(self, state: State, adds: Any) -> "Admitted":
        """A block that is one call."""
        return Admitted(self.admission(state, adds))

    def _estimate(self, bucket: Bucket, state: State, adds: Any) -> float:
        if bucket.rates.token_rate is None:
            return 0.0
        tokens = self.limit.tokens
        found: Any = tokens(state) if callable(tokens) else tokens
        if found is None:
            return bucket.estimates.of_prompt(characters(adds))
        return figure(f"{self.limit.label}: tokens gave", found)


def _longest_pause(retry: Retry | None) -> float:
    return RETRY_AFTER_CAP if retry is None else retry.retry_after_cap


class Admission:
    """What an attempt has been let through with. The first call inside is the one that it was let through
    for.

    As a gate it lets the first call pass, and makes further ones wait in line for themselves.
    """

    def __init__(
        self,
        bucket: Bucket,
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
        """Wait in line; return False if the wait was stopped, or would have been needed but may not be."""
        self._ticket = self._from_around() or await self.bucket.acquire(
            way, self._reserve, may_wait=may_wait, on_stop=on_stop
        )
        return self._ticket is not None

    def give_back(self) -> None:
        """The attempt is not made after all."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self.bucket.cancel(ticket)

    def end(self, used: AttemptCounter, error: BaseException | None) -> None:
        """The attempt has ended."""
        for run in list(self.passed):  # calls that were cancelled, and of whose end nobody is told
            if (left := self.passed.pop(run, None)) is not None:
                left.end(None, None)
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            answer = Answer("", used.input_tokens, used.output_tokens, cached=used.cached == used.answers)
            _Passed(self, ticket, self._estimate).end(answer if used.answers > used.unknown else None, error)
        elif error is not None:
            self.failed(error)

    def failed(self, error: BaseException) -> None:
        """A call has failed: if that was a 429, it says for how long nobody is to call."""
        if error is self._failure:
            return  # seen where it was raised, and now again where it came out
        self._failure = error
        asked = retry_after(error) if is_rate_limited(error) else None
        if asked:
            self.bucket.pause(min(asked, self._longest_pause), asked)

    def cover(self) -> bool:
        """Whether a call that asks again has been let through: a chat model's, or somebody else's that is the
        first.
        """
        if self.passed:
            return True
        with self._lock:
            first, self._covered = self._ticket is not None and not self._covered, True
        return first

    def hand_over(self) -> Ticket | None:
        """Leave the ticket to the call that begins now, if it is the first."""
        with self._lock:
            if self._covered:
                return None
            ticket, self._ticket = self._ticket, None
        return ticket

    # As a gate.

    async def enter(self, way: Way, characters: int) -> "_Passed":
        """Wait until one more call with so many characters may be made."""
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
        """The ticket of the attempt around this one, if it is of the same bucket and nothing has used it."""
        around = calls.here().gate
        return around.hand_over() if isinstance(around, Admission) and around.bucket is self.bucket else None


def _blocks_a_loop() -> bool:
    """Whether a wait here blocks an event loop, so that what else runs on it could not give back a slot that
    is lent.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Passed:
    """One call that has been let through."""

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
            bucket.settle(ticket, ticket.tokens)  # nobody knows what it took
        else:
            bucket.settle(ticket, 0)  # providers do not charge for an error


class Admitted:
    """A block, for `with` and `async with`, that is one call: it waits in line first, and settles at the
    end.
    """

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
    """Wait in line of a provider, for a call that no edge makes: a block for `with` and `async with`.

    The block is the call: what DSPy's and LangChain's models in it report, or `report` says, settles the
    tokens; a 429 with Retry-After that it raises pauses the bucket.

    Args:
        rate_limit: A `RateLimit` with a provider, its arguments as a dict, or the name of a provider that has
            one.
        tokens: Tokens that the call will take, >= 0.
        state: What the limit's `key` is a function of.

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
    """Say what a call has used, where neither DSPy nor LangChain does.

    It is a call of a model then, as one of theirs: it settles rate limits, and counts in budgets,
    `mahsm.usage()`, traces and progress events. Report each call once, when it has ended.

    Args:
        input_tokens: Tokens of the prompt, >= 0.
        output_tokens: Tokens of the answer, >= 0.
        usd: Its price in US dollars, if it is known.
        model: The model's name, for the `prices` of budgets.

    Raises:
        LimitError: immediately, for what is not a finite number >= 0. Nothing has been counted then.

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
