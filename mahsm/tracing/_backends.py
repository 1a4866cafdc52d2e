"""The interface of a backend for spans. The spans of both backends are OpenTelemetry spans underneath."""

import asyncio
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from opentelemetry import context, trace

from mahsm._common import Answer, redacted
from mahsm._waiting import Closed, is_cancelled_here, reason_here, word_of
from mahsm.tracing._choices import Place

PREFIX = "mahsm."


class Recorded(Protocol):
    """A span that has begun."""

    otel: Any
    """The OpenTelemetry span."""
    output: Any
    """The output, as the trace shows it."""

    def note(self, facts: Mapping[str, Any]) -> None: ...
    def show(self, output: Any) -> None: ...
    def begun(self) -> None:
        """Record that the model has begun to answer."""
        ...

    def used(self, answer: Answer) -> None: ...
    def score(self, name: str, value: float) -> None: ...
    def place(self) -> Place | None:
        """Return where Langfuse has it; None for other backends."""
        ...

    def fail(self, error: BaseException) -> None: ...
    def stop(self, why: str) -> None:
        """Record that it was stopped on purpose, which does not count as an error."""
        ...

    def end(self) -> None: ...


@dataclass(frozen=True)
class Start:
    """The attributes of a span at its beginning.

    Attributes:
        name: Its name.
        kind: One of Langfuse's observation types.
        input: Its input.
        model: For a generation: the model's name.
        options: For a generation: the options of the call.
        prompt: For a generation: the Langfuse prompt that it is linked to, if any.
        beside: A sibling in the same trace, if the span has no parent.
    """

    name: str
    kind: str
    input: Any = None
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    prompt: Any = None
    beside: trace.SpanContext | None = None


class Backend(Protocol):
    """Begins spans, as children of OpenTelemetry's current span."""

    def begin(self, start: "Start") -> Recorded:
        """Begin a span."""
        ...

    def attributes(self, given: Mapping[str, Any]) -> AbstractContextManager[Any]:
        """Return a block whose spans have these attributes: `session_id`, `user_id`, `tags`..."""
        ...

    def flush(self) -> None:
        """Send all pending spans."""
        ...


class Unseen:
    """A placeholder for a span that is not recorded; spans inside become children of the span around it."""

    output: Any = None

    def __init__(self, otel: Any) -> None:
        self.otel = otel

    def note(self, facts: Mapping[str, Any]) -> None:
        """No-op: not recorded."""

    def show(self, output: Any) -> None:
        """No-op: not recorded."""

    def begun(self) -> None:
        """No-op: not recorded."""

    def used(self, answer: Answer) -> None:
        """No-op: the edge run around it counts the usage."""

    def score(self, name: str, value: float) -> None:
        """No-op: not recorded."""

    def place(self) -> Place | None:
        return None

    def fail(self, error: BaseException) -> None:
        """No-op: not recorded."""

    def stop(self, why: str) -> None:
        """No-op: not recorded."""

    def end(self) -> None:
        """No-op: no span was begun."""


@contextmanager
def running(recorded: Recorded) -> Generator[None, None, None]:
    """Return a block that is a span: current in the block, failed if the block fails, and ended with it."""
    token = context.attach(trace.set_span_in_context(recorded.otel))
    try:
        yield
    except BaseException as error:
        broke_off(recorded, error)
        raise
    finally:
        context.detach(token)
        recorded.end()


def broke_off(recorded: Recorded, error: BaseException) -> None:
    """Record the error or cancellation that left a span.

    A cancellation on purpose is not an error; one by a timeout is.
    """
    if (why := stopped(error)) is None:
        recorded.fail(failure(error))
    else:
        recorded.stop(why)


def stopped(error: BaseException, *, anywhere: bool = False) -> str | None:
    """Return the reason of a stop on purpose, in one word; None if the code has failed instead.

    Args:
        error: The error that the code raised.
        anywhere: Do not check that the running task was cancelled.
    """
    if isinstance(error, Closed):
        return word_of(error.reason if isinstance(error.reason, Exception) else reason_here())
    if not isinstance(error, asyncio.CancelledError) or not (anywhere or is_cancelled_here()):
        return None
    reason = reason_here()
    return None if isinstance(reason, TimeoutError) else word_of(reason)


def failure(error: BaseException) -> BaseException:
    """Return the error to record: for a cancellation by a timeout, the `TimeoutError`."""
    reason = reason_here() if isinstance(error, asyncio.CancelledError) else None
    return reason if isinstance(reason, TimeoutError) else error


def message_of(error: BaseException) -> str:
    """Return type and message of an error for a span: without secrets, at most 500 characters."""
    kind, text = type(error).__name__, redacted(str(error))
    return f"{kind}: {text}"[:500] if text else kind
