"""Progress bars that DSPy shows from several threads.

tqdm keeps its bars in a set of weak references, which it changes under a lock. `dspy.Parallel` and
`dspy.Evaluate` clear that set without the lock when they begin. If another thread is creating a disabled bar
at that time, tqdm removes the bar from a set that no longer contains it, which raises a `KeyError` in the
user's code. If another thread iterates over the set, that raises a `RuntimeError`.
"""

import sys
from typing import Any
from weakref import WeakSet


class _Bars(WeakSet[Any]):
    """A set that is cleared under tqdm's lock, and whose `remove` ignores missing elements."""

    def clear(self) -> None:
        with sys.modules["tqdm"].tqdm.get_lock():
            super().clear()

    def remove(self, item: Any) -> None:
        self.discard(item)


def shield() -> None:
    """Make tqdm's bars safe to use in several threads, if tqdm is imported."""
    kind: Any = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if kind is None or isinstance(kind._instances, _Bars):
        return
    with kind.get_lock():
        kind._instances = _Bars(kind._instances)
