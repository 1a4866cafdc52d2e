"""The stream for a node's events. Inside an edge it is the stream of the edge's own node."""

from collections.abc import Callable
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.config import get_stream_writer

from mahsm.nodes._position import StreamTarget, position

EDGE = "mahsm_edge"
"""Key in the metadata of a run: the name of its edge."""

ITEM = "mahsm_item"
"""Key in the metadata of a run: its item's or branch's path of indices through nested edges."""


def stream_target(config: RunnableConfig) -> StreamTarget:
    """Return the stream target of the node that runs here with this config."""
    return position.get().stream or StreamTarget(_writer(), config.get("metadata", {}))


def _writer() -> Callable[[Any], object]:
    try:
        return get_stream_writer()
    except (RuntimeError, KeyError):
        # This runs outside any graph.
        return lambda _: None
