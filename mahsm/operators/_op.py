"""`op`: a function as an operator."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, overload

import equinox as eqx

from mahsm._state import shown
from mahsm.operators._operator import Operator


class FunctionOperator(Operator):
    """An operator that calls a function. Made by `op`.

    Attributes:
        function: The function.
        input_spec: What it takes.
        output_spec: What it gives back.
    """

    function: Any = eqx.field(static=True)
    input_spec: Any = eqx.field(static=True, default=None)  # pyright: ignore[reportIncompatibleVariableOverride]
    output_spec: Any = eqx.field(static=True, default=None)  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def forward(self, input: Any, /, **options: Any) -> Any:
        return self.function(input, **options)

    async def aforward(self, input: Any, /, **options: Any) -> Any:
        return await self.function(input, **options)

    @property
    def awaits(self) -> bool:
        return inspect.iscoroutinefunction(self.function)


class ModuleOperator(Operator):
    """An operator that calls a module of Equinox, whose arrays are then its own. Made by `op`.

    Attributes:
        module: The module.
    """

    module: eqx.Module

    def forward(self, input: Any, /, **options: Any) -> Any:
        module: Any = self.module
        return module(input, **options)


@overload
def op(function: eqx.Module, /) -> ModuleOperator: ...
@overload
def op(function: Callable[..., Any], /, *, input_spec: Any = None, output_spec: Any = None) -> FunctionOperator: ...
@overload
def op(*, input_spec: Any = None, output_spec: Any = None) -> Callable[[Callable[..., Any]], FunctionOperator]: ...
def op(function: Any = None, /, *, input_spec: Any = None, output_spec: Any = None) -> Any:
    """Make an operator of a function, sync or async, or of a module of Equinox.

    Args:
        function: A function of one input.
        input_spec: What it takes: a pydantic model, a dataclass or a type; None checks nothing.
        output_spec: What it gives back, likewise.

    Raises:
        TypeError: for what cannot be called.

    Example:
        >>> from mahsm.operators import op
        >>> @op(input_spec=int)
        ... def double(number):
        ...     return number * 2
        >>> double("21")
        42
    """
    if function is None:
        return partial(op, input_spec=input_spec, output_spec=output_spec)
    if isinstance(function, Operator):
        return function
    if isinstance(function, eqx.Module) and callable(function):
        return ModuleOperator(function)
    if not callable(function) or isinstance(function, type):
        raise TypeError(f"op got {shown(function)}; expected a function of one input, or a module of Equinox.")
    return FunctionOperator(function, input_spec, output_spec)
