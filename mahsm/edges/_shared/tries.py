"""`Tries`: how each attempt at an item or a branch is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from langgraph.types import RetryPolicy

from mahsm._common import check
from mahsm.errors import LimitError
from mahsm.limits import RateLimit
from mahsm.limits._internal import resolved
from mahsm.nodes._internal import Target, single_try
from mahsm.policies import Hedge, Retry


@dataclass(frozen=True)
class Tries:
    """How each attempt at an item or a branch is made.

    Attributes:
        retry: How it is tried again: as given, or as the rate limit says.
        timeout: Seconds for each attempt.
        rate_limit: What the provider allows; a string names a provider that is yet to get a limit.
        hedge: When it is started a second time.
    """

    retry: Retry | None = None
    timeout: float | None = None
    rate_limit: RateLimit | str | None = None
    hedge: Hedge | None = None

    @classmethod
    def of(
        cls,
        edge: str,
        retry: Retry | RetryPolicy | None,
        timeout: float | None,
        rate_limit: RateLimit | Mapping[str, Any] | str | None,
        hedge: Hedge | None = None,
    ) -> Self:
        """Check options as users write them. A rate limit with a provider is defined for the process by it.

        Raises:
            EdgeError: if one is invalid.
            LimitError: if the rate limit is invalid, or contradicts another one of its provider.
        """
        check.seconds(edge, "timeout", timeout)
        check.of_type(edge, "hedge", hedge, Hedge, "Hedge(percentile=0.95)")
        limit = None if rate_limit is None else resolved(RateLimit.of(rate_limit))
        if retry is None and isinstance(limit, RateLimit):
            retry = limit.retry_policy
        return cls(None if retry is None else Retry.of(retry), timeout, limit, hedge)

    def once(self, target: object) -> object:
        """Return the target without retries of its own, if the edge retries it."""
        return target if self.retry is None else single_try(target)

    def check_target(self, edge: str, target: Target) -> None:
        """Refuse a limit on tokens for a target whose tokens are unknown.

        Raises:
            LimitError: if they are.
        """
        limit = self.rate_limit
        if not isinstance(limit, RateLimit) or limit.tpm is None:
            return
        if limit.tokens is None and not target.reports:
            raise LimitError(
                f"{edge}: tpm={limit.tpm:g}, but {target.name} is a plain function, whose calls do not say "
                "how many tokens they take. Pass RateLimit(..., tokens=1_000), or tokens= as a function of "
                "the state."
            )
