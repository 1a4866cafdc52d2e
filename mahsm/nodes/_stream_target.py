"""Where a node's stream events go: what LangGraph shows of an edge comes from the edge's own node, and not
from inside.
"""

from collections.abc import Callable
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.config import get_stream_writer

from mahsm.nodes._position import StreamTarget, position

EDGE = "mahsm_edge"
"""Key of a run's metadata: the name of the edge that it belongs to."""

ITEM = "mahsm_item"
"""Key of a run's metadata: which item or branch it is, as a path of indices through nested edges."""


def stream_target(config: RunnableConfig) -> StreamTarget:
    """The stream target of the node that runs here with this config."""
    return position.get().stream or StreamTarget(_writer(), config.get("metadata", {}))


def _writer() -> Callable[[Any], object]:
    try:
        return get_stream_writer()
    except (RuntimeError, KeyError):  # outside of any graph
        return lambda _: None
