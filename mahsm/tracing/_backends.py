"""Where spans go: to Langfuse, or to any backend of OpenTelemetry. Both are spans of OpenTelemetry underneath."""

import json
import traceback
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from opentelemetry import context, trace
from opentelemetry.trace import Status, StatusCode

from mahsm._meters import Answer
from mahsm._redact import redacted
from mahsm.tracing._cut import cut

PREFIX = "mahsm."


class Recorded(Protocol):
    """A span that was begun."""

    otel: Any
    """OpenTelemetry's span."""
    output: Any
    """What came out, as it is shown."""

    def note(self, facts: Mapping[str, Any]) -> None: ...
    def show(self, output: Any) -> None: ...
    def used(self, answer: Answer) -> None: ...
    def score(self, name: str, value: float) -> None: ...
    def fail(self, error: BaseException) -> None: ...
    def end(self) -> None: ...


@dataclass(frozen=True)
class Start:
    """What a span begins with.

    Attributes:
        name: Its name.
        kind: One of Langfuse's observation types.
        input: What goes in.
        model: Of a generation: the model's name.
        options: And what it is called with.
        trace_id: The trace that it belongs to, if there is no current span.
    """

    name: str
    kind: str
    input: Any = None
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    trace_id: int | None = None


class Backend(Protocol):
    """Begins spans, as children of OpenTelemetry's current one."""

    def begin(self, start: "Start") -> Recorded:
        """Begin a span."""
        ...

    def adopt(self, observation: Any, kind: str) -> Recorded:
        """Take an observation of Langfuse's that somebody else has begun, and will end."""
        ...

    def attributes(self, given: Mapping[str, Any]) -> AbstractContextManager[Any]:
        """A block whose spans carry these: `session_id`, `user_id`, `tags`, `environment`..."""
        ...

    def flush(self) -> None:
        """Send what has not been sent."""
        ...


class LangfuseBackend:
    """Spans as observations of a Langfuse client.

    Args:
        client: The client.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    @property
    def public_key(self) -> str | None:
        """Which client it is."""
        return getattr(getattr(self.client, "_resources", None), "public_key", None)

    def begin(self, start: Start) -> Recorded:
        more: dict[str, Any] = {}
        if start.kind == "generation":
            more |= {"model": start.model, "model_parameters": dict(start.options)}
        if start.trace_id is not None:
            more["trace_context"] = {"trace_id": f"{start.trace_id:032x}"}
        recorded = _Observation(self.client.start_observation(name=start.name, as_type=start.kind, **more))
        recorded.take(start.input)
        return recorded

    def adopt(self, observation: Any, kind: str) -> Recorded:
        observation._otel_span.set_attribute("langfuse.observation.type", kind)
        return _Observation(observation, own=False)

    def attributes(self, given: Mapping[str, Any]) -> AbstractContextManager[Any]:
        from langfuse import propagate_attributes

        return propagate_attributes(**given)

    def flush(self) -> None:
        self.client.flush()


class _Observation:
    def __init__(self, observation: Any, *, own: bool = True) -> None:
        self._observation = observation
        self._own = own
        self.otel = observation._otel_span
        self.output: Any = None

    def take(self, input: Any) -> None:
        if input is not None and self.otel.is_recording():
            self._observation.update(input=cut(input))

    def note(self, facts: Mapping[str, Any]) -> None:
        if self.otel.is_recording():
            self._observation.update(metadata={f"{PREFIX}{name}": value for name, value in facts.items()})

    def show(self, output: Any) -> None:
        if self.otel.is_recording():
            self.output = cut(output)
            self._observation.update(output=self.output)

    def used(self, answer: Answer) -> None:
        tokens = (0, 0) if answer.cached else (answer.input_tokens, answer.output_tokens)
        usd = 0.0 if answer.cached else answer.usd
        self._observation.update(
            model=answer.model or None,
            usage_details={"input": tokens[0], "output": tokens[1], "total": sum(tokens)},
            cost_details=None if usd is None else {"total": usd},
            metadata={f"{PREFIX}cache_hit": answer.cached},
        )

    def score(self, name: str, value: float) -> None:
        self._observation.score(name=name, value=value, data_type="NUMERIC")

    def fail(self, error: BaseException) -> None:
        self._observation.update(level="ERROR", status_message=_message(error))

    def end(self) -> None:
        if self._own:
            self._observation.end()


class OtelBackend:
    """Spans of OpenTelemetry, with its conventions for generative AI.

    Args:
        provider: Who makes tracers.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("mahsm")

    def begin(self, start: Start) -> Recorded:
        """Begin a span. OpenTelemetry has no siblings without a parent, so a trace id is of no use."""
        attributes: dict[str, Any] = {f"{PREFIX}kind": start.kind}
        if start.kind == "generation":
            provider, _, request = start.model.rpartition("/")
            attributes |= {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": provider or "openai",
                "gen_ai.request.model": request,
                **{f"gen_ai.request.{option}": value for option, value in start.options.items()},
            }
        recorded = _OtelSpan(self._tracer.start_span(start.name, attributes=attributes))
        if start.input is not None and recorded.otel.is_recording():
            recorded.put("input", cut(start.input))
        return recorded

    def adopt(self, observation: Any, kind: str) -> Recorded:
        return _OtelSpan(observation._otel_span, own=False)

    def attributes(self, given: Mapping[str, Any]) -> AbstractContextManager[Any]:
        """They are Langfuse's; OpenTelemetry has resources and baggage for these."""
        return nullcontext()

    def flush(self) -> None:
        self._provider.force_flush()


