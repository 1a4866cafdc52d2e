"""The position of running code: its item, its edge runs, and the stream for its events."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Finished = Callable[[int, Any], object]
"""A callback for finished items: it gets the index, and the entry or `ItemError`."""


@dataclass(frozen=True)
class StreamTarget:
    """The stream that events are written to.

    Attributes:
        write: LangGraph's stream writer.
        metadata: LangGraph's metadata of the node.
        item: Returns the path of indices, through nested edges, of the item that runs here; `()` outside
            edges.
    """

    write: Callable[[Any], object]
    metadata: Mapping[str, Any]
    item: Callable[[], tuple[int, ...]] = tuple


class Position:
    """A position. Immutable. The `nodes` package must not import edges, so items and runs have no types here.

    Attributes:
        item: The item whose target is being called, if any.
        runs: The edge runs around the code, from the outside in, by the `Lowering` of each edge.
        stream: The stream target of the outermost edge, if any.
        finished: The callbacks for finished items of edge runs that begin here, by the edge's `Lowering`.
        reducing: The reducer that the node of a `reduce_edge` has to call.
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
        """Return the position inside an item."""
        return Position(item, self.runs, self.stream, self.finished)

    def inside(self, edge: object, run: object, stream: StreamTarget) -> "Position":
        """Return the position inside an edge run, whose callback for finished items does not apply there."""
        finished = {other: tell for other, tell in self.finished.items() if other is not edge}
        return Position(self.item, {**self.runs, edge: run}, stream, finished)

    def calling(self, reducer: Any) -> "Position":
        """Return a copy in which the node of a `reduce_edge` calls this reducer."""
        return Position(self.item, self.runs, self.stream, self.finished, reducer)

    def told(self, edge: object, finished: Finished) -> "Position":
        """Return a copy in which `finished` is called for the finished items of the edge."""
        return Position(self.item, self.runs, self.stream, {**self.finished, edge: finished})


_NOTHING: Mapping[Any, Any] = MappingProxyType({})
_OUTSIDE = Position(None, _NOTHING, None, _NOTHING)

position: ContextVar[Position] = ContextVar("mahsm_position", default=_OUTSIDE)
"""Set by edges (a run, an item, `as_completed`); read by code that runs inside them."""
