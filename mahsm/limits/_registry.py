"""The limits and buckets of all providers, one registry for the whole process."""

import asyncio
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

from mahsm import _redis
from mahsm._waiting import tasks
from mahsm.errors import LimitError
from mahsm.limits._bucket import Bucket
from mahsm.limits._line import Line
from mahsm.limits._rate_limit import RateLimit
from mahsm.limits._shared import IfDown, SharedBucket
from mahsm.limits._sharing import Sharing
from mahsm.limits._stats import LimitStats
from mahsm.policies._internal import forget_retry_budget


class _Registry:
    def __init__(self) -> None:
        self.sharing: Sharing | None = None
        self.forget_all()
        # A fork has no thread for the loop of the buckets.
        os.register_at_fork(after_in_child=self.forget_all)

    def forget_all(self) -> None:
        self.lock = threading.Lock()
        self.limits: dict[str, RateLimit] = {}
        self.buckets: dict[tuple[str, object], Line] = {}


_registry = _Registry()


def define(provider: str, limit: RateLimit) -> None:
    """Define the limit of a provider; defining the same one again has no effect.

    Raises:
        LimitError: if the provider has another limit.
    """
    with _registry.lock:
        known = _registry.limits.setdefault(provider, limit)
    if known.rates != limit.rates:
        raise LimitError(
            f"two limits for {provider!r}: {_shown(known)} here, and {_shown(limit)} there. Define it once "
            f"and pass rate_limit={provider!r} elsewhere, or call mahsm.limits.forget({provider!r}) before "
            "it changes."
        )


def defined(provider: str) -> RateLimit:
    """Return the limit of a provider.

    Raises:
        LimitError: if none is defined.
    """
    with _registry.lock:
        limit, known = _registry.limits.get(provider), sorted(_registry.limits)
    if limit is None:
        there = f"there are {', '.join(map(repr, known))}" if known else "there are no limits yet"
        raise LimitError(
            f"no limit is defined for {provider!r}; {there}. Pass RateLimit({provider!r}, rps=...) once."
        )
    return limit


def is_defined(provider: str) -> bool:
    """Return whether the provider has a limit."""
    return provider in _registry.limits


def resolved(limit: RateLimit | str) -> RateLimit | str:
    """Return the limit for a name, if it is defined by now; define a limit that has a provider."""
    if isinstance(limit, str):
        with _registry.lock:
            known = _registry.limits.get(limit)
        return limit if known is None else replace(known, provider=limit)
    if limit.provider is not None:
        define(limit.provider, limit)
    return limit


def bucket(provider: str, key: object = None) -> Line:
    """Return the bucket of a provider and key.

    Raises:
        LimitError: if the provider has no limit, or if it is shared and the key may differ between processes.
    """
    with _registry.lock:
        found = _registry.buckets.get((provider, key))
    if found is not None:
        return found
    rates = defined(provider).rates
    name = provider if key is None else f"{provider}/{key}"
    with _registry.lock:
        if (found := _registry.buckets.get((provider, key))) is None:
            sharing = _registry.sharing
            found = _registry.buckets[provider, key] = (
                Bucket(name, rates, tasks.limits_loop(), provider)
                if sharing is None
                else sharing.bucket(name, provider, key, rates)
            )
        return found


@contextmanager
def limits_on(loop: asyncio.AbstractEventLoop) -> Generator[None, None, None]:
    """Run rate limits and timers on this loop in the block, with new buckets, which are not shared."""
    with _registry.lock:
        kept, _registry.buckets = _registry.buckets, {}
        sharing, _registry.sharing = _registry.sharing, None
    try:
        with tasks.limits_on(loop):
            yield
    finally:
        with _registry.lock:
            _registry.buckets, _registry.sharing = kept, sharing


