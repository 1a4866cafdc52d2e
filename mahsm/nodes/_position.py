"""Where code runs: in which item of which edge runs, and where its stream events go."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Finished = Callable[[int, Any], object]
"""Gets the index of an item, and its entry or its `ItemError`."""


@dataclass(frozen=True)
class StreamTarget:
    """Where stream events go.

    Attributes:
        write: LangGraph's stream writer.
        metadata: What LangGraph says of the node.
        item: Which item of an edge runs here, as a path of indices through nested edges; `()` outside of
            edges.
    """

    write: Callable[[Any], object]
    metadata: Mapping[str, Any]
    item: Callable[[], tuple[int, ...]] = tuple


class Position:
    """A position. Immutable. Nodes know of no edges, so items and runs have no types here.

    Attributes:
        item: The item whose target is being called, if any.
        runs: The runs of edges that this is in, from the outside in, by what each edge compiles into.
        stream: The stream target of the outermost edge, if this is in one.
        finished: What gets the finished items of an edge run that begins here, by what the edge compiles
            into.
        reducing: What the node of a `reduce_edge` is to call.
    """

    __slots__ = ("finished", "item", "reducing", "runs", "stream")

    def __init__(
        self,
        item: Any,
        runs: Mapping[Any, Any],
        stream: StreamTarget | None,
        finished: Mapping[Any, Finished],
        reducing: Any = None,
    ) -> None:
        self.item = item
        self.runs = runs
        self.stream = stream
        self.finished = finished
        self.reducing = reducing

    def at(self, item: Any) -> "Position":
        """The position of an item."""
        return Position(item, self.runs, self.stream, self.finished)

    def inside(self, edge: object, run: object, stream: StreamTarget) -> "Position":
        """The position inside of an edge run; its own finished items are told, and no others."""
        finished = {other: tell for other, tell in self.finished.items() if other is not edge}
        return Position(self.item, {**self.runs, edge: run}, stream, finished)

    def calling(self, reducer: Any) -> "Position":
        """The same, where the node of a `reduce_edge` is to call its reducer."""
        return Position(self.item, self.runs, self.stream, self.finished, reducer)

    def told(self, edge: object, finished: Finished) -> "Position":
        """The same, where `finished` gets the finished items of the edge."""
        return Position(self.item, self.runs, self.stream, {**self.finished, edge: finished})


_NOTHING: Mapping[Any, Any] = MappingProxyType({})
_OUTSIDE = Position(None, _NOTHING, None, _NOTHING)

position: ContextVar[Position] = ContextVar("mahsm_position", default=_OUTSIDE)
"""Set by edges (a run, an item, `as_completed`); read by what runs inside of them."""
