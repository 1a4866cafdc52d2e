"""`Retry`: whether and when a failed item is tried again."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from langgraph.types import RetryPolicy

from mahsm._common import MOST_SECONDS, is_figure, shown
from mahsm.errors import EdgeError
from mahsm.policies._retryable import is_retryable, retry_after

RetryOn: TypeAlias = type[BaseException] | tuple[type[BaseException], ...] | Callable[[Exception], bool]

RETRY_AFTER_CAP = 600.0
"""Seconds that a provider can make everybody wait with one Retry-After, unless a `Retry` says otherwise."""

_MOST_FACTOR = 1000.0  # its hundredth power is still a float


@dataclass(frozen=True)
class Retry:
    """Try a failed item again, after a while.

    The wait before attempt `k + 1` is drawn from `[0, min(cap, base * factor ** (k - 1))]` seconds: full
    jitter, as in Brooker, Exponential Backoff And Jitter (AWS Architecture Blog, 2015), so that items which
    failed together do not come back together. It is at least what the provider asked for with Retry-After, up
    to `retry_after_cap`. The item's slot is free meanwhile.

    Args:
        attempts: How often an item is tried at most, the first time included, >= 1.
        base: Seconds, >= 0.
        cap: Seconds, >= `base`.
        on: What is tried again: exception types, or a function of the exception; by default `is_retryable`.
        timeout: Seconds after which no further attempt begins, > 0; None for no limit.
        factor: By what the ceiling grows, from 1 to 1000.
        jitter: Draw the wait; else it is the ceiling itself.
        share: Retries per call that a provider which answers nothing gets, >= 0; None for no bound. Every
            call of the provider earns `share` of a retry and every success a whole one; 100 can be saved up,
            and are there at first. An item that would need more fails with its error.
        retry_after_cap: Seconds of Retry-After that are waited for at most, >= 0; keyword only. If the
            provider asks for more, the item fails with its error, and a rate limit pauses for no longer than
            this.

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
                f"Retry: attempts={shown(self.attempts)}; expected an integer >= 1. 1 tries once, "
                "without a retry."
            )
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
                f"Retry: share={shown(self.share)}; expected retries per call >= 0, as 0.2, or "
                "None for no bound."
            )
        if not is_figure(self.retry_after_cap, most=MOST_SECONDS):
            raise EdgeError(
                f"Retry: retry_after_cap={shown(self.retry_after_cap)}; expected seconds >= 0, as 600."
            )

    @classmethod
    def of(cls, policy: "Retry | RetryPolicy") -> "Retry":
        """A `Retry` as it is, or one that does what LangGraph's `RetryPolicy` says."""
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
        """Whether this error is worth another attempt."""
        if not isinstance(error, Exception):
            return False
        if self.on is None:
            return is_retryable(error)
        if isinstance(self.on, type | tuple):
            return isinstance(error, self.on)
        return self.on(error)

    def refusal(self, error: BaseException) -> str | None:
        """Return why an error is not worth another attempt now: the provider asks for a wait that is longer
        than the cap.
        """
        asked = retry_after(error)
        if asked is None or asked <= self.retry_after_cap:
            return None
        return (
            f"not tried again, since the provider asks to wait for {round(asked, 2):.12g} s; "
            f"Retry(retry_after_cap={self.retry_after_cap:g}) says how long is waited for at most"
        )

    def wait(self, attempt: int, error: BaseException | None) -> float:
        """Seconds to wait after the attempt of this number, from 1, that ended with `error`."""
        ceiling = min(self.cap, self.base * self.factor ** min(attempt - 1, 100))
        drawn = random.uniform(0, ceiling) if self.jitter else ceiling
        return max(drawn, min(retry_after(error) or 0.0, self.retry_after_cap))
