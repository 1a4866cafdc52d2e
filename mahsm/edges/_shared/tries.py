"""`Tries`: the options of each attempt at an item or a branch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from langgraph.types import RetryPolicy

from mahsm._common import check
from mahsm.errors import EdgeError, LimitError
from mahsm.limits import RateLimit
from mahsm.limits._internal import resolved
from mahsm.nodes._internal import Target, single_try
from mahsm.policies import BatchAPI, Hedge, Retry


@dataclass(frozen=True)
class Tries:
    """The options of each attempt at an item or a branch.

    Attributes:
        retry: The retry policy: the edge's own, or that of the rate limit.
        timeout: Seconds for each attempt.
        rate_limit: The provider's limit; a string names a provider whose limit is not defined yet.
        hedge: When to start a second call.
        batch_api: How model calls become jobs of a provider's batch API.
    """

    retry: Retry | None = None
    timeout: float | None = None
    rate_limit: RateLimit | str | None = None
    hedge: Hedge | None = None
    batch_api: BatchAPI | None = None

    @classmethod
    def of(
        cls,
        edge: str,
        retry: Retry | RetryPolicy | None,
        timeout: float | None,
        rate_limit: RateLimit | Mapping[str, Any] | str | None,
        hedge: Hedge | None = None,
        batch_api: BatchAPI | bool | None = None,
    ) -> Self:
        """Check options as users write them; a rate limit with a provider is then defined for the process.

        Raises:
            EdgeError: if one is invalid.
            LimitError: if the rate limit is invalid, or contradicts another one of its provider.
        """
        check.seconds(edge, "timeout", timeout)
        retries = "Retry(attempts=3), or LangGraph's RetryPolicy"
        check.of_type(edge, "retry", retry, (Retry, RetryPolicy), retries)
        check.of_type(edge, "hedge", hedge, Hedge, "Hedge(percentile=0.95)")
        if batch_api is not None and not isinstance(batch_api, bool):
            check.of_type(edge, "batch_api", batch_api, BatchAPI, "True, or BatchAPI(window='24h')")
        batches = (BatchAPI() if batch_api else None) if isinstance(batch_api, bool) else batch_api
        if batches is not None:
            _check_batched(edge, timeout=timeout, rate_limit=rate_limit, hedge=hedge)
        limit = None if rate_limit is None else resolved(RateLimit.of(rate_limit))
        if retry is None and isinstance(limit, RateLimit):
            retry = limit.retry_policy
        return cls(None if retry is None else Retry.of(retry), timeout, limit, hedge, batches)

    def once(self, target: object) -> object:
        """Return the target without retries of its own, if the edge retries it."""
        return target if self.retry is None else single_try(target)

    def check_target(self, edge: str, target: Target) -> None:
        """Refuse a limit on tokens for a target that does not report its tokens.

        Raises:
            LimitError: if there is such a limit.
        """
        limit = self.rate_limit
        if not isinstance(limit, RateLimit) or limit.tpm is None:
            return
        if limit.tokens is None and not target.reports:
            raise LimitError(
                f"{edge}: tpm={limit.tpm:g}, but {target.name} is a plain function, whose calls do not "
                "report how many tokens they take. Pass RateLimit(..., tokens=1_000), or tokens= as a "
                "function of the state."
            )


def _check_batched(edge: str, **given: object) -> None:
    """Refuse options of ordinary calls for calls that a batch job answers.

    Raises:
        EdgeError: for the first such option.
    """
    why = {
        "timeout": "a job takes minutes to a day; bound the run by deadline=",
        "rate_limit": "the limits of the ordinary API do not hold for it; bound it by "
        "BatchAPI(max_enqueued_tokens=)",
        "hedge": "a second call would be paid for, too",
    }
    for name, value in given.items():
        if value is not None:
            raise EdgeError(f"{edge}: {name}= with batch_api=: {why[name]}. Leave {name}= out.")
