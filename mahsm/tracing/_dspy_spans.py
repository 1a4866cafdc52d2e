"""Spans of DSPy's modules and tools. Spans of its model calls begin where these calls are observed."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from dspy import Retrieve
from dspy.utils.callback import BaseCallback
from opentelemetry import context, trace

from mahsm._model_calls import restored_context
from mahsm.tracing._backends import Recorded, Start, broke_off


def is_instrumented() -> bool:
    """Return whether OpenInference's instrumentation already traces DSPy's calls."""
    module: Any = sys.modules.get("openinference.instrumentation.dspy")
    return module is not None and bool(module.DSPyInstrumentor().is_instrumented_by_opentelemetry)


class ModuleSpans(BaseCallback):
    """A span for each call of a module or tool.

    Args:
        begin: Begins a span.
    """

    def __init__(self, begin: Callable[[Start], Recorded]) -> None:
        self._begin_span = begin
        self._open: dict[str, tuple[Recorded, Any, AbstractContextManager[None]]] = {}

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        kind = "retriever" if isinstance(instance, Retrieve) else "chain"
        self._begin(call_id, type(instance).__name__, kind, inputs.get("kwargs") or inputs)

    def on_module_end(
        self, call_id: str, outputs: Any | None, exception: BaseException | None = None
    ) -> None:
        self._end(call_id, outputs, exception)

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._begin(call_id, str(instance.name), "tool", inputs.get("kwargs", inputs))

    def on_tool_end(
        self, call_id: str, outputs: dict[str, Any] | None, exception: BaseException | None = None
    ) -> None:
        self._end(call_id, outputs, exception)

    def _begin(self, call_id: str, name: str, kind: str, inputs: Any) -> None:
        # A thread of `dspy.Parallel` has not inherited the context variable of the current span.
        around = restored_context()
        around.__enter__()
        recorded = self._begin_span(Start(name, kind, inputs))
        self._open[call_id] = recorded, context.attach(trace.set_span_in_context(recorded.otel)), around

    def _end(self, call_id: str, outputs: Any, exception: BaseException | None) -> None:
        recorded, token, around = self._open.pop(call_id)
        if exception is None:
            recorded.show(outputs)
        else:
            broke_off(recorded, exception)
        context.detach(token)
        recorded.end()
        around.__exit__(None, None, None)
