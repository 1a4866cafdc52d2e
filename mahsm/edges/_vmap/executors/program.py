"""The program of one edge run: what its parts need in a worker."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from mahsm import _spans
from mahsm._model_calls import is_recorded, meters
from mahsm.edges._vmap.executors.crossing import Program
from mahsm.edges._vmap.executors.engines import engine_of
from mahsm.edges._vmap.run import VmapRun
from mahsm.limits import RateLimit
from mahsm.limits._internal import Limited
from mahsm.nodes._internal import provider_of


def program_of(run: VmapRun) -> Program:
    """Return the program of a run."""
    spec = run.spec
    assert spec.crosses is not None
    config = run.config
    own: Mapping[str, Any] = config.get("configurable", {})
    plain = {key: value for key, value in own.items() if not key.startswith("__")}
    thread = {key: plain.pop(key) for key in ("thread_id", "checkpoint_id", "checkpoint_ns") if key in plain}
    key = spec.batch.batch_key
    return Program(
        target=spec.crosses["target"],
        arguments=_arguments(run),
        state={name: value for name, value in run.inherited.items() if name != key},
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
        dspy=_dspy_settings(),
        trace=_trace(),
    )


def _counts(run: VmapRun) -> bool:
    """Return whether anything here counts calls of models."""
    looks = run.span is not None or bool(run.spec.progress)
    return looks or run.spec.target.reports or bool(meters()) or is_recorded()


def _arguments(run: VmapRun) -> dict[str, Any]:
    """Return the arguments of `vmap` in a worker."""
    spec = run.spec
    assert spec.crosses is not None
    arguments = {name: value for name, value in spec.crosses.items() if name != "target"}
    if spec.tries.rate_limit is not None:
        arguments["rate_limit"] = _share(run)
    return arguments


def _share(run: VmapRun) -> RateLimit:
    """Return a worker's share of the edge's rate limit."""
    spec = run.spec
    assert spec.tries.rate_limit is not None
    limited = Limited.of(spec.tries.rate_limit, partial(provider_of, spec.target.model), spec.tries.retry)
    limit = limited.limit
    workers = min(engine_of(run.name, spec.executor).workers, spec.concurrency.max_concurrency)

    def share(value: float | None, least: float = 0.0) -> float | None:
        return None if value is None else max(least, value / workers)

    return replace(
        limit,
        provider=f"{limited.provider} (1/{workers})",
        rps=share(limit.rps),
        rpm=share(limit.rpm),
        tpm=share(limit.tpm),
        burst=share(limit.burst, 1),
        token_burst=share(limit.token_burst, 1),
    )


def _dspy_settings() -> dict[str, Any]:
    """Return DSPy's settings that workers need: the language model, which crosses without its key."""
    dspy: Any = sys.modules.get("dspy")
    if dspy is None:
        return {}
    if dspy.settings.lm is None:
        return {}
    from mahsm._model_calls.dspy.adapters import plain_adapter

    return {"lm": dspy.settings.lm, "adapter": plain_adapter(dspy.settings.adapter)}


def _trace() -> dict[str, str]:
    """Return the headers of the trace around, if there is one."""
    headers: dict[str, str] = {}
    if _spans.tracer() is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(headers)
    return headers
