"""LangGraph's own `max_concurrency`, which all edges of a graph run keep together."""

import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.runtime import Runtime, get_runtime

from mahsm._waiting import Slots

_lock = threading.Lock()
_runs: dict[tuple[int, int], tuple[Slots, list[object]]] = {}
"""The slots of each graph run that edges are in now, and their users. Keyed by the id of the run's control,
which LangGraph shares among all nodes and subgraphs of a run, and which can be neither marked nor weakly
referenced."""


def ambient_runtime() -> Runtime[Any] | None:
    """Return LangGraph's runtime of the node that is running here, if any."""
    try:
        return get_runtime()
    except RuntimeError:
        # This is called outside of any Runnable.
        return None


def _limit(config: RunnableConfig) -> int | None:
    """Return the bound: from the top of the config, which LangGraph reads, or from `configurable`.

    LangGraph's guide puts it under `configurable`. That also holds keys of users and libraries, so a value
    there that is not a positive integer is taken for one of these.
    """
    # LangGraph reads 0 as no bound.
    if top := config.get("max_concurrency"):
        return top
    nested = config.get("configurable", {}).get("max_concurrency")
    return nested if isinstance(nested, int) and not isinstance(nested, bool) and nested > 0 else None


def graph_limit(config: RunnableConfig) -> AbstractContextManager[tuple[Slots, ...]]:
    """Yield the slots of the graph run that an edge is in; none if its config sets no `max_concurrency`."""
    limit = _limit(config)
    return _NONE if limit is None else _shared(config, limit)


_NONE: AbstractContextManager[tuple[Slots, ...]] = nullcontext(())


@contextmanager
def _shared(config: RunnableConfig, limit: int) -> Generator[tuple[Slots, ...], None, None]:
    runtime = ambient_runtime()
    # For an edge that runs alone, without a graph run around it, the config stands for the run.
    run: object = (runtime and runtime.control) or config
    key = (id(run), limit)
    with _lock:
        slots, users = _runs.setdefault(key, (Slots(limit), []))
        # This reference also keeps the id from being reused for another run.
        users.append(run)
    try:
        yield (slots,)
    finally:
        with _lock:
            users.pop()
            if not users:
                del _runs[key]
