"""OpenTelemetry backends: spans that follow its semantic conventions for generative AI."""

import json
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, cast

from opentelemetry.trace import SpanKind, Status, StatusCode

from mahsm._common import Answer, redacted
from mahsm.tracing._backends import PREFIX, Recorded, Start, message_of
from mahsm.tracing._choices import Place
from mahsm.tracing._cut import cut

_OPERATIONS = {
    "generation": "chat",
    "embedding": "embeddings",
    "tool": "execute_tool",
    "retriever": "retrieval",
    "agent": "invoke_agent",
}
"""From kinds of spans to operations of the conventions. Each span also has `langfuse.observation.type`, which
Langfuse reads."""

_PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""From LiteLLM's names of providers to those of the conventions, where they differ."""

_REQUEST = {
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "n": "choice.count",
    "stop": "stop_sequences",
}
"""From names of options to those of the conventions, where they differ."""

_SHOWN = {
    "generation": ("gen_ai.input.messages", "gen_ai.output.messages"),
    "tool": ("gen_ai.tool.call.arguments", "gen_ai.tool.call.result"),
}
"""Attributes for input and output; other kinds use those of OpenInference, which many backends read."""


class OtelBackend:
    """Spans of an OpenTelemetry `TracerProvider`.

    Args:
        provider: The provider.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("mahsm")

    def begin(self, start: Start) -> Recorded:
        """Begin a span. `start.beside` has no effect: OpenTelemetry has no siblings without a parent."""
        attributes: dict[str, Any] = {f"{PREFIX}kind": start.kind, "langfuse.observation.type": start.kind}
        if (operation := _OPERATIONS.get(start.kind)) is not None:
            attributes["gen_ai.operation.name"] = operation
        if start.kind == "tool":
            attributes["gen_ai.tool.name"] = start.name
        if start.kind == "generation":
            attributes |= _request(start)
        span_kind = SpanKind.CLIENT if start.kind == "generation" else SpanKind.INTERNAL
        recorded = _OtelSpan(
            self._tracer.start_span(start.name, kind=span_kind, attributes=attributes), start.kind
        )
        if start.input is not None and recorded.otel.is_recording():
            recorded.put(0, cut(start.input))
        return recorded

    def attributes(self, given: Mapping[str, Any]) -> AbstractContextManager[Any]:
        """No-op: OpenTelemetry has resources and baggage for such attributes."""
        return nullcontext()

    def flush(self) -> None:
        self._provider.force_flush()


def _request(start: Start) -> dict[str, Any]:
    provider, _, model = start.model.rpartition("/")
    provider = provider.partition("/")[0] or "openai"
    found: dict[str, Any] = {
        "gen_ai.provider.name": _PROVIDERS.get(provider, provider),
        "gen_ai.request.model": model,
        **{
            f"gen_ai.request.{_REQUEST.get(option, option)}": value for option, value in start.options.items()
        },
    }
    if isinstance(stop := found.get("gen_ai.request.stop_sequences"), str):
        found["gen_ai.request.stop_sequences"] = [stop]
    if (asked := found.pop("gen_ai.request.response_format", None)) is not None:
        found["gen_ai.output.type"] = "text" if asked == "text" else "json"
    if start.prompt is not None and not start.prompt.is_fallback:
        found["langfuse.observation.prompt.name"] = start.prompt.name
        found["langfuse.observation.prompt.version"] = start.prompt.version
    return found


class _OtelSpan:
    def __init__(self, span: Any, kind: str) -> None:
        self.otel = span
        self.output: Any = None
        self._kind = kind
        self._began = datetime.now(UTC)

    def put(self, which: int, value: Any) -> None:
        """Set the input, if `which` is 0, or the output, if it is 1."""
        name = _SHOWN.get(self._kind, ("input.value", "output.value"))[which]
        shown = _messages(value, ("user", "assistant")[which]) if self._kind == "generation" else value
        self.otel.set_attribute(name, json.dumps(shown, default=str))

    def note(self, facts: Mapping[str, Any]) -> None:
        if self.otel.is_recording():
            self.otel.set_attributes({f"{PREFIX}{name}": value for name, value in facts.items()})

    def show(self, output: Any) -> None:
        if self.otel.is_recording():
            self.output = cut(output)
            self.put(1, self.output)

    def begun(self) -> None:
        now = datetime.now(UTC)
        self.otel.set_attributes(
            {
                "gen_ai.response.time_to_first_chunk": (now - self._began).total_seconds(),
                "langfuse.observation.completion_start_time": now.isoformat(),
            }
        )

    def used(self, answer: Answer) -> None:
        found: dict[str, Any] = {"gen_ai.response.model": answer.model, f"{PREFIX}cache_hit": answer.cached}
        tokens = {
            "input_tokens": answer.input_tokens,
            "output_tokens": answer.output_tokens,
            "cache_read.input_tokens": answer.cache_read_tokens,
            "cache_creation.input_tokens": answer.cache_creation_tokens,
            "reasoning.output_tokens": answer.reasoning_tokens,
        }
        needed = ("input_tokens", "output_tokens")
        for name, value in tokens.items():
            if value or name in needed:
                found[f"gen_ai.usage.{name}"] = 0 if answer.cached else value
        if answer.usd is not None:
            found["gen_ai.usage.cost"] = 0.0 if answer.cached else answer.usd
        self.otel.set_attributes(found)

    def score(self, name: str, value: float) -> None:
        self.note({f"score.{name.removeprefix(PREFIX)}": value})

    def place(self) -> Place | None:
        return None

    def fail(self, error: BaseException) -> None:
        if self.otel.is_recording():
            trace_back = redacted("".join(traceback.format_exception(error)))
            shown = {"exception.message": redacted(str(error)), "exception.stacktrace": trace_back}
            self.otel.record_exception(error, shown)
            self.otel.set_attribute("error.type", type(error).__qualname__)
        self.otel.set_status(Status(StatusCode.ERROR, message_of(error)))

    def stop(self, why: str) -> None:
        self.note({"stopped": why})

    def end(self) -> None:
        self.otel.end()


def _messages(value: Any, role: str) -> list[dict[str, Any]]:
    """Convert a DSPy prompt or answer to messages of the conventions."""
    entries: Sequence[Any] = cast("Sequence[Any]", value) if isinstance(value, list) else [value]
    return [_message(entry, role) for entry in entries]


def _message(entry: Any, role: str) -> dict[str, Any]:
    found = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {"content": entry}
    content = found.get("content", found.get("text", found))
    text = content if isinstance(content, str) else json.dumps(content, default=str)
    return {"role": found.get("role", role), "parts": [{"type": "text", "content": text}]}
