"""The program of one edge run: what its parts need in a worker."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mahsm import _spans
from mahsm._model_calls import is_recorded, meters
from mahsm._redis import may_hold_password
from mahsm.edges._vmap.run import VmapRun
from mahsm.limits import RateLimit
from mahsm.limits._internal import Limited, shared
from mahsm.nodes._internal import provider_of, settings_elsewhere


@dataclass(frozen=True)
class Program:
    """What a worker needs for the parts of one edge run.

    Attributes:
        make: Makes the edge, given the items at a time.
        rate_limit: The edge's rate limit, with its provider.
        sharing: The arguments of `limits.share` for workers that have not called it.
        state: The part of the parent's state that targets see, without the batch.
        batch_key: The key of the batch, which is not in the state.
        config: What of the config of the edge's node targets may read, without the thread.
        thread: The thread's part of it.
        total: The number of items of the whole batch.
        updates: True if the parent needs the updates of the items, and not their entries.
        counts: True if calls of models are reported.
        dspy: Returns a block with DSPy's settings, if a model is set.
        trace: Returns a block in the trace around, if there is one.
    """

    make: "partial[Any]"
    rate_limit: RateLimit | None
    sharing: tuple[str, Any] | None
    state: Mapping[str, Any]
    batch_key: str | None
    config: Mapping[str, Any]
    thread: Mapping[str, Any]
    total: int
    updates: bool
    counts: bool
    dspy: Callable[[], AbstractContextManager[Any]] | None
    trace: Callable[[], AbstractContextManager[Any]] | None


def program_of(run: VmapRun, make: "partial[Any]") -> Program:
    """Return the program of a run."""
    spec, config, tracer = run.spec, run.config, _spans.tracer()
    own: Mapping[str, Any] = config.get("configurable", {})
    plain = {key: value for key, value in own.items() if not key.startswith("__")}
    thread = {key: plain.pop(key) for key in ("thread_id", "checkpoint_id", "checkpoint_ns") if key in plain}
    key = spec.batch.batch_key
    return Program(
        make=make,
        rate_limit=None if spec.tries.rate_limit is None else _named(run, spec.tries.rate_limit),
        sharing=_sharing(),
        state={name: value for name, value in run.states.inherited.items() if name != key},
        batch_key=key,
        config={
            "configurable": plain,
            "metadata": {**config.get("metadata", {})},
            "tags": list(config.get("tags") or ()),
        },
        thread={name: thread[name] for name in thread if name == "thread_id"},
        total=run.total,
        updates=spec.batch.cache is not None,
        counts=_counts(run),
        dspy=settings_elsewhere(),
        trace=None if tracer is None else tracer.elsewhere(),
    )


def _counts(run: VmapRun) -> bool:
    """Return whether anything here counts calls of models."""
    looks = run.span is not None or bool(run.spec.progress)
    return looks or run.spec.target.reports or bool(meters()) or is_recorded()


def _named(run: VmapRun, given: RateLimit | str) -> RateLimit:
    """Return the edge's rate limit, with the name of its provider."""
    spec = run.spec
    limited = Limited.of(given, partial(provider_of, spec.target.model), spec.tries.retry)
    return replace(limited.limit, provider=limited.provider)


def _sharing() -> tuple[str, Any] | None:
    """Return the arguments of `limits.share`, if this process has called it with a URL without a password."""
    found = shared()
    return found if found is not None and not may_hold_password(found[0]) else None


def share_of(limit: RateLimit, workers: int) -> RateLimit:
    """Return a worker's share of a rate limit."""

    def share(value: float | None, least: float = 0.0) -> float | None:
        return None if value is None else max(least, value / workers)

    return replace(
        limit,
        provider=f"{limit.provider} (1/{workers})",
        rps=share(limit.rps),
        rpm=share(limit.rpm),
        tpm=share(limit.tpm),
        burst=share(limit.burst, 1),
        token_burst=share(limit.token_burst, 1),
    )
