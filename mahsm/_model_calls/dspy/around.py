"""The context of an observed block, for threads of DSPy's, which get DSPy's settings and no other context."""

import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from mahsm._model_calls import calls
from mahsm._model_calls.dspy import bars

T = TypeVar("T")


def is_observed() -> bool:
    """Return whether calls of DSPy's language models are observed here."""
    return calls.here().dspy_observed


def restored_context() -> AbstractContextManager[None]:
    """Return a block that has the context of the observed block around it.

    It is needed in a thread of DSPy's, which gets only DSPy's settings; anywhere else it changes nothing.
    """
    dspy: Any = sys.modules.get("dspy")
    if dspy is not None:
        bars.shield()
    around = None if dspy is None or is_observed() else getattr(dspy.settings.adapter, "_mahsm_around", None)
    return nullcontext() if around is None else around.here()


def around_thread(variable: ContextVar[T], setting: str) -> tuple[T | None, T | None]:
    """Return the values of a variable around the thread of DSPy's that runs here; None for each elsewhere.

    Args:
        variable: A variable that is not set here.
        setting: The name of the setting in which a `dspy.context` hands the value over.

    Returns:
        The value that was handed over, and the value around the observed block.
    """
    settings: Any = getattr(sys.modules.get("dspy"), "settings", None)
    if settings is None:
        return None, None
    handed = settings[setting].value if setting in settings else None
    around: Around | None = getattr(settings.adapter, "_mahsm_around", None)
    return handed, None if around is None else around.value_of(variable)


class Around:
    """A copy of the context of an observed block, for threads of DSPy's.

    `dspy.Parallel` starts such threads, and so do `Module.batch` and `dspy.Evaluate`, which use it. DSPy
    copies its settings to them, but no other context variable. The views are in these settings, so each view
    holds an `Around`.
    """

    def __init__(self) -> None:
        self._context = copy_context()
        self.is_over = False
        """True when the block has ended. Its views may live on in copies of DSPy's settings, and must not
        count calls then."""

    def here(self) -> AbstractContextManager[None]:
        """Return a block that has the context, in any thread."""
        return nullcontext() if is_observed() or self.is_over else self._restored()

    def value_of(self, variable: ContextVar[T]) -> T | None:
        """Return the value of a variable in the context; None if it has none, or the block has ended."""
        return None if self.is_over else self._context.get(variable)

    @contextmanager
    def _restored(self) -> Generator[None, None, None]:
        present = copy_context()
        tokens = [
            (variable, variable.set(value))
            for variable, value in self._context.items()
            if variable not in present
        ]
        try:
            with calls.completed(self._context):
                yield
        finally:
            for variable, token in tokens:
                variable.reset(token)
