"""The trace of one run of a graph: the calls of its predictors, in an order that is independent of timing."""

import threading
from collections.abc import Iterable
from itertools import groupby
from typing import Any, SupportsIndex

from langchain_core.runnables.config import var_child_runnable_config

from mahsm.edges._internal import current_item
from mahsm.nodes._internal import position

Place = tuple[int, str, tuple[int, ...]]
"""A step of the graph, a node that runs in this step, and the item in that node, or `()`."""


class Trace(list[Any]):
    """A DSPy trace that the items of edges and the tasks of `Send`s write to at the same time.

    Optimisers draw from a trace with a seed. If its order depended on timing, the same seed would give
    different programs.
    """

    def __init__(self) -> None:
        super().__init__()
        self._places: list[Place] = []
        self._lock = threading.Lock()
        self._around = len(position.get().runs)

    def append(self, entry: Any) -> None:
        with self._lock:
            super().append(entry)
            self._places.append(self._place())

    def extend(self, entries: Iterable[Any]) -> None:
        for entry in entries:
            self.append(entry)

    def pop(self, index: SupportsIndex = -1) -> Any:
        with self._lock:
            self._places.pop(index)
            return super().pop(index)

    def ordered(self) -> list[Any]:
        """Return the entries by step, then by node, then by item; those of one item in their own order."""
        with self._lock:
            pairs = list(zip(self._places, self, strict=True))
        steps = [sorted(step, key=_in_step) for _, step in groupby(pairs, key=lambda pair: pair[0][0])]
        return [entry for step in steps for _, entry in step]

    def _place(self) -> Place:
        runs, item = list(position.get().runs.values())[self._around :], current_item()
        metadata = runs[0].config.get("metadata", {}) if runs and item is not None else _metadata()
        order = item.order if runs and item is not None else _number_of_send()
        return metadata.get("langgraph_step", 0), metadata.get("langgraph_node", ""), order


def number_here() -> tuple[int, ...]:
    """Return the item's path of indices through nested edges, or the number of the `Send`; else `()`."""
    item = current_item()
    return _number_of_send() if item is None else item.order


def _number_of_send() -> tuple[int, ...]:
    # The path is ("__pregel_push", number of the Send, ...).
    path = _metadata().get("langgraph_path", ())
    return tuple(part for part in path[1:2] if isinstance(part, int))


def _metadata() -> dict[str, Any]:
    return (var_child_runnable_config.get() or {}).get("metadata", {})


def _in_step(pair: tuple[Place, Any]) -> tuple[str, tuple[int, ...]]:
    (_, node, order), _ = pair
    return node, order
