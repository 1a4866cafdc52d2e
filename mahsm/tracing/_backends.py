"""What a backend is, to which spans go. Langfuse's and OpenTelemetry's are both spans of OpenTelemetry
underneath.
"""

import asyncio
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from opentelemetry import context, trace

from mahsm._common import Answer, redacted
from mahsm._waiting import Closed, is_cancelled_here, reason_here, word_of

PREFIX = "mahsm."


class Recorded(Protocol):
    """A span that was begun."""

    otel: Any
    """OpenTelemetry's span."""
    output: Any
    """What came out, as it is shown."""

    def note(self, facts: Mapping[str, Any]) -> None: ...
    def show(self, output: Any) -> None: ...
    def begun(self) -> None:
        """The model has begun to answer."""
        ...

    def used(self, answer: Answer) -> None: ...
    def score(self, name: str, value: float) -> None: ...
    def fail(self, error: BaseException) -> None: ...
    def stop(self, why: str) -> None:
        """It was stopped on purpose, which is no error."""
        ...

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
        prompt: And Langfuse's prompt that it is made of, if there is one.
        beside: A span whose trace it belongs to, and which is not around it.
    """

    name: str
    kind: str
    input: Any = None
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    prompt: Any = None
    beside: trace.SpanContext | None = None


class Backend(Protocol):
    """Begins spans, as children of OpenTelemetry's current one."""

    def begin(self, start: "Start") -> Recorded:
        """Begin a span."""
        ...

    def attributes(self, given: Mapping[str, Any]) -> AbstractContextManager[Any]:
        """A block whose spans carry these: `session_id`, `user_id`, `tags`, `environment`..."""
        ...

    def flush(self) -> None:
        """Send what has not been sent."""
        ...


class Unseen:
    """Stands for a span that is not shown; what is inside belongs to the one around it."""

    output: Any = None

    def __init__(self, otel: Any) -> None:
        self.otel = otel

    def note(self, facts: Mapping[str, Any]) -> None:
        """Nobody looks."""

    def show(self, output: Any) -> None:
        """Nobody looks."""

    def begun(self) -> None:
        """Nobody looks."""

    def used(self, answer: Answer) -> None:
        """The edge run around it says what it took."""

    def score(self, name: str, value: float) -> None:
        """Nobody looks."""

    def fail(self, error: BaseException) -> None:
        """Nobody looks."""

    def stop(self, why: str) -> None:
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
        broke_off(recorded, error)
        raise
    finally:
        context.detach(token)
        recorded.end()


def broke_off(recorded: Recorded, error: BaseException) -> None:
    """Say on a span that an error has gone out of it, or a cancellation: one on purpose is no error, one for
    its time is.
    """
    if (why := stopped(error)) is None:
        recorded.fail(failure(error))
    else:
        recorded.stop(why)


def stopped(error: BaseException, *, anywhere: bool = False) -> str | None:
    """Why what has raised this was stopped, in a word; None if it was not, but has failed.

    Args:
        error: The error.
        anywhere: Do not look whether it is the running task that was cancelled.
    """
    if isinstance(error, Closed):
        return word_of(error.reason if isinstance(error.reason, Exception) else reason_here())
    if not isinstance(error, asyncio.CancelledError) or not (anywhere or is_cancelled_here()):
        return None
    reason = reason_here()
    return None if isinstance(reason, TimeoutError) else word_of(reason)


def failure(error: BaseException) -> BaseException:
    """What has failed: of a cancellation since time was up, that."""
    reason = reason_here() if isinstance(error, asyncio.CancelledError) else None
    return reason if isinstance(reason, TimeoutError) else error


def message_of(error: BaseException) -> str:
    """What a span says of an error: its type and its message, without secrets, at most 500 characters."""
    kind, text = type(error).__name__, redacted(str(error))
    return f"{kind}: {text}"[:500] if text else kind
