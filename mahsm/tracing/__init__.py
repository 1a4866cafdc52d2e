"""Traces: one span for each edge run, and what happened inside, in Langfuse or any backend of OpenTelemetry.

- `_setup`     `init`, `use`, `use_otel`, `off`, and spans of the user's own
- `_tracer`    makes spans, each below the one that it belongs to
- `_edge_span`  the span of an edge run, and its parts
- `_backends`  what a backend is; `_langfuse`, `_otel`: those that there are
- `_dspy_spans`  DSPy's modules and tools
- `_cut`       inputs and outputs, small enough for a trace; `_options`: those of models, without secrets

Langfuse is imported when it is first used.
"""

from mahsm.tracing._cut import short as short
from mahsm.tracing._setup import Span as Span
from mahsm.tracing._setup import attributes as attributes
from mahsm.tracing._setup import experiment as experiment
from mahsm.tracing._setup import flush as flush
from mahsm.tracing._setup import handler as handler
from mahsm.tracing._setup import init as init
from mahsm.tracing._setup import observe as observe
from mahsm.tracing._setup import off as off
from mahsm.tracing._setup import prompt as prompt
from mahsm.tracing._setup import span as span
from mahsm.tracing._setup import use as use
from mahsm.tracing._setup import use_otel as use_otel

__all__ = [
    "Span",
    "attributes",
    "experiment",
    "flush",
    "handler",
    "init",
    "observe",
    "off",
    "prompt",
    "short",
    "span",
    "use",
    "use_otel",
]
