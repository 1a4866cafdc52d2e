"""What traces show of edges and calls, as far as these need to know: nothing, unless somebody traces."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from langchain_core.runnables import RunnableConfig

from mahsm._common import Answer
from mahsm._waiting import Order


class Timings:
    """Where the attempts of an edge run spent their time, in seconds. Safe in threads.

    Attributes:
        wait_seconds: From when an attempt wants to begin to when it begins.
        limited_seconds: The part of these that was spent waiting for rate limits.
        run_seconds: From when an attempt begins to when it ends.
        retries: Attempts after the first ones.
        begun: The items whose target was called, by their order.
        hedges: Second calls of items that took long.
        rate_limited: Attempts that the provider refused, with a 429.
        is_late: Whether the deadline has cut an attempt off.
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
        """Milliseconds: median, 95th percentile and most."""
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
        """How many items were begun, tried again, and refused."""
        return {
            "begun": len(self.begun),
            "retries": len(self.retries),
            "rate_limited": len(self.rate_limited),
        }


class Span(Protocol):
    """Something that a trace shows."""

    def note(self, facts: Mapping[str, Any]) -> None:
        """Add to what it is described by."""
        ...

    def show(self, output: Any) -> None:
        """What came out."""
        ...


class EdgeSpan(Span, Protocol):
    """The span of an edge run.

    Attributes:
        config: The config of what runs inside.
        timings: Where its attempts spend their time.
    """

    config: RunnableConfig
    timings: Timings

    def part(self, label: str, index: int, total: int) -> AbstractContextManager[Any]:
        """A block that is one of its items or branches. Of many, some are shown, and those that fail, and the
        slowest.
        """
        ...


class CallSpan(Protocol):
    """The span of a call of a model."""

    def begun(self) -> None:
        """The first piece of a streamed answer is here."""
        ...

    def end(self, output: Any, answer: Answer | None) -> None:
        """What it gave, and took."""
        ...


class Tracer(Protocol):
    """Makes spans."""

    def edge(
        self, kind: str, name: str, config: RunnableConfig, state: Any
    ) -> AbstractContextManager[EdgeSpan]:
        """A block that is an edge run."""
        ...

    def node(self, config: RunnableConfig) -> AbstractContextManager[Any]:
        """A block that is a node's, so that spans in it stand below the node's."""
        ...

    def call(self, model: str, prompt: Any, options: Mapping[str, Any]) -> AbstractContextManager[CallSpan]:
        """A block that is a call of a model."""
        ...

    def dspy_callbacks(self, present: Iterable[Any]) -> list[Any]:
        """What shows DSPy's modules and tools, unless it is among those that are present."""
        ...


class _NoCall:
    def begun(self) -> None:
        """Nobody looks."""

    def end(self, output: Any, answer: Answer | None) -> None:
        """Nobody looks."""


_NO_CALL = nullcontext(_NoCall())
NOTHING: AbstractContextManager[Any] = nullcontext()

_tracers: list[Tracer] = []
"""Who traces: one, or nobody."""


def is_prompt(prompt: Any) -> bool:
    """Return whether a value is a prompt of Langfuse's, as `Langfuse.get_prompt` gives it."""
    return all(hasattr(prompt, name) for name in ("name", "version", "is_fallback"))


def tracer() -> Tracer | None:
    """Who traces, if anybody does."""
    return _tracers[-1] if _tracers else None


def trace_with(tracer: Tracer | None) -> None:
    """Let somebody trace from now on, or nobody."""
    _tracers[:] = [] if tracer is None else [tracer]


def call(model: str, prompt: Any, options: Mapping[str, Any]) -> AbstractContextManager[CallSpan]:
    """A block that is a call of a model."""
    here = tracer()
    return _NO_CALL if here is None else here.call(model, prompt, options)


def node(config: RunnableConfig) -> AbstractContextManager[Any]:
    """A block that is a node's."""
    here = tracer()
    return NOTHING if here is None else here.node(config)
