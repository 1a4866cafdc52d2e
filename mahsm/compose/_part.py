"""What can be composed, and how it is called: functions, operators, DSPy modules."""

import inspect
import sys
from abc import abstractmethod
from functools import partial
from typing import Any, ClassVar, cast

import equinox as eqx

from mahsm._common import shown
from mahsm._waiting import TASK, THREAD, Way, run_blocking
from mahsm.operators import Operator
from mahsm.operators._internal import Parameters, in_thread, parameters_of


def check_part(composer: str, part: Any) -> Any:
    """Return what is composed.

    Raises:
        TypeError: if it cannot be called.
    """
    if not callable(part) or (isinstance(part, type) and not _is_builtin(part)):
        raise TypeError(
            f"{composer} got {shown(part)}; expected a function, an operator or a DSPy module. "
            f"Write {composer}(function)."
        )
    return part


def _is_builtin(kind: type) -> bool:
    return kind.__module__ == "builtins"


def is_async(part: Any) -> bool:
    """Return whether a call of a part gives an awaitable, so that it cannot be called by blocking code."""
    while isinstance(part, partial):
        part = part.func
    if isinstance(part, Composed):
        return part.is_async
    function: Any = getattr(cast("Any", part), "function", part) if isinstance(part, Operator) else part
    call: Any = getattr(cast("Any", type(part)), "__call__", None)  # noqa: B004  of an object
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def awaited_side(part: Any) -> Any:
    """Return the async version of a part, if it has one besides the blocking one."""
    if isinstance(part, Operator):
        return part.acall if part.awaits else None
    dspy: Any = sys.modules.get("dspy")  # whoever passes a module of DSPy has imported it
    if dspy is not None and isinstance(part, dspy.Module):
        return part.acall
    return getattr(part, "acall", None)


async def call_part(part: Any, way: Way, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Call a part: in this thread, or awaited; a blocking part is awaited in a thread of its own."""
    if way is THREAD:
        return part(*args, **options)
    if is_async(part):
        return await part(*args, **options)
    side = awaited_side(part)
    if side is not None:
        return await side(*args, **options)
    return await in_thread(partial(part, *args, **options))


def name_of(part: Any) -> str:
    """Return the name of a part."""
    while isinstance(part, partial):
        part = part.func
    for key in ("__name__", "name"):
        if isinstance(found := getattr(part, key, None), str):
            return found
    return type(part).__name__


class _Wrapped:
    """Where `inspect.signature` and the like look for the function that a composition is called like."""

    def __get__(self, instance: Any, owner: type[Any]) -> Any:
        if instance is None:
            raise AttributeError("__wrapped__")  # the class wraps nothing
        return instance.first


class _Name:
    """The name of a composition: that of its first part."""

    def __get__(self, instance: Any, owner: type[Any]) -> str:
        if instance is None:
            raise AttributeError("__name__")
        return name_of(instance.first)


class Composed(Operator):
    """An operator that is called like the function, operator or DSPy module that it was made of.

    If that is async, a call is awaited; otherwise it blocks, and `acall` awaits it.

    Attributes:
        first: The first part, whose arguments it takes.
        parameters: The parameters of the first part.
    """

    first: eqx.AbstractVar[Any]
    parameters: eqx.AbstractVar[Parameters]

    __wrapped__: ClassVar[_Wrapped] = _Wrapped()

    __name__: ClassVar[Any] = _Name()  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def name(self) -> str:
        """The name in graphs and traces."""
        return name_of(self.first)

    def title(self) -> str:
        return self.name

    @property
    @abstractmethod
    def parts(self) -> tuple[Any, ...]:
        """The parts that it calls."""

    @property
    def is_async(self) -> bool:
        """True if a call has to be awaited."""
        return any(map(is_async, self.parts))

    @property
    def awaits(self) -> bool:
        return self.is_async or any(awaited_side(part) is not None for part in self.parts)

    @abstractmethod
    async def _run(self, way: Way, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Call the parts."""

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        cls: Any = type(self)
        inputs, options = cls._spread(self, inputs, options)
        if self.is_async:
            return cls._run(self, TASK, inputs, options)
        return run_blocking(cls._run(self, THREAD, inputs, options))

    async def acall(self, *inputs: Any, **options: Any) -> Any:
        cls: Any = type(self)
        return await cls._run(self, TASK, *cls._spread(self, inputs, options))

    def forward(self, input: Any, /) -> Any:
        return self(input)

    def _spread(
        self, inputs: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments; a dict is those of a function of several parameters, as for `op`."""
        known = self.parameters
        if not known.several or options or len(inputs) != 1 or not isinstance(inputs[0], dict):
            return inputs, options
        given = cast("dict[str, Any]", inputs[0])
        return (), {name: given[name] for name in known.names if name in given}


def parameters_of_part(part: Any) -> Parameters:
    """Return the parameters of a part."""
    return part.parameters if isinstance(part, Composed) else parameters_of(part)
