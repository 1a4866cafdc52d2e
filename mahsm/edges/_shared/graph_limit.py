"""LangGraph's own `max_concurrency`, kept by all the edges of a graph run together."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.runtime import Runtime, get_runtime

from mahsm._waiting import Slots

_lock = threading.Lock()
_runs: dict[tuple[int, int], tuple[Slots, list[object]]] = {}
"""The bound of each graph run that edges are in now, and its users. Keyed by the run's control, which
LangGraph shares among all nodes and subgraphs of a run and which can be neither marked nor weakly
referenced."""


def ambient_runtime() -> Runtime[Any] | None:
    """LangGraph's runtime of the node that is running here, if one is."""
    try:
        return get_runtime()
    except RuntimeError:  # outside of any Runnable
        return None


def _limit(config: RunnableConfig) -> int | None:
    """The bound: at the top of the config, where LangGraph reads it, or under `configurable`, where its guide
    has it.

    Under `configurable` everybody's keys stand, so what is no bound there is somebody's own.
    """
    if top := config.get("max_concurrency"):  # LangGraph takes 0 for no bound
        return top
    nested = config.get("configurable", {}).get("max_concurrency")
    return nested if isinstance(nested, int) and not isinstance(nested, bool) and nested > 0 else None


@contextmanager
def graph_limit(config: RunnableConfig) -> Generator[tuple[Slots, ...], None, None]:
    """The slots of the graph run that an edge is in: none if its config sets no `max_concurrency`."""
    limit = _limit(config)
    if limit is None:
        yield ()
        return
    runtime = ambient_runtime()
    # An edge that runs alone has no graph run around it.
    run: object = (runtime and runtime.control) or config
    key = (id(run), limit)
    with _lock:
        slots, users = _runs.setdefault(key, (Slots(limit), []))
        users.append(run)  # also keeps the id from being given to another run
    try:
        yield (slots,)
    finally:
        with _lock:
            users.pop()
            if not users:
                del _runs[key]
