"""Answers that could not be parsed, so that a retry by LangGraph does not get them from a cache again."""

from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager, nullcontext

from langgraph.runtime import get_runtime

from mahsm._model_calls import calls, unparsed_in

_KEPT = 1000
"""The most tasks whose answers are kept. Only tasks that failed to parse one are kept, until they succeed."""


class Unparsed:
    """The answers that could not be parsed in the attempts of a node's tasks."""

    def __init__(self) -> None:
        self._of_task: OrderedDict[str, frozenset[str]] = OrderedDict()

    @contextmanager
    def attempt(self) -> Generator[bool, None, None]:
        """Count the block as an attempt; yield whether an earlier attempt of the task had such answers."""
        known = self._of_task.pop(_task_id(), frozenset[str]()) if self._of_task else frozenset[str]()
        try:
            with calls.changed(unparsed=calls.here().unparsed | known) if known else nullcontext():
                yield bool(known)
        except Exception as error:
            if (found := known | unparsed_in(error)) and (task := _task_id()):
                self._of_task[task] = found
                while len(self._of_task) > _KEPT:
                    self._of_task.popitem(last=False)
            raise


def _task_id() -> str:
    """Return the id of the graph's task that runs here; an empty string outside graphs."""
    try:
        # Outside a graph, the runtime may be missing or lack the attribute.
        info = getattr(get_runtime(), "execution_info", None)
    except (RuntimeError, KeyError):
        return ""
    return "" if info is None else info.task_id
