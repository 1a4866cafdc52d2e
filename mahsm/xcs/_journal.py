"""The journal of a program: how to undo changes of containers."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast


class Journal:
    """Undoes changes of containers that came after a step which failed."""

    # The function's code goes on after a step has begun, and may change lists and dicts that are still used
    # after the step has failed: by the handler of a `try`, or by the caller. The plain function would not
    # have reached these changes. So each change is noted with its number, and changes that came after the
    # failed step are undone, the last one first.

    def __init__(self) -> None:
        self._changes: list[tuple[int, Callable[[], None]]] = []

    def note(self, number: int, container: Any, method: str, key: Any) -> None:
        """Note what a container holds before a method changes it; `key` is that of `__setitem__`."""
        self._changes.append((number, _restorer(container, method, key)))

    def undo(self, after: float) -> None:
        """Undo the changes with higher numbers."""
        while self._changes and self._changes[-1][0] > after:
            self._changes.pop()[1]()

    def clear(self) -> None:
        """Forget all changes: no step can fail that came before them."""
        if self._changes:
            self._changes.clear()


def _restorer(container: Any, method: str, key: Any) -> Callable[[], None]:
    """Return a function that undoes a change of a container."""
    kind = cast("type[Any]", type(container))
    if kind is list and method in {"append", "extend", "__iadd__"}:
        return partial(container.__delitem__, slice(len(container), None))
    if kind is dict and method == "__setitem__":
        if key in container:
            return partial(container.__setitem__, key, container[key])
        return partial(container.pop, key, None)
    kept = container.copy()

    def restore() -> None:
        container.clear()
        (container.update if hasattr(container, "update") else container.extend)(kept)

    return restore
