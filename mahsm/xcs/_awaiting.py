"""What rewritten code awaits."""

import inspect
from collections.abc import Coroutine, Generator
from typing import Any

from mahsm.xcs._containers import forced, kind_of
from mahsm.xcs._current import Program
from mahsm.xcs._greenlets import in_body
from mahsm.xcs._pending import Pending, value_of
from mahsm.xcs._step import name_of


class StepCall(Coroutine[Any, Any, Any]):
    """The call of an async step, which begins when it is awaited.

    Rewritten code gets a pending value by awaiting it; any other code gets the value.
    """

    def __init__(
        self, run: Program, callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None
    ) -> None:
        self._run = run
        self._callee = callee
        self._args = args
        self._kwargs = kwargs
        self._name = name
        self._awaited: Coroutine[Any, Any, Any] | None = None
        self._path = run.branch()

    def __repr__(self) -> str:
        return f"<call of {self._name or name_of(self._callee)}; await it>"

    def begin(self) -> Pending:
        return self._run.step(self._callee, self._args, self._kwargs, self._name)

    async def _value(self) -> Any:
        self._run.begin_branch(self._path)
        return forced(self.begin())

    @property
    def _coroutine(self) -> Coroutine[Any, Any, Any]:
        if self._awaited is None:
            self._awaited = in_body(self._value())
        return self._awaited

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        return self._coroutine.throw(*error)

    def close(self) -> None:
        if self._awaited is not None:
            self._awaited.close()


class _Ready:
    """Awaits a value that is pending, without suspending."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._value
        yield


def await_(awaitable: Any) -> Any:
    """Return what rewritten code awaits: an async step gives a pending value at once."""
    kind = kind_of(awaitable)
    if kind is StepCall:
        return _Ready(awaitable.begin())
    if kind is Pending:
        value = value_of(awaitable)
        return value if inspect.isawaitable(value) else _Ready(awaitable)
    return awaitable
