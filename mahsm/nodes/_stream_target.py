"""Where a node's stream events go: what LangGraph shows of an edge comes from the edge's own node, and not
from inside.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.config import get_stream_writer

EDGE = "mahsm_edge"
"""Key of a run's metadata: the name of the edge that it belongs to."""

ITEM = "mahsm_item"
"""Key of a run's metadata: which item or branch it is, as a path of indices through nested edges."""


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


edge_stream: ContextVar[StreamTarget | None] = ContextVar("mahsm_edge_stream", default=None)
"""The stream target of the outermost edge that runs here."""


def stream_target(config: RunnableConfig) -> StreamTarget:
    """The stream target of the node that runs here with this config."""
    return edge_stream.get() or StreamTarget(_writer(), config.get("metadata", {}))


def _writer() -> Callable[[Any], object]:
    try:
        return get_stream_writer()
    except (RuntimeError, KeyError):  # outside of any graph
        return lambda _: None
