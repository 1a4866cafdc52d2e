"""A provider's bucket for LangChain's chat models."""

from collections.abc import Mapping
from typing import Any

from langchain_core.rate_limiters import BaseRateLimiter

from mahsm._model_calls import calls
from mahsm._waiting import TASK, THREAD, Way, left_behind, run_blocking
from mahsm.limits import _registry
from mahsm.limits._admission import Admission, Limited
from mahsm.limits._line import Line
from mahsm.limits._rate_limit import RateLimit


class LangChainLimiter(BaseRateLimiter):
    """Admits a chat model's calls at the bucket of their provider, like all others. Made by `langchain`."""

    def __init__(self, provider: str, key: object) -> None:
        self._provider = provider
        self._key = key
        self._last = _registry.bucket(provider, key)

    @property
    def _bucket(self) -> Line:
        """The bucket of now: it is another one when sharing begins or ends."""
        if _registry.is_defined(self._provider):
            self._last = _registry.bucket(self._provider, self._key)
        return self._last

    def acquire(self, *, blocking: bool = True) -> bool:
        return run_blocking(self._acquired(THREAD, may_wait=blocking))

    async def aacquire(self, *, blocking: bool = True) -> bool:
        return await self._acquired(TASK, may_wait=blocking)

    async def _acquired(self, way: Way, *, may_wait: bool) -> bool:
        let = (
            self._is_covered() or await self._bucket.acquire(way, self._tokens, may_wait=may_wait) is not None
        )
        # LangChain makes the call whatever this returns, so a call that is left behind is refused here.
        left_behind.check()
        return let

    @property
    def _tokens(self) -> float:
        """The mean of recent calls: LangChain asks before the prompt is known, and reports no tokens."""
        return self._bucket.estimates.mean if self._bucket.rates.token_rate is not None else 0.0

    def _is_covered(self) -> bool:
        around = calls.here().gate
        return isinstance(around, Admission) and around.bucket is self._bucket and around.cover()


def langchain(rate_limit: RateLimit | Mapping[str, Any] | str, *, key: object = None) -> BaseRateLimiter:
    """Return a rate limiter for LangChain's chat models that takes from the bucket of a provider.

    In an edge whose items wait for the same bucket, an item's first call does not wait again.

    Args:
        rate_limit: A `RateLimit` with a provider, its arguments as a dict, or the name of a provider that has
            one.
        key: The key of the provider's bucket, if it has several.

    Raises:
        LimitError: immediately, if the provider has no limit.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> from mahsm import RateLimit, limits
        >>> limiter = limits.langchain(RateLimit("langchain-example", rps=100))
        >>> FakeListChatModel(responses=["hello"], rate_limiter=limiter).invoke("hi").content
        'hello'
    """
    limited = Limited.of(RateLimit.of(rate_limit), lambda: None)
    return LangChainLimiter(limited.provider, key)
