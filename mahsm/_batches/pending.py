"""Requests that are pending: they wait until a job is submitted with them."""

from collections import defaultdict, deque
from collections.abc import Sequence

from mahsm._batches.estimates import Estimates, input_tokens
from mahsm._batches.requests import Ask, Endpoint
from mahsm.policies import BatchAPI


class Pending:
    """The pending requests of a run, by endpoint, in the order in which they were asked.

    Args:
        api: The options, which bound a job.
        estimates: Refuse what a budget does not allow.
    """

    def __init__(self, api: BatchAPI, estimates: Estimates) -> None:
        self._api = api
        self._estimates = estimates
        self._asks: dict[Endpoint, list[Ask]] = defaultdict(list)

    @property
    def endpoints(self) -> list[Endpoint]:
        """The endpoints that requests are pending for."""
        return list(self._asks)

    def of(self, endpoint: Endpoint) -> Sequence[Ask]:
        """Return what is pending for an endpoint."""
        return self._asks.get(endpoint, ())

    def add(self, ask: Ask) -> int:
        """Add a request; return the number of those that are pending for its endpoint."""
        asks = self._asks[ask.endpoint]
        asks.append(ask)
        return len(asks)

    def take(self, endpoint: Endpoint, enqueued: float) -> tuple[list[Ask], int]:
        """Take the requests of the next job, and return them with their tokens.

        Args:
            endpoint: The endpoint.
            enqueued: Tokens of all jobs that are open.
        """
        asks: list[Ask] = []
        rest, tokens = deque(self._asks.pop(endpoint, ())), 0
        while rest and len(asks) < self._api.max_requests:
            takes = input_tokens(rest[0].request)
            if not self._has_room(enqueued, tokens + takes, first=not asks):
                break
            ask = rest.popleft()
            if not ask.is_over and (refusal := self._estimates.refusal(ask)) is not None:
                ask.settle(failure=refusal)
            if not ask.is_over:
                asks.append(ask)
                tokens += takes
        if rest:
            self._asks[endpoint] = list(rest)
        return asks, tokens

    def _has_room(self, enqueued: float, tokens: int, *, first: bool) -> bool:
        """Return whether so many tokens may be enqueued; a request that is too long goes alone."""
        most = self._api.max_enqueued_tokens
        return most is None or enqueued + tokens <= most or (first and not enqueued)
