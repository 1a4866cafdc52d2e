"""Scopes: the bodies of `try` and `with`, whose steps have ended when they are left."""

from collections.abc import Callable, Generator
from contextlib import nullcontext
from functools import partial
from typing import Any, Protocol

from mahsm.xcs._current import running


class Escaping(BaseException):
    """Carries the error of a step out of a `try` that began after it, past the handlers of that `try`."""

    def __init__(self, error: BaseException, number: int) -> None:
        super().__init__(error)
        self.error = error
        self.number = number


class Owner(Protocol):
    """A strand of a program, as its scopes see it."""

    def enter(self, scope: "Scope") -> None:
        """Begin a scope: set its mark."""
        ...

    def leave(self, scope: "Scope") -> None:
        """End a scope."""
        ...

    def succeed(self, mark: int = 0) -> None:
        """Wait for everything that began since a mark; its error may escape from inner scopes."""
        ...

    def settle(self, mark: int, *, drop: bool = True) -> None:
        """Wait for everything that began since a mark."""
        ...

    def left_by(self, mark: int, error: BaseException) -> BaseException:
        """Return the error with which a scope is left, and cancel what began in it."""
        ...


class Scope:
    """A block of a program: what begins in it has ended when the block is left, or has been cancelled.

    Args:
        here: Returns the strand that runs here.
    """

    # A generator may yield inside of a block, and the code that goes on then does not belong to the block. So
    # the generator's blocks are paused: what began in them has ended, and they begin anew after the `yield`.
    # An error that is thrown into the generator leaves the innermost block while it is paused.

    __slots__ = ("_here", "_owner", "_paused", "mark")

    def __init__(self, here: Callable[[], Owner]) -> None:
        self._here = here
        self._owner = here()
        self._paused: tuple[Scope, ...] | None = None
        self.mark = 0

    def __enter__(self) -> "Scope":
        self._owner.enter(self)
        return self

    def settle(self) -> None:
        """Wait for everything that has begun in the block."""
        self._owner.settle(self.mark, drop=False)

    def pause(self, outer: "tuple[Scope, ...]") -> None:
        """Wait for everything that has begun in the block, and in the blocks of the generator around it."""
        self._owner.succeed((outer or (self,))[0].mark)
        for scope in (*outer, self):
            scope._owner.leave(scope)
            scope._paused = ()
        self._paused = outer

    def resume(self) -> None:
        """Begin the block anew, which may be in another task."""
        if self._paused is None:
            return
        for outer in self._paused:
            outer.resume()
        self._paused = None
        self._owner = self._here()
        self._owner.enter(self)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._paused is not None:
            if not isinstance(error, GeneratorExit):
                for outer in self._paused:
                    outer.resume()
            return
        try:
            first = self._settled() if error is None else error
            if first is not None:
                first = self._owner.left_by(self.mark, first)
        finally:
            self._owner.leave(self)
        if first is not error:
            assert first is not None
            raise first

    def _settled(self) -> BaseException | None:
        try:
            self._owner.settle(self.mark)
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


def paused(value: Any, *scopes: Any) -> Any:
    """Return what a generator yields in scopes, the outermost first, when all in them has succeeded."""
    *outer, inner = scopes
    if inner is not None:
        inner.pause(tuple(scope for scope in outer if scope is not None))
    return value


def resumed(value: Any, *scopes: Any) -> Any:
    """Return what a generator was sent, whose scopes go on."""
    if scopes[-1] is not None:
        scopes[-1].resume()
    return value


def delegated(values: Any, *scopes: Any) -> Generator[Any, Any, Any]:
    """Do `yield from values` in scopes, as Python does."""
    iterator = iter(values)
    step: Callable[[], Any] = iterator.__next__
    while True:
        try:
            value = step()
        except StopIteration as done:
            return done.value
        try:
            sent = yield paused(value, *scopes)
        except GeneratorExit:
            getattr(iterator, "close", _nothing)()
            raise
        except BaseException as error:
            resumed(None, *scopes)
            if not hasattr(iterator, "throw"):
                raise
            step = partial(iterator.throw, error)
        else:
            resumed(None, *scopes)
            step = iterator.__next__ if sent is None else partial(iterator.send, sent)


def _nothing() -> None:
    """Do nothing: an iterator that cannot be closed."""
