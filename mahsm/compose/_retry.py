"""`retry`: a function that is tried again."""

import functools
import sys
import time
from typing import Any

import equinox as eqx

from mahsm._common import add_note
from mahsm._waiting import Way, left_behind
from mahsm.compose._part import Composed, call_part, check_part, name_of, parameters_of_part
from mahsm.errors import EdgeError
from mahsm.nodes._internal import provider_of
from mahsm.operators._internal import Parameters
from mahsm.policies import Retry
from mahsm.policies._internal import retry_budget


class Retried(Composed):
    """A function that is tried again. Made by `retry`.

    Attributes:
        first: The function.
        policy: How it is tried again.
    """

    first: Any
    policy: Retry = eqx.field(static=True)
    parameters: Parameters = eqx.field(static=True)
    _budget: Any = eqx.field(static=True)

    @property
    def parts(self) -> tuple[Any, ...]:
        return (self.first,)

    async def _run(self, way: Way, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        policy, budget = self.policy, self._budget
        if policy.share is not None:
            budget.call(policy.share)
        attempt, began = 1, time.monotonic()
        while True:
            try:
                result = await call_part(self.first, way, args, options)
            except Exception as error:
                wait = self._wait(error, attempt, time.monotonic() - began)
                if wait is None:
                    add_note(error, f"{name_of(self.first)}, attempt {attempt}")
                    raise
            else:
                budget.success()
                return result
            attempt += 1
            turn = way.turn()
            with left_behind.on_stop(lambda _, turn=turn: turn.wake()):
                await turn.wait(wait)
            left_behind.check()

    def _wait(self, error: Exception, attempt: int, seconds: float) -> float | None:
        """Return how long to wait before the next attempt; None if there is none."""
        policy = self.policy
        if attempt >= policy.attempts or not policy.retries(error):
            return None
        wait = policy.wait(attempt, error)
        if policy.timeout is not None and seconds + wait >= policy.timeout:
            return None
        refusal = policy.refusal(error)
        if refusal is None and policy.share is not None and not self._budget.take():
            refusal = "not tried again, since too many calls fail; Retry(share=...) bounds the retries"
        if refusal is not None:
            add_note(error, refusal)
            return None
        return wait


def retry(
    fn: Any = None, /, max_attempts: int | None = None, *, policy: Retry | None = None, **options: Any
) -> Any:
    """Try a function again when it fails, after a while.

    The policy is that of edges, `mahsm.Retry`: full jitter, what a provider asks for with Retry-After, and
    for DSPy modules a bound on retries that all calls of their provider share.

    Args:
        fn: A function, sync or async, an operator or a DSPy module.
        max_attempts: How often it is tried at most, the first time included, >= 1; by default 5.
        policy: A whole policy, in place of `max_attempts` and the options.
        **options: Other fields of `mahsm.Retry`: `base`, `cap`, `on`, `timeout`, `share`...

    Returns:
        An operator that is called like the function; a decorator without one.

    Raises:
        TypeError: immediately, for what cannot be called, and for an option that `Retry` does not have.
        EdgeError: immediately, for invalid values.

    Example:
        >>> from mahsm import retry
        >>> answers = iter([ConnectionError("reset"), "text"])
        >>> @retry(max_attempts=3, base=0)
        ... def fetch(url):
        ...     answer = next(answers)
        ...     if isinstance(answer, Exception):
        ...         raise answer
        ...     return f"{url}: {answer}"
        >>> fetch("a")
        'a: text'
    """
    if policy is not None and (max_attempts is not None or options):
        raise EdgeError("retry: policy and other options exclude each other. Pass one of them.")
    if policy is None:
        policy = Retry(**options) if max_attempts is None else Retry(max_attempts, **options)
    if fn is None:
        return functools.partial(retry, policy=policy)
    check_part("retry", fn)
    budget = retry_budget(provider_of(fn) if _is_module(fn) else None)
    return Retried(first=fn, policy=policy, parameters=parameters_of_part(fn), _budget=budget)


def _is_module(fn: Any) -> bool:
    dspy: Any = sys.modules.get("dspy")  # whoever passes a module of DSPy has imported it
    return dspy is not None and isinstance(fn, dspy.Module)
