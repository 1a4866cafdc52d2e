"""The batch API of one provider, through DSPy's clients."""

import asyncio
import json
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from mahsm._batches.requests import Endpoint

_PLACES = 1_000_000
"""Anthropic's jobs have no label. Their requests have ids: the job's token times this, plus the place."""

_PAGE = 100
"""Jobs on a page of a provider's list; OpenAI and Anthropic give no more."""

_AFTER = {"openai": "after", "anthropic": "after_id"}
"""The parameter by which a list goes on after a job; of others, only the first page is looked at."""

_SKEW = 600.0
"""Seconds by which the clocks of a provider and of this machine may differ."""


@dataclass(frozen=True)
class Sent:
    """What a job is known by.

    Attributes:
        label: Its label at the provider.
        token: A number that stands for the label where a provider keeps none.
        count: The number of its requests.
        at: `time.time()` before it was submitted.
    """

    label: str
    token: int
    count: int
    at: float


class Client:
    """The batch API of an endpoint. Its methods are for the loop of batches.

    Args:
        endpoint: The endpoint.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        from dspy.lm15 import AsyncLMRouter, RouterConfig, Timeouts

        provider, timeout = endpoint.provider, endpoint.timeout
        keys = None if endpoint.api_key is None else {provider: endpoint.api_key}
        urls = None if endpoint.base_url is None else {provider: endpoint.base_url}
        timeouts = None
        if timeout is not None:
            timeouts = Timeouts(read=float(timeout), write=float(timeout), pool=float(timeout))
        self._router = AsyncLMRouter(RouterConfig(api_keys=keys, base_urls=urls, timeouts=timeouts))
        self._endpoint = endpoint
        self._lm: Any = self._router.lm(f"{provider}:{endpoint.model}")
        self._transport = self._lm.transport
        self._lm.transport = _Transport(self._transport)
        self._has_labels = provider != "anthropic"
        self.has_jobs = bool(self._lm.supports.batches)
        """True if the provider takes jobs."""

    async def aclose(self) -> None:
        await self._router.aclose()

    async def complete(self, request: Any) -> Any:
        """Make an ordinary call."""
        return await self._lm.complete(replace(request, model=self._endpoint.model))

    async def submit(self, requests: Sequence[Any], sent: Sent, window: str) -> Any:
        """Submit a job; return what the provider says of it."""
        from dspy.lm15 import BatchRequest

        extensions: Any = None
        if self._endpoint.provider == "openai":
            extensions = {"completion_window": window}
        elif not self._has_labels:
            extensions = {_TOKEN: sent.token}
        model = self._endpoint.model
        batch = BatchRequest(
            model=model,
            requests=tuple(replace(request, model=model) for request in requests),
            label=sent.label if self._has_labels else None,
            extensions=extensions,
        )
        return await self._lm.batch_submit(batch)

    async def status(self, job: str) -> Any:
        return await self._lm.batch_status(job)

    async def cancel(self, job: str) -> Any:
        return await self._lm.batch_cancel(job)

    async def results(self, job: str, sent: Sent) -> dict[int, Any] | None:
        """Return the entries of a job that is done, by their place; None if it is another job."""
        entries = await self._lm.batch_results(job)
        if self._has_labels:
            return {entry.index: entry for entry in entries}
        if any(entry.index // _PLACES != sent.token for entry in entries):
            return None
        return {entry.index % _PLACES: entry for entry in entries}

    async def find(self, sent: Sent, *, known: Sequence[str]) -> list[Any]:
        """Return the jobs that may be this one, the most recent first.

        Where a provider keeps labels there is one at most; elsewhere, its results say whether it is this one.
        """
        found: list[Any] = []
        after: str | None = None
        while True:
            page = await self._page(after)
            for info in page:
                if self._has_labels and info.label == sent.label:
                    return [info]
                if not self._has_labels and info.id not in known and self._may_be(info, sent):
                    found.append(info)
            # A page that is not full may be followed by others: only an empty one is the last.
            last = page[-1] if page else None
            if last is None or last.id == after or _is_before(last, sent.at):
                return found
            if self._endpoint.provider not in _AFTER:
                return found
            after = last.id

    async def _page(self, after: str | None) -> Sequence[Any]:
        lm = copy(self._lm)
        lm.transport = _Transport(self._transport, after)
        return await lm.batch_list(limit=_PAGE)

    @staticmethod
    def _may_be(info: Any, sent: Sent) -> bool:
        counts = cast("dict[str, Any]", (info.provider_data or {}).get("request_counts") or {})
        total = sum(int(count) for count in counts.values())
        return total == sent.count and not _is_before(info, sent.at)


def _is_before(info: Any, at: float) -> bool:
    if info.created_at is None:
        return False
    return datetime.fromisoformat(info.created_at.replace("Z", "+00:00")).timestamp() < at - _SKEW


_TOKEN = "mahsm_token"
"""A field of a submission to Anthropic, which is not sent."""


class _Transport:
    """Sends the HTTP requests of a client, with two things that DSPy's client has no argument for.

    These are the ids of Anthropic's requests, and where a page of a list begins.
    """

    def __init__(self, inner: Any, after: str | None = None) -> None:
        self._inner = inner
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def stream(self, request: Any) -> Any:
        url: str = request.url
        path = urlsplit(url).path
        if request.method == "POST" and path.endswith("/messages/batches"):
            request = replace(request, body=_with_token(request.body))
        elif request.method == "GET" and path.endswith("/batches") and self._after is not None:
            name = _AFTER["anthropic" if path.endswith("/messages/batches") else "openai"]
            parts = urlsplit(url)
            query = urlencode([*parse_qsl(parts.query), (name, self._after)])
            request = replace(request, url=urlunsplit(parts._replace(query=query)))
        return self._inner.stream(request)


def _with_token(body: bytes) -> bytes:
    given = json.loads(body)
    token = int(given.pop(_TOKEN))
    for one in given["requests"]:
        one["custom_id"] = str(token * _PLACES + int(one["custom_id"]))
    return json.dumps(given, separators=(",", ":"), ensure_ascii=False).encode()


def is_passing(error: BaseException) -> bool:
    """Return whether the same HTTP request may succeed later."""
    from dspy.lm15 import RETRYABLE_ERRORS, LM15Error

    return isinstance(error, tuple(RETRYABLE_ERRORS)) or (
        isinstance(error, OSError | asyncio.TimeoutError) and not isinstance(error, LM15Error)
    )
