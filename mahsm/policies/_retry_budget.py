"""A bound on retries: when a provider is down, trying everything again only keeps it down."""

import threading

SAVED = 100.0
"""Retries that can be saved up, and with which a provider begins: as in AWS's standard retry mode, 500 tokens
at 5 a retry."""


class RetryBudget:
    """How many retries calls of one provider have left.

    Every call earns `share` of a retry, and every success a whole one: while the provider answers, retries
    are hardly bounded; while it does not, there are `share` of them per call, once what was saved is used.
    The share is Finagle's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = SAVED

    def call(self, share: float) -> None:
        """A call is made for the first time."""
        self._earn(share)

    def success(self) -> None:
        """A call has succeeded."""
        self._earn(1.0)

    def take(self) -> bool:
        """Use a retry, if there is one."""
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
    """The budget of a provider, the same in the whole process; a new one if the provider is not known."""
    if provider is None:
        return RetryBudget()
    with _lock:
        return _budgets.setdefault(provider, RetryBudget())


def forget(provider: str) -> None:
    """Begin anew for a provider."""
    with _lock:
        _budgets.pop(provider, None)
