"""A bound on retries: if a provider is overloaded, retrying every call keeps it overloaded."""

import threading

from mahsm._common import add_note
from mahsm.policies._retry import Retry

SAVED = 100.0
"""The most retries that are saved, and the number at the start; as in AWS's standard retry mode, where 500
tokens pay for 100 retries."""


class RetryBudget:
    """The retries left for the calls of one provider.

    Every call earns `share` of a retry, and every success a full one. So retries are hardly bounded while the
    provider answers. While it does not, there are `share` retries per call, once the saved ones are used.
    The share is an idea of Finagle's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = SAVED

    def call(self, share: float) -> None:
        """Count the first attempt of a call."""
        self._earn(share)

    def success(self) -> None:
        """Count a call that has succeeded."""
        self._earn(1.0)

    def take(self) -> bool:
        """Use a retry if one is left; return whether it was."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True

    def _earn(self, amount: float) -> None:
        with self._lock:
            self._left = min(SAVED, self._left + amount)


_budgets: dict[str, RetryBudget] = {}
_lock = threading.Lock()


def retry_budget(provider: str | None) -> RetryBudget:
    """Return the process-wide budget of a provider; a new one if the provider is None."""
    if provider is None:
        return RetryBudget()
    with _lock:
        return _budgets.setdefault(provider, RetryBudget())


def forget(provider: str) -> None:
    """Drop the budget of a provider, so that the next one starts full."""
    with _lock:
        _budgets.pop(provider, None)


def is_refused(retry: Retry, budget: RetryBudget, error: BaseException) -> bool:
    """Return whether an error that could be retried is not; a note on the error says why."""
    refusal = retry.refusal(error)
    if refusal is None and retry.share is not None and not budget.take():
        refusal = "not tried again, since too many calls fail; Retry(share=...) bounds the retries"
    if refusal is not None and f"mahsm: {refusal}" not in getattr(error, "__notes__", ()):
        add_note(error, refusal)
    return refusal is not None
