"""Langfuse: spans as observations of its client, and all uses of its private names.

A run that has Langfuse's handler belongs to the handler's client: all of its spans go there, even if another
client or backend is in use.
"""

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any

from langgraph.errors import GraphBubbleUp
from langgraph.types import Command
from opentelemetry import trace

from mahsm._common import Answer
from mahsm.tracing._backends import PREFIX, Recorded, Start, failure, message_of, stopped
from mahsm.tracing._choices import Place
from mahsm.tracing._cut import bounded, cut

# Private names of Langfuse.
#
# Langfuse has no public way to find its handler's observation of a run, and to make it the parent of other
# spans. So these functions read private names, and no other module does. `tests/tracing/test_langfuse.py` has
# a test for each, so a new version of Langfuse that lacks one fails there, and not in a user's trace.


def _private(owner: Any, name: str) -> Any:
    """Return a private attribute of a Langfuse object.

    Raises:
        RuntimeError: if this version of Langfuse lacks it.
    """
    try:
        return getattr(owner, name)
    except AttributeError:
        raise RuntimeError(
            f"mahsm.tracing reads {name!r} of Langfuse's {type(owner).__name__}, which langfuse "
            f"{version('langfuse')} does not have. Install a version of langfuse that this version of mahsm "
            "is tested with (5.0), or a newer mahsm."
        ) from None


def public_key_of(client: Any) -> str | None:
    """Return the public key of a client, or None if the client is disabled."""
    resources = _private(client, "_resources")
    return None if resources is None else resources.public_key


def client_of(handler: Any) -> Any:
    """Return the client that a handler, or an observation, sends to."""
    return _private(handler, "_langfuse_client")


def runs_of(handler: Any) -> dict[Any, Any]:
    """Return a handler's observations of runs that have not ended, by run id."""
    return _private(handler, "_runs")


def span_of(observation: Any) -> Any:
    """Return the OpenTelemetry span of an observation."""
    return _private(observation, "_otel_span")


def set_type(observation: Any, kind: str) -> None:
    """Change the type of an observation; later updates write the new type, too."""
    if _private(observation, "_observation_type") != kind:
        observation._observation_type = kind
        span_of(observation).set_attribute("langfuse.observation.type", kind)


def masked_by_client(observation: Any, text: str) -> str:
    """Return the string after the `mask` of the observation's client."""
    return str(_private(observation, "_mask_attribute")(data=text))


def masked_text(client: Any, text: str) -> str:
    """Return the string after the `mask` of a client, which scores do not go through by themselves."""
    mask = _private(client, "_mask")
    try:
        return text if mask is None else str(mask(data=text))
    except Exception:  # noqa: BLE001  what Langfuse does for inputs and outputs
        return "<fully masked due to failed mask function>"


# The handler and the backend, built on these.


def handler_in(manager: Any) -> Any:
    """Return Langfuse's handler among the callbacks of a config, or None."""
    module: Any = sys.modules.get("langfuse.langchain")
    if module is None or manager is None:
        return None
    handlers: Any = getattr(manager, "handlers", manager)
    return next((handler for handler in handlers if isinstance(handler, module.CallbackHandler)), None)


def observation_of(manager: Any, run_id: Any) -> Any:
    """Return the observation of a run by Langfuse's handler, or None."""
    handler = handler_in(manager)
    return None if handler is None else runs_of(handler).get(run_id)


def adopted(manager: Any, run_id: Any, kind: str) -> Recorded | None:
    """Return the span of a run that Langfuse's handler has begun and will end, or None."""
    handler = handler_in(manager)
    observation = None if handler is None else runs_of(handler).get(run_id)
    if observation is None:
        return None
    set_type(observation, kind)
    return _Adopted(observation, lambda: runs_of(handler).pop(run_id, None))


def handler_for(client: Any) -> Any:
    """Return Langfuse's handler for LangChain, for one client.

    Large inputs and outputs are cut, and its spans describe errors like those of edges.
    """
    # Without a key, the handler would choose a client itself.
    handler = _handler_class()(public_key=public_key_of(client) or "switched off")
    handler._langfuse_client = client
    return handler


@cache
def _handler_class() -> type[Any]:
    from langfuse.langchain import CallbackHandler

    class Handler(CallbackHandler):
        def on_chain_start(self, serialized: Any, inputs: Any, **more: Any) -> None:
            super().on_chain_start(
                serialized, inputs if isinstance(inputs, Command) else bounded(inputs), **more
            )

        def on_chain_end(self, outputs: Any, **more: Any) -> None:
            super().on_chain_end(bounded(outputs), **more)

    def of(name: str) -> Any:
        def on_error(self: Any, error: BaseException, *, run_id: Any, **more: Any) -> None:
            getattr(CallbackHandler, name)(self, _told(self, error, run_id), run_id=run_id, **more)

        return on_error

    for name in ("on_chain_error", "on_tool_error", "on_retriever_error", "on_llm_error"):
        setattr(Handler, name, of(name))
    Handler.__name__ = Handler.__qualname__ = CallbackHandler.__name__
    return Handler


