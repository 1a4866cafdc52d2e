"""A trace that goes on in another process, by W3C's headers."""

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from opentelemetry import context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mahsm import _spans


def elsewhere() -> Callable[[], AbstractContextManager[None]]:
    """Return a function that crosses to other processes; it returns a block in the trace of this one."""
    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return partial(_inside, headers)


@contextmanager
def _inside(headers: Mapping[str, str]) -> Generator[None, None, None]:
    from mahsm import tracing

    if _spans.tracer() is None and os.environ.get("LANGFUSE_PUBLIC_KEY"):
        tracing.init()
    token = context.attach(TraceContextTextMapPropagator().extract(headers))
    try:
        yield
    finally:
        context.detach(token)
        # A worker may be killed, and a process of a pool ends without its exit handlers.
        tracing.flush()
