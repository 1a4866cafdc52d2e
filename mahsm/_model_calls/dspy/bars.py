"""Progress bars that DSPy shows from several threads.

tqdm keeps its bars in a set of weak references, which changes under tqdm's lock. `dspy.Parallel` and
`dspy.Evaluate` empty it without the lock whenever they begin. In another thread a bar that was being made is
then gone from the set when tqdm removes it, as it does with every bar that is switched off: a `KeyError`
comes out of the user's code. Or the set changes while tqdm goes through it: a `RuntimeError`.
"""

import sys
from typing import Any
from weakref import WeakSet


class _Bars(WeakSet[Any]):
    """A set that is emptied under tqdm's lock, and where removing what is not there is no error."""

    def clear(self) -> None:
        with sys.modules["tqdm"].tqdm.get_lock():
            super().clear()

    def remove(self, item: Any) -> None:
        self.discard(item)


def shield() -> None:
    """Let bars begin and end in several threads at the same time, if tqdm is there."""
    kind: Any = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if kind is None or isinstance(kind._instances, _Bars):
        return
    with kind.get_lock():
        kind._instances = _Bars(kind._instances)
