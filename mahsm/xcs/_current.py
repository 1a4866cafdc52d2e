"""The run of the jitted function whose own code runs here."""

from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Protocol


class Program(Protocol):
    """The run of a jitted function, as its code sees it."""

    is_direct: bool
    """True if steps begin where they are called, since the code is not rewritten."""
    is_over: bool
    body: Any
    """The greenlet of an async function's code; None for others."""
    touched: dict[int, Any]
    """Containers that pending values were put into, by `id`."""

    def step(
        self, callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None = None
    ) -> Any:
        """Begin a step when its arguments are there; return its result, which is pending.

        Args:
            callee: What it calls.
            args: The arguments.
            kwargs: The arguments by name.
            name: The name of what it calls in the code of the function; by default its own.
        """
        ...

    def branch(self) -> tuple[int, ...]:
        """Return the path of a strand that the code here is about to begin."""
        ...

    def begin_branch(self, path: tuple[int, ...]) -> None:
        """Begin a strand."""
        ...

    def scope(self) -> AbstractContextManager[Any]:
        """Return a block whose steps have ended when it is left."""
        ...

    def will_format(self, parts: tuple[Any, ...]) -> None:
        """Refuse an f-string of these parts, if the function has to be numeric."""
        ...

    def will_change(self, container: Any, method: str = "", key: Any = None) -> None:
        """Note how to undo a change of a container."""
        ...


current: ContextVar[Program | None] = ContextVar("mahsm_program", default=None)
"""Set by `jit`, unset in its steps; read by the calls of rewritten code."""


def running() -> Program | None:
    """Return the run here, if it is not over."""
    run = current.get()
    return None if run is None or run.is_over else run


def direct_run() -> Program | None:
    """Return the run here if steps begin where they are called, since the code is not rewritten."""
    run = current.get()
    return run if run is not None and run.is_direct else None
