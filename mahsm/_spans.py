"""The interface between edges and traces: protocols of spans, and the tracer in use, if any."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from mahsm._common import Answer
from mahsm._waiting import Order

if TYPE_CHECKING:
    # Importing it takes longer than DSPy's first call.
    from langchain_core.runnables import RunnableConfig


class Timings:
    """Timings of the attempts of an edge run, in seconds. Thread-safe.

    Attributes:
        wait_seconds: For each attempt, the wait before it begins.
        limited_seconds: The part of these waits that was for rate limits.
        run_seconds: For each attempt, its duration.
        retries: An entry for each attempt after an item's first one.
        begun: The items whose target was called, by their order.
        hedges: An entry for each second call of a slow item.
        rate_limited: An entry for each attempt that the provider refused with a 429.
        is_late: True if the deadline has cut off an attempt.
    """

    def __init__(self) -> None:
        self.wait_seconds: list[float] = []
        self.limited_seconds: list[float] = []
        self.run_seconds: list[float] = []
        self.retries: list[int] = []
        self.begun: set[Order] = set()
        self.hedges: list[Order] = []
        self.rate_limited: list[Order] = []
        self.is_late = False

    def facts(self) -> dict[str, float]:
        """Return median, 95th percentile and maximum of waits and durations, in milliseconds."""
        found: dict[str, float] = {}
        for name, seconds in (("wait", self.wait_seconds), ("run", self.run_seconds)):
            ordered = sorted(seconds)
            if ordered:
                for label, share in (("p50", 0.5), ("p95", 0.95), ("max", 1.0)):
                    place = min(len(ordered) - 1, int(share * len(ordered)))
                    found[f"{name}_ms_{label}"] = round(ordered[place] * 1000, 3)
        if self.limited_seconds:
            found["rate_limit_wait_ms"] = round(sum(self.limited_seconds) * 1000, 3)
        return found

    def counts(self) -> dict[str, int]:
        """Return the numbers of items that began, of retries, and of attempts that were refused."""
        return {
            "begun": len(self.begun),
            "retries": len(self.retries),
            "rate_limited": len(self.rate_limited),
        }


class Span(Protocol):
    """A span of a trace."""

    def note(self, facts: Mapping[str, Any]) -> None:
        """Add facts to its metadata."""
        ...

    def show(self, output: Any) -> None:
        """Set its output."""
        ...


class EdgeSpan(Span, Protocol):
    """The span of an edge run.

    Attributes:
        config: The config for code inside the run.
        timings: Timings of its attempts.
    """

    config: "RunnableConfig"
    timings: Timings

    def part(self, label: str, index: int, total: int) -> AbstractContextManager[Any]:
        """Return a block that is one of its items or branches.

        Of many, the trace shows a sample, the slowest one, and those that fail.
        """
        ...


class JobSpan(Protocol):
    """The span of a batch job, which begins and ends in any thread."""

    def note(self, facts: Mapping[str, Any]) -> None:
        """Add facts to its metadata."""
        ...

    def fail(self, error: BaseException) -> None:
        """Record an error."""
        ...

    def end(self) -> None:
        """Note that the job is over, or not waited for any more."""
        ...


class CallSpan(Protocol):
    """The span of a model call."""

    def note(self, facts: Mapping[str, Any]) -> None:
        """Add facts to its metadata."""
        ...

    def begun(self) -> None:
        """Record that the first chunk of a streamed answer has arrived."""
        ...

    def end(self, output: Any, answer: Answer | None) -> None:
        """Set its output, and its usage if there is an answer."""
        ...


class Tracer(Protocol):
    """Creates spans."""

    def edge(
        self, kind: str, name: str, config: "RunnableConfig", state: Any
    ) -> AbstractContextManager[EdgeSpan]:
        """Return a block that is an edge run."""
        ...

    def node(self, config: "RunnableConfig") -> AbstractContextManager[Any]:
        """Return a block whose spans are children of the node's span."""
        ...

    def call(self, model: str, prompt: Any, options: Mapping[str, Any]) -> AbstractContextManager[CallSpan]:
        """Return a block that is a model call."""
        ...

    def job(self, name: str, given: Mapping[str, Any]) -> JobSpan:
        """Begin the span of a batch job."""
        ...

    def elsewhere(self) -> Callable[[], AbstractContextManager[Any]]:
        """Return a function that crosses to other processes; it returns a block in the trace of this one."""
        ...

    def dspy_callbacks(self, present: Iterable[Any]) -> list[Any]:
        """Return callbacks that trace DSPy's modules and tools, unless they are present already."""
        ...


class _NoCall:
    def note(self, facts: Mapping[str, Any]) -> None:
        """No-op: not recorded."""

    def begun(self) -> None:
        """No-op: not recorded."""

    def end(self, output: Any, answer: Answer | None) -> None:
        """No-op: not recorded."""


_NO_CALL = nullcontext(_NoCall())
NOTHING: AbstractContextManager[Any] = nullcontext()

_tracers: list[Tracer] = []
"""The tracer in use, if any."""


def is_prompt(prompt: Any) -> bool:
    """Return whether a value is a Langfuse prompt, such as `Langfuse.get_prompt` returns."""
    return all(hasattr(prompt, name) for name in ("name", "version", "is_fallback"))


def tracer() -> Tracer | None:
    """Return the tracer in use, if any."""
    return _tracers[-1] if _tracers else None


def trace_with(tracer: Tracer | None) -> None:
    """Use a tracer from now on; None to trace nothing."""
    _tracers[:] = [] if tracer is None else [tracer]


def call(model: str, prompt: Any, options: Mapping[str, Any]) -> AbstractContextManager[CallSpan]:
    """Return a block that is a model call."""
    here = tracer()
    return _NO_CALL if here is None else here.call(model, prompt, options)


def node(config: "RunnableConfig") -> AbstractContextManager[Any]:
    """Return a block whose spans are children of the node's span."""
    here = tracer()
    return NOTHING if here is None else here.node(config)
