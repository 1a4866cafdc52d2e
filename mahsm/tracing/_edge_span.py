"""The span of an edge run, and which of its parts have spans of their own."""

import math
import time
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.errors import GraphBubbleUp

from mahsm._spans import Timings
from mahsm._waiting import Closed
from mahsm.tracing._backends import Recorded

ALL_PARTS = 256
"""Up to so many items, each has a span."""

SAMPLE = 64
"""Of more items, so many have one, evenly spread; and those that fail, and the slowest."""


class Parts(Protocol):
    """Makes the spans of items and branches."""

    def has_room(self, recorded: Recorded) -> bool:
        """Whether one more part of the edge gets a span."""
        ...

    def part(self, label: str, index: int, config: RunnableConfig) -> AbstractContextManager[Any]:
        """A block that is a part, below the run of this config."""
        ...

    def moment(
        self, label: str, edge: Recorded, facts: Mapping[str, Any], error: BaseException | None
    ) -> None:
        """A span of a part that has ended."""
        ...


class EdgeRecord:
    """The span of an edge run.

    Args:
        tracer: Who makes the spans of its parts.
        recorded: The span itself.
        config: The config of what runs inside.
    """

    def __init__(self, tracer: Parts, recorded: Recorded, config: RunnableConfig) -> None:
        self._tracer = tracer
        self._recorded = recorded
        self._slowest: tuple[float, int, str] = (0.0, 0, "")
        self.config = config
        self.timings = Timings()
        self.facts: dict[str, Any] = {}
        self.output: Any = None

    def note(self, facts: Mapping[str, Any]) -> None:
        self.facts.update(facts)
        self._recorded.note(facts)

    def show(self, output: Any) -> None:
        self.output = (
            next(iter(cast("dict[str, Any]", output).values()), None) if isinstance(output, dict) else None
        )
        self._recorded.show(output)

    def part(self, label: str, index: int, total: int) -> Any:
        every = 1 if total <= ALL_PARTS else math.ceil(total / SAMPLE)
        if index % every == 0 and self._tracer.has_room(self._recorded):
            return self._tracer.part(label, index, var_child_runnable_config.get() or self.config)
        return self._unseen(label, index)

    @contextmanager
    def _unseen(self, label: str, index: int) -> Generator[None, None, None]:
        """A block without a span, unless it fails or turns out to be the slowest."""
        began = time.monotonic()
        try:
            yield
        except (GraphBubbleUp, Closed):  # an interrupt, or a run that was over before the part was
            raise
        except Exception as error:
            self._tracer.moment(label, self._recorded, {"index": index, "run_ms": _since(began)}, error)
            raise
        seconds = time.monotonic() - began
        if seconds > self._slowest[0]:
            self._slowest = seconds, index, label

    def close(self) -> None:
        """Show the slowest part, if it has no span of its own."""
        seconds, index, label = self._slowest
        if label:
            facts = {"index": index, "slowest": True, "run_ms": round(seconds * 1000, 3)}
            self._tracer.moment(label, self._recorded, facts, None)


def _since(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 3)