class _OtelSpan:
    def __init__(self, span: Any, *, own: bool = True) -> None:
        self._own = own
        self.otel = span
        self.output: Any = None

    def put(self, what: str, value: Any) -> None:
        self.otel.set_attribute(f"{PREFIX}{what}", json.dumps(value, default=str))

    def note(self, facts: Mapping[str, Any]) -> None:
        if self.otel.is_recording():
            self.otel.set_attributes({f"{PREFIX}{name}": value for name, value in facts.items()})

    def show(self, output: Any) -> None:
        if self.otel.is_recording():
            self.output = cut(output)
            self.put("output", self.output)

    def used(self, answer: Answer) -> None:
        tokens = (0, 0) if answer.cached else (answer.input_tokens, answer.output_tokens)
        found = {"gen_ai.usage.input_tokens": tokens[0], "gen_ai.usage.output_tokens": tokens[1]}
        self.otel.set_attributes({**found, "gen_ai.response.model": answer.model, f"{PREFIX}cache_hit": answer.cached})
        if answer.usd is not None:
            self.note({"cost_usd": 0.0 if answer.cached else answer.usd})

    def score(self, name: str, value: float) -> None:
        self.note({f"score.{name.removeprefix(PREFIX)}": value})

    def fail(self, error: BaseException) -> None:
        if self.otel.is_recording():
            trace_back = redacted("".join(traceback.format_exception(error)))
            shown = {"exception.message": redacted(str(error)), "exception.stacktrace": trace_back}
            self.otel.record_exception(error, shown)
        self.otel.set_status(Status(StatusCode.ERROR, _message(error)))

    def end(self) -> None:
        if self._own:
            self.otel.end()


class Unseen:
    """Stands for a span that is not shown; what is inside belongs to the one around it."""

    output: Any = None

    def __init__(self, otel: Any) -> None:
        self.otel = otel

    def note(self, facts: Mapping[str, Any]) -> None:
        """Nobody looks."""

    def show(self, output: Any) -> None:
        """Nobody looks."""

    def used(self, answer: Answer) -> None:
        """The edge run around it says what it took."""

    def score(self, name: str, value: float) -> None:
        """Nobody looks."""

    def fail(self, error: BaseException) -> None:
        """Nobody looks."""

    def end(self) -> None:
        """It was never begun."""


@contextmanager
def running(recorded: Recorded) -> Generator[None, None, None]:
    """A block that is a span: current in it, failed if the block fails, and ended with it."""
    token = context.attach(trace.set_span_in_context(recorded.otel))
    try:
        yield
    except BaseException as error:
        recorded.fail(error)
        raise
    finally:
        context.detach(token)
        recorded.end()


def _message(error: BaseException) -> str:
    return redacted(f"{type(error).__name__}: {error}")[:500]
