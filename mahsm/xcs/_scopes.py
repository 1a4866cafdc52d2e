"""Scopes: the bodies of `try` and `with`, whose steps have ended when they are left."""

from collections.abc import Generator
from contextlib import nullcontext
from typing import Any, Protocol

from mahsm.xcs._current import running


class Escaping(BaseException):
    """Carries the error of a step out of a `try` that began after it, past the handlers of that `try`."""

    def __init__(self, error: BaseException, number: int) -> None:
        super().__init__(error)
        self.error = error
        self.number = number


class Owner(Protocol):
    """The run of a program, as its scopes see it."""

    def enter(self, scope: "Scope") -> None:
        """Begin a scope: set its mark."""
        ...

    def leave(self, scope: "Scope") -> None:
        """End a scope."""
        ...

    def settle(self, mark: int, *, drop: bool = True) -> None:
        """Wait for everything that began since a mark."""
        ...

    def left_by(self, mark: int, error: BaseException) -> BaseException:
        """Return the error with which a scope is left, and cancel what began in it."""
        ...


class Scope:
    """A block of a program: what begins in it has ended when the block is left, or has been cancelled."""

    __slots__ = ("_run", "mark")

    def __init__(self, run: Owner) -> None:
        self._run = run
        self.mark = 0

    def __enter__(self) -> "Scope":
        self._run.enter(self)
        return self

    def settle(self) -> None:
        """Wait for everything that has begun in the block."""
        self._run.settle(self.mark, drop=False)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            first = self._settled() if error is None else error
            if first is not None:
                first = self._run.left_by(self.mark, first)
        finally:
            self._run.leave(self)
        if first is not error:
            assert first is not None
            raise first

    def _settled(self) -> BaseException | None:
        try:
            self._run.settle(self.mark)
        except BaseException as error:  # noqa: BLE001  what began after it is to be cancelled
            return error
        return None


def scope() -> Any:
    """Return the block that the body of a `try` or a `with` is."""
    run = running()
    return nullcontext() if run is None else run.scope()


def settled(value: Any, scope: Any) -> Any:
    """Return a value when everything that has begun in a scope has succeeded."""
    if scope is not None:
        scope.settle()
    return value


def each_settled(values: Any, scope: Any) -> Generator[Any, None, None]:
    """Iterate over values; what began in a scope has succeeded before each of them."""
    for value in values:
        yield settled(value, scope)
