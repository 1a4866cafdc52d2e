"""The span of an edge run, and the choice of its parts that get spans of their own."""

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
from mahsm.tracing._choices import CHOICE_ID

ALL_PARTS = 256
"""The most items of an edge run of which each one has a span."""

SAMPLE = 64
"""Of more items, at most this many have a span, evenly spread; and those that fail, and the slowest one."""


class Parts(Protocol):
    """Creates the spans of items and branches."""

    def has_room(self, recorded: Recorded) -> bool:
        """Return whether the trace has room for one more part of the edge."""
        ...

    def part(self, label: str, index: int, config: RunnableConfig) -> AbstractContextManager[Any]:
        """Return a block that is a part, below the run of this config."""
        ...

    def chose(self, id: str, recorded: Recorded) -> None:
        """Remember where the choice of a router is, for its reward."""
        ...

    def moment(
        self, label: str, edge: Recorded, facts: Mapping[str, Any], error: BaseException | None
    ) -> None:
        """Record a part that has ended as a span without duration."""
        ...


class EdgeRecord:
    """The span of an edge run.

    Args:
        tracer: Creates the spans of its parts.
        recorded: The span itself.
        config: The config for code inside the run.
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
        if CHOICE_ID in facts:
            self._tracer.chose(facts[CHOICE_ID], self._recorded)

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
        """Return a block without a span; it gets one at its end if it fails or is the slowest."""
        began = time.monotonic()
        try:
            yield
        except (GraphBubbleUp, Closed):
            # An interrupt, or an edge run that was over before the part was: not a failure of the part.
            raise
        except Exception as error:
            self._tracer.moment(label, self._recorded, {"index": index, "run_ms": _since(began)}, error)
            raise
        seconds = time.monotonic() - began
        if seconds > self._slowest[0]:
            self._slowest = seconds, index, label

    def close(self) -> None:
        """Record the slowest of the parts without a span."""
        seconds, index, label = self._slowest
        if label:
            facts = {"index": index, "slowest": True, "run_ms": round(seconds * 1000, 3)}
            self._tracer.moment(label, self._recorded, facts, None)


def _since(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 3)
