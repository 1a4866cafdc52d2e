"""`Retry`: if and when a failed item is tried again."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from langgraph.types import RetryPolicy

from mahsm._common import MOST_SECONDS, is_figure, shown
from mahsm.errors import EdgeError
from mahsm.policies._retryable import is_retryable, retry_after

RetryOn: TypeAlias = type[BaseException] | tuple[type[BaseException], ...] | Callable[[Exception], bool]

RETRY_AFTER_CAP = 600.0
"""Default of `Retry(retry_after_cap=...)`: the longest wait, in seconds, that one Retry-After may impose."""

_MOST_FACTOR = 1000.0
"""Its hundredth power, the largest that `Retry.wait` computes, still fits a float."""


@dataclass(frozen=True)
class Retry:
    """Try a failed item again, after a random wait.

    The wait before attempt `k + 1` is drawn from `[0, min(cap, base * factor ** (k - 1))]` seconds: full
    jitter, as in Brooker, Exponential Backoff And Jitter (AWS Architecture Blog, 2015), so that items that
    failed together are not retried together. It is at least the provider's Retry-After, up to
    `retry_after_cap`. The item holds no slot while it waits.

    Args:
        attempts: Most attempts of an item, including the first, >= 1.
        base: Ceiling of the first wait in seconds, >= 0.
        cap: Ceiling of all waits in seconds, >= `base`.
        on: Exceptions to retry: types, or a function of the exception; by default `is_retryable`.
        timeout: Seconds after which no further attempt begins, > 0; None for no limit.
        factor: Growth of the ceiling with each attempt, from 1 to 1000.
        jitter: Draw the wait at random; if False, it equals the ceiling.
        share: Retries allowed per call while a provider is failing, >= 0; None for no limit. Every call of
            the provider earns `share` of a retry, and every success a full one. Up to 100 are saved, and 100
            are there at the start. If no retry is left, the item fails with its error.
        retry_after_cap: Longest Retry-After to wait for, in seconds, >= 0; keyword only. If the provider asks
            for more, the item fails with its error, and a rate limit pauses for this long only.

    Raises:
        EdgeError: immediately, for invalid values.

    Example:
        >>> from mahsm import Retry, vmap
        >>> tries = iter([ConnectionError("reset"), "text"])
        >>> def fetch(state):
        ...     result = next(tries)
        ...     if isinstance(result, Exception):
        ...         raise result
        ...     return result
        >>> vmap(fetch, batch_key="urls", out_key="texts", retry=Retry(base=0)).invoke({"urls": ["a"]})
        {'texts': ['text']}
    """

    attempts: int = 5
    base: float = 0.5
    cap: float = 30.0
    on: RetryOn | None = None
    timeout: float | None = None
    factor: float = 2.0
    jitter: bool = True
    share: float | None = 0.2
    retry_after_cap: float = field(default=RETRY_AFTER_CAP, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EdgeError(
                f"Retry: attempts={shown(self.attempts)}; expected an integer >= 1. 1 means no retries."
            )
        _check_on(self.on)
        if not (is_figure(self.cap, most=MOST_SECONDS) and is_figure(self.base, most=self.cap)):
            raise EdgeError(
                f"Retry: base={shown(self.base)} and cap={shown(self.cap)}; expected seconds, 0 "
                "<= base <= cap."
            )
        if self.timeout is not None and not (is_figure(self.timeout) and self.timeout > 0):
            raise EdgeError(
                f"Retry: timeout={shown(self.timeout)}; expected seconds > 0, or None for no limit."
            )
        if not is_figure(self.factor, 1, _MOST_FACTOR):
            raise EdgeError(
                f"Retry: factor={shown(self.factor)}; expected a number >= 1 and <= {_MOST_FACTOR:g}."
            )
        if self.share is not None and not is_figure(self.share):
            raise EdgeError(
                f"Retry: share={shown(self.share)}; expected retries per call >= 0, such as "
                "0.2, or None for no limit."
            )
        if not is_figure(self.retry_after_cap, most=MOST_SECONDS):
            raise EdgeError(
                f"Retry: retry_after_cap={shown(self.retry_after_cap)}; expected seconds >= 0, such as 600."
            )

    @classmethod
    def of(cls, policy: "Retry | RetryPolicy") -> "Retry":
        """Return a `Retry` unchanged, or convert LangGraph's `RetryPolicy` to one."""
        if isinstance(policy, Retry):
            return policy
        if not isinstance(policy, RetryPolicy):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EdgeError(f"retry={shown(policy)}; expected Retry(attempts=3), or LangGraph's RetryPolicy.")
        on = policy.retry_on
        return cls(
            attempts=policy.max_attempts,
            base=policy.initial_interval,
            cap=max(policy.initial_interval, policy.max_interval),
            on=cast("RetryOn", on if isinstance(on, type) or callable(on) else tuple(on)),
            factor=policy.backoff_factor,
            jitter=policy.jitter,
        )

    def retries(self, error: BaseException) -> bool:
        """Return whether the item is tried again after this error."""
        if not isinstance(error, Exception):
            return False
        if self.on is None:
            return is_retryable(error)
        if isinstance(self.on, type | tuple):
            return isinstance(error, self.on)
        return self.on(error)

    def refusal(self, error: BaseException) -> str | None:
        """Return why a retry is refused: the provider's Retry-After exceeds the cap. None if it does not."""
        asked = retry_after(error)
        if asked is None or asked <= self.retry_after_cap:
            return None
        return (
            f"not tried again, since the provider asks to wait for {round(asked, 2):.12g} s; "
            f"Retry(retry_after_cap={self.retry_after_cap:g}) bounds the wait"
        )

    def wait(self, attempt: int, error: BaseException | None) -> float:
        """Return the seconds to wait after an attempt, numbered from 1, that ended with `error`."""
        ceiling = min(self.cap, self.base * self.factor ** min(attempt - 1, 100))
        drawn = random.uniform(0, ceiling) if self.jitter else ceiling
        return max(drawn, min(retry_after(error) or 0.0, self.retry_after_cap))


def _check_on(on: Any) -> None:
    kinds = cast("tuple[Any, ...]", on if isinstance(on, tuple) else (on,))
    if on is None or all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        return
    if isinstance(on, type | tuple) or not callable(on):
        raise EdgeError(
            f"Retry: on={shown(cast('object', on))}; expected exception types, such as "
            "(ConnectionError, TimeoutError), or a function of the exception that returns True to try again."
        )
