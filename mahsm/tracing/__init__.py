"""Traces of edge runs, their items and model calls, in Langfuse or any OpenTelemetry backend.

- `_setup`     `init`, `use`, `use_otel`, `off`, and spans of your own
- `_tracer`    the tracer: creates spans, each below its parent
- `_rewards`   `reward`: rewards of routers' choices, as scores; `_choices`: where choices are in traces;
               `_api`: pages of Langfuse's API
- `_edge_span`  the span of an edge run, and its parts; `_elsewhere`: a trace in other processes
- `_backends`  the interface of backends; `_langfuse`, `_otel`: the backends
- `_dspy_spans`  spans of DSPy's modules and tools
- `_cut`       inputs and outputs, cut for traces
- `_options`   options of models, without secrets
- `_internal`  exports for the packages above

Langfuse is imported when it is first used.
"""

from mahsm.tracing._cut import short as short
from mahsm.tracing._rewards import reward as reward
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
    "reward",
    "short",
    "span",
    "use",
    "use_otel",
]
