"""The context in which calls are seen, for threads that know DSPy's settings of it and nothing else."""

import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from typing import Any

from mahsm._model_calls import calls
from mahsm._model_calls.dspy import bars


def is_observed() -> bool:
    """Return whether calls of language models are seen here."""
    return calls.here().dspy_observed


def restored_context() -> AbstractContextManager[None]:
    """A block in the context of the watched block around it, also in a thread of DSPy's that knows only its
    settings.
    """
    dspy: Any = sys.modules.get("dspy")
    if dspy is not None:
        bars.shield()
    around = None if dspy is None or is_observed() else getattr(dspy.settings.adapter, "_mahsm_around", None)
    return nullcontext() if around is None else around.here()


class Around:
    """The context in which a block is watched, for threads that know DSPy's settings of it and nothing else.

    `dspy.Parallel`, and with it `Module.batch` and `dspy.Evaluate`, starts such threads.
    """

    def __init__(self) -> None:
        self._context = copy_context()
        self.is_over = False
        """The block has ended; views of it may live on in copies of DSPy's settings, and count nothing any
        more."""

    def here(self) -> AbstractContextManager[None]:
        """A block that has the context, wherever it runs."""
        return nullcontext() if is_observed() or self.is_over else self._restored()

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