def share(url: str | None, if_down: IfDown = "wait") -> None:
    """Share the limits of this process with all others that share them by the same Redis.

    All of them together then keep to each `RateLimit`, as the edges of one process do without it. Call this
    once in each process, before edges run: in a worker of a pool, in its initializer. A fork goes on sharing.

    Args:
        url: Where Redis is, such as `"redis://localhost:6379/0"`; `rediss://` for TLS. None ends the sharing;
            limits are those of this process again.
        if_down: What happens while Redis cannot be reached. "wait": no call begins; calls that wait keep
            their place. "local": each process takes its part of the rate, `rate / processes`. "raise": calls
            that would begin raise a `LimitError`. In each case, all is as before when Redis is back.

    Raises:
        LimitError: immediately, for invalid values; if limits are shared differently already; and if calls
            wait in line.
        ImportError: if redis-py is missing.

    Example:
        >>> from mahsm import limits
        >>> limits.share("redis://localhost:6379/0")
        >>> limits.share(None)
    """
    sharing = None if url is None else Sharing.of(url, if_down)
    # Asked on the loops of the buckets, so that those that have just given up are not in line any more.
    waiting = sorted({bucket.provider for bucket in _buckets() if bucket.stats().waiting})
    with _registry.lock:
        before = _registry.sharing
        if sharing == before:
            return
        if sharing is not None and before is not None:
            raise LimitError(
                f"limits are shared by {before.address} with if_down={before.if_down!r}; it cannot be "
                f"{sharing.address} with if_down={sharing.if_down!r}, too. Call limits.share(None) first."
            )
        if waiting:
            raise LimitError(
                f"calls wait in line for {', '.join(map(repr, waiting))}. Call limits.share before edges "
                "run, or when they have ended."
            )
        ended, _registry.buckets = list(_registry.buckets.values()), {}
        _registry.sharing = sharing
    for bucket in ended:
        if isinstance(bucket, SharedBucket):
            bucket.close()
    if before is not None:
        _redis.close(before.server)


def shared() -> tuple[str, IfDown] | None:
    """Return the arguments of `share` that are in force, for processes that do work of this one."""
    sharing = _registry.sharing
    return None if sharing is None else (sharing.url, sharing.if_down)


def stats() -> dict[str, LimitStats]:
    """Return the statistics of each bucket, by `provider` or `provider/key`.

    Example:
        >>> from mahsm import RateLimit, limits, vmap
        >>> limit = RateLimit("stats-example", rps=1000)
        >>> edge = vmap(lambda state: state["item"] + 1, batch_key="xs", out_key="ys", rate_limit=limit)
        >>> edge.invoke({"xs": [1, 2]})
        {'ys': [2, 3]}
        >>> limits.stats()["stats-example"].admitted
        2
    """
    return {bucket.name: bucket.stats() for bucket in _buckets()}


def _buckets() -> list[Line]:
    with _registry.lock:
        return list(_registry.buckets.values())


def forget(provider: str) -> None:
    """Forget a provider's limit, its buckets and their statistics, so that it can be defined anew.

    Calls that wait in line stay in the old buckets.

    Example:
        >>> from mahsm import RateLimit, limits, vmap
        >>> for rps in (100, 200):
        ...     limits.forget("forget-example")
        ...     limit = RateLimit("forget-example", rps=rps)
        ...     edge = vmap(lambda state: state["item"], batch_key="xs", out_key="ys", rate_limit=limit)
    """
    with _registry.lock:
        _registry.limits.pop(provider, None)
        for name in [name for name in _registry.buckets if name[0] == provider]:
            bucket = _registry.buckets.pop(name)
            if isinstance(bucket, SharedBucket):
                bucket.close()
    forget_retry_budget(provider)


def _shown(limit: RateLimit) -> str:
    given = {name: getattr(limit, name) for name in ("rps", "burst", "rpm", "tpm", "token_burst")}
    return (
        f"RateLimit({', '.join(f'{name}={value:g}' for name, value in given.items() if value is not None)})"
    )