def _told(handler: Any, error: BaseException, run_id: Any) -> BaseException:
    """Return the error to pass to the handler: type and message, without secrets, after the client's mask.

    A run that was stopped on purpose is ended here, since the handler would show an error.
    """
    observation = runs_of(handler).get(run_id)
    # An interrupt is not an error, and the handler knows it.
    if observation is None or isinstance(error, GraphBubbleUp):
        return error
    if (why := stopped(error, anywhere=True)) is not None:
        recorded = _Observation(runs_of(handler).pop(run_id))
        recorded.stop(why)
        recorded.end()
        return error
    return Exception(masked_by_client(observation, message_of(failure(error))))


class LangfuseBackend:
    """Spans as observations of a Langfuse client.

    Args:
        client: The client.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    def begin(self, start: Start) -> Recorded:
        more: dict[str, Any] = {}
        if start.kind == "generation":
            more = {"model": start.model, "model_parameters": dict(start.options), "prompt": start.prompt}
        with _beside(start.beside):
            recorded = _Observation(
                self.client.start_observation(name=start.name, as_type=start.kind, **more)
            )
        recorded.take(start.input)
        return recorded

    def attributes(self, given: Mapping[str, Any]) -> AbstractContextManager[Any]:
        from langfuse import propagate_attributes

        return propagate_attributes(**given)

    def flush(self) -> None:
        self.client.flush()


def _beside(other: trace.SpanContext | None) -> AbstractContextManager[Any]:
    """Return a block whose spans are siblings of another one, in its trace.

    Their parent is a span that is never sent, with an id that is derived from the trace's id. A second span
    without a parent would rename the trace.
    """
    if other is None:
        return nullcontext()
    unseen = other.trace_id & (2**64 - 1) or 1
    parent = trace.SpanContext(other.trace_id, unseen, is_remote=False, trace_flags=other.trace_flags)
    return trace.use_span(trace.NonRecordingSpan(parent))


class _Observation:
    def __init__(self, observation: Any) -> None:
        self._observation = observation
        self.otel = span_of(observation)
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

    def begun(self) -> None:
        self._observation.update(completion_start_time=datetime.now(UTC))

    def used(self, answer: Answer) -> None:
        usd = 0.0 if answer.cached else answer.usd
        self._observation.update(
            model=answer.model or None,
            usage_details=_usage(answer),
            cost_details=None if usd is None else {"total": usd},
            metadata={f"{PREFIX}cache_hit": answer.cached},
        )

    def score(self, name: str, value: float) -> None:
        self._observation.score(name=name, value=value, data_type="NUMERIC")

    def place(self) -> Place | None:
        of = self.otel.get_span_context()
        # Spans of a disabled client have no trace id.
        if not of.trace_id:
            return None
        begun = datetime.fromtimestamp(getattr(self.otel, "start_time", 0) // 1_000_000_000, UTC)
        attributes: Mapping[str, Any] = getattr(self.otel, "attributes", None) or {}
        return Place(
            client_of(self._observation),
            f"{of.trace_id:032x}",
            f"{of.span_id:016x}",
            begun,
            attributes.get("langfuse.environment"),
        )

    def fail(self, error: BaseException) -> None:
        if self.otel.is_recording():
            message = masked_by_client(self._observation, message_of(error))
            self._observation.update(level="ERROR", status_message=message)

    def stop(self, why: str) -> None:
        self.note({"stopped": why})

    def end(self) -> None:
        self._observation.end()


class _Adopted(_Observation):
    """An observation of Langfuse's handler.

    The handler ends it, unless it fails or is stopped: then it is ended here, and taken from the handler,
    which would overwrite the status.
    """

    def __init__(self, observation: Any, take_over: Any) -> None:
        super().__init__(observation)
        self._take_over = take_over
        self._own = False

    def fail(self, error: BaseException) -> None:
        super().fail(error)
        self._end_alone()

    def stop(self, why: str) -> None:
        super().stop(why)
        self._end_alone()

    def _end_alone(self) -> None:
        self._take_over()
        self._own = True

    def end(self) -> None:
        if self._own:
            super().end()


def _usage(answer: Answer) -> dict[str, int]:
    """Return tokens by the names that Langfuse prices. Each token counts under one name, and in the total."""
    if answer.cached:
        return {"input": 0, "output": 0, "total": 0}
    details = {
        "input_cache_read": answer.cache_read_tokens,
        "input_cache_creation": answer.cache_creation_tokens,
        "output_reasoning": answer.reasoning_tokens,
    }
    return {
        "input": answer.input_tokens - answer.cache_read_tokens - answer.cache_creation_tokens,
        "output": answer.output_tokens - answer.reasoning_tokens,
        **{name: tokens for name, tokens in details.items() if tokens},
        "total": answer.tokens,
    }
