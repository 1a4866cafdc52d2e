"""`retry`: a function that is called again after an error."""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, cast, overload

from langgraph.errors import GraphBubbleUp

from mahsm._common import check, shown
from mahsm._model_calls import calls, unparsed_in
from mahsm._waiting import Closed, Way, left_behind, reason_here
from mahsm.compose._calls import call_as, kind_of
from mahsm.compose._function import AwaitedFunction, ComposedFunction, P, R, Shared
from mahsm.errors import BudgetExceeded, LimitError, TooManyHanging
from mahsm.nodes._internal import provider_of
from mahsm.policies import Retry
from mahsm.policies._internal import is_refused, retry_budget, spendings

_ENDS = (GraphBubbleUp, Closed, BudgetExceeded, TooManyHanging)
"""Errors that are no failure of the function, or after which nothing can begin."""


class _Retries(Shared):
    """The retry budget of a function.

    Args:
        provider: The provider whose budget it is; by default that of a DSPy module's models, or else the
            function's own.
    """

    def __init__(self, provider: str | None) -> None:
        super().__init__(provider)
        self._budget = retry_budget(provider)
        self._is_known = provider is not None

    def of(self, function: Any) -> Any:
        """Return the budget of a call that is made now."""
        dspy: Any = sys.modules.get("dspy")
        is_module = dspy is not None and isinstance(function, dspy.Module)
        if self._is_known or not (is_module or hasattr(function, "_mahsm_provider")):
            return self._budget
        try:
            provider = provider_of(function)
        except LimitError:  # it has several
            provider = None
        return self._budget if provider is None else retry_budget(provider)


class _Retry(ComposedFunction[P, R]):
    made_by = "retry"
    function: Any
    policy: Retry
    retries: _Retries

    @property
    def first(self) -> Any:
        return self.function

    async def run(self, way: Way, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        function, kind, policy = self.function, self.kind, self.policy
        budget = self.retries.of(function)
        if policy.share is not None:
            budget.call(policy.share)
        began, attempt, unparsed = time.monotonic(), 0, frozenset[str]()
        while True:
            attempt += 1
            try:
                with calls.changed(unparsed=calls.here().unparsed | unparsed) if unparsed else _NOTHING:
                    result = await call_as(way, function, kind, args, kwargs)
            except Exception as error:
                if isinstance(error, _ENDS) or attempt >= policy.attempts or not policy.retries(error):
                    raise
                seconds = policy.wait(attempt, error)
                is_late = policy.timeout is not None and (
                    time.monotonic() + seconds - began >= policy.timeout
                )
                if is_late or any(each.exceeded for each in spendings()) or is_refused(policy, budget, error):
                    raise
                unparsed |= unparsed_in(error)
                failure = error
            else:
                budget.success()
                return result
            await _pause(way, seconds)
            if reason_here() is not None:
                raise failure


class _AwaitedRetry(AwaitedFunction[P, R], _Retry[P, R]):
    pass


_NOTHING = nullcontext()


async def _pause(way: Way, seconds: float) -> None:
    if seconds:
        turn = way.turn()
        with left_behind.on_stop(lambda _: turn.wake()):
            await turn.wait(seconds)
    left_behind.check()


RetryOn = type[BaseException] | tuple[type[BaseException], ...] | Callable[[Exception], bool]


@overload
def retry(
    function: Callable[P, R],
    /,
    max_attempts: int = ...,
    *,
    on: RetryOn | None = ...,
    policy: Retry | None = ...,
    provider: str | None = ...,
) -> ComposedFunction[P, R]: ...
@overload
def retry(
    max_attempts: int = ...,
    /,
    *,
    on: RetryOn | None = ...,
    policy: Retry | None = ...,
    provider: str | None = ...,
) -> Callable[[Callable[P, R]], ComposedFunction[P, R]]: ...
@overload
def retry(
    *,
    max_attempts: int = ...,
    on: RetryOn | None = ...,
    policy: Retry | None = ...,
    provider: str | None = ...,
) -> Callable[[Callable[P, R]], ComposedFunction[P, R]]: ...
@check.arguments(
    **dict.fromkeys(
        ("base", "cap", "factor", "jitter", "timeout", "share", "retry_after_cap"),
        "Pass policy=Retry(attempts=3, ...) for all options of a retry.",
    )
)
def retry(
    function: Any = None,
    /,
    max_attempts: int | None = None,
    *,
    on: RetryOn | None = None,
    policy: Retry | None = None,
    provider: str | None = None,
) -> Any:
    """Call a function again after a passing error; also as a decorator, `@retry(max_attempts=3)`.

    What is tried again and when is said by `Retry`: errors such as timeouts, connection errors, HTTP 429 and
    5xx, after a random wait that grows, at least as long as the provider asks for with Retry-After; and no
    more retries than the retry budget of the provider allows. Interrupts of LangGraph are never retried, nor
    is anything once a `Budget` is spent. The last error is raised as it is.

    Args:
        function: A function, sync or async, an operator, or a DSPy module.
        max_attempts: The most calls, the first one included, >= 1; by default 3.
        on: What is tried again: exception types, or a function of the exception; by default
            `mahsm.policies.is_retryable`.
        policy: A `Retry` with all its options, instead of `max_attempts` and `on`.
        provider: The name of the provider whose retry budget is shared, such as "openai". By default that of
            the models of a DSPy module; any other function has a budget of its own.

    Raises:
        TypeError: immediately, if `function` cannot be called.
        EdgeError: immediately, for invalid values.

    Example:
        >>> from mahsm import Retry, retry
        >>> tries = iter([ConnectionError("reset"), "text"])
        >>> @retry(policy=Retry(attempts=2, base=0))
        ... def fetch(url):
        ...     result = next(tries)
        ...     if isinstance(result, Exception):
        ...         raise result
        ...     return result
        >>> fetch("https://example.com")
        'text'
    """
    if isinstance(function, int):
        function, max_attempts = None, function
    made = _policy(max_attempts, on, policy)
    if function is None:
        return partial(retry, policy=made, provider=provider)
    kind = kind_of("retry", function)
    cls: Any = _AwaitedRetry if kind.is_async else _Retry
    return cls(kind=kind, function=function, policy=made, retries=_Retries(provider))


def _policy(max_attempts: Any, on: Any, policy: Any) -> Retry:
    if policy is None:
        return Retry(attempts=3 if max_attempts is None else max_attempts, on=on)
    if max_attempts is not None or on is not None:
        raise TypeError(
            f"retry: policy={shown(policy)} with max_attempts={shown(max_attempts)} and on={shown(on)}; "
            "expected either a policy, Retry(attempts=3, on=...), or the other two."
        )
    return Retry.of(cast("Retry", policy))
