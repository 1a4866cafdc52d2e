"""Answers that could not be parsed: an attempt after LangGraph's own retry does not get them again from a
cache.
"""

from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager, nullcontext

from langgraph.runtime import get_runtime

from mahsm._model_calls import calls, unparsed_in

_KEPT = 1000
"""Tasks, of which only those that failed so are kept, until an attempt succeeds."""


class Unparsed:
    """What the attempts of a node's tasks could not be parsed from."""

    def __init__(self) -> None:
        self._of_task: OrderedDict[str, frozenset[str]] = OrderedDict()

    @contextmanager
    def attempt(self) -> Generator[bool, None, None]:
        """A block that is an attempt; gives whether there are such answers."""
        task = _task_id()
        known = self._of_task.pop(task, frozenset[str]())
        try:
            with calls.changed(unparsed=calls.here().unparsed | known) if known else nullcontext():
                yield bool(known)
        except Exception as error:
            if task and (found := known | unparsed_in(error)):
                self._of_task[task] = found
                while len(self._of_task) > _KEPT:
                    self._of_task.popitem(last=False)
            raise


def _task_id() -> str:
    """The task of the graph in which this is called; empty outside of graphs."""
    try:
        # Outside of a graph there may be no runtime, either.
        info = getattr(get_runtime(), "execution_info", None)
    except (RuntimeError, KeyError):
        return ""
    return "" if info is None else info.task_id
