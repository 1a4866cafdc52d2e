"""`op`: a function as an operator."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast, overload

import equinox as eqx

from mahsm._common import as_dict, missing, shown
from mahsm.errors import MissingKeyError
from mahsm.operators._operator import Operator
from mahsm.operators._operator_fields import SPECS
from mahsm.operators._signatures import Parameters, parameters_of, specs_of

_ANNOTATED: Any = object()
"""Default of a spec: it is read from the function's annotations."""


class _Wrapped:
    """Descriptor for `__wrapped__`, where `inspect.signature` and others look for the wrapped function."""

    def __get__(self, instance: Any, owner: type[Any]) -> Any:
        # The class itself wraps no function.
        if instance is None:
            raise AttributeError("__wrapped__")
        return instance.function


class _Caller(Operator):
    """An operator that calls a function or module with known parameters."""

    parameters: eqx.AbstractVar[Parameters]

    def _bound(
        self, inputs: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        known, title = self.parameters, type(self).title(self)
        if not known.several:
            if inputs or not known.names or known.names[0] not in options:
                return Operator._bound(self, inputs, options)
            return (options[known.names[0]],), {
                name: value for name, value in options.items() if name != known.names[0]
            }
        given = dict(zip(known.names, inputs, strict=False))
        unknown = [name for name in options if name not in known.names]
        if len(inputs) > len(known.names) or given.keys() & options.keys() or unknown:
            named = ", ".join([*map(shown, inputs), *(f"{name}=" for name in options)])
            raise TypeError(f"{title} was called with {named}; expected {', '.join(known.names)}.")
        return ({**given, **options},), {}

    def _arguments(self, input: Any) -> dict[str, Any]:
        """Return the arguments of a function with several parameters, from the fields of its input."""
        known, values = self.parameters, as_dict(input)
        for name in known.required:
            if name not in values:
                raise MissingKeyError(
                    f"{type(self).title(self)}: {missing(values, name, 'the input')} It is a parameter."
                )
        return {name: values[name] for name in known.names if name in values}


class FunctionOperator(_Caller):
    """An operator that calls a function. Made by `op`.

    Attributes:
        function: The function.
        input_spec: The spec of its input.
        output_spec: The spec of its output.
        parameters: Its parameters.
    """

    function: Any = eqx.field(static=True)
    input_spec: Any = eqx.field(static=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    output_spec: Any = eqx.field(static=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    parameters: Parameters = eqx.field(static=True)

    __wrapped__: ClassVar[_Wrapped] = _Wrapped()

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def title(self) -> str:
        return self.name

    def forward(self, input: Any, /, *more: Any, **options: Any) -> Any:
        if self.parameters.several:
            return self.function(**type(self)._arguments(self, input))
        return self.function(input, *more, **options)

    async def aforward(self, input: Any, /, *more: Any, **options: Any) -> Any:
        return await type(self).forward(self, input, *more, **options)

    @property
    def awaits(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    # A spec that comes from annotations may be a class made by `specs_of`, which cannot be pickled. It is
    # left out, and made again when the operator is loaded.
    def __reduce__(self) -> Any:
        given = zip(SPECS, (self.input_spec, self.output_spec), specs_of(self.function), strict=True)
        return _again, (
            self.function,
            {name: spec for name, spec, annotated in given if spec is not annotated},
        )


def _again(function: Any, specs: dict[str, Any]) -> Any:
    return cast("Any", op)(function, **specs)


class ModuleOperator(_Caller):
    """An operator that calls an Equinox module; the module's arrays are leaves of the operator. Made by `op`.

    Attributes:
        module: The module.
        parameters: The parameters of its `__call__`.
    """

    module: eqx.Module
    parameters: Parameters = eqx.field(static=True)

    @property
    def name(self) -> str:
        """The name of the module's class."""
        return type(self.module).__name__

    def title(self) -> str:
        return self.name

    def forward(self, input: Any, /, *more: Any, **options: Any) -> Any:
        module: Any = self.module
        if self.parameters.several:
            return module(**type(self)._arguments(self, input))
        return module(input, *more, **options)


@overload
def op(function: eqx.Module, /) -> ModuleOperator: ...
@overload
def op(
    function: Callable[..., Any], /, *, input_spec: Any = ..., output_spec: Any = ...
) -> FunctionOperator: ...
@overload
def op(
    *, input_spec: Any = ..., output_spec: Any = ...
) -> Callable[[Callable[..., Any]], FunctionOperator]: ...
def op(function: Any = None, /, *, input_spec: Any = _ANNOTATED, output_spec: Any = _ANNOTATED) -> Any:
    """Make an operator from a function, sync or async, or from an Equinox module.

    If the function has one required parameter, it is called with the input. If it has several, it is called
    with the fields of the input, a dict or a model, that have the names of its parameters. These calls are
    the same: `op(add)({"x": 1, "y": 2})`, `op(add)(1, 2)` and `op(add)(x=1, y=2)`.

    Args:
        function: A function with at least one parameter.
        input_spec: The spec of its input: a pydantic model, a dataclass or a type; None for no check. By
            default it is read from the annotations. Typed dicts in annotations are not checked, since the
            state of a graph may lack keys.
        output_spec: The spec of its output, likewise.

    Raises:
        TypeError: if `function` is not callable, or is a class.

    Example:
        >>> from mahsm.operators import op
        >>> @op
        ... def double(number: int) -> int:
        ...     return number * 2
        >>> double("21"), double(number=4)
        (42, 8)
        >>> @op
        ... def power(base, exponent=2, *, times):
        ...     return base**exponent * times
        >>> power(3, times=2)
        18
    """
    if function is None:
        return partial(op, input_spec=input_spec, output_spec=output_spec)
    if isinstance(function, Operator):
        return function
    if isinstance(function, eqx.Module) and callable(function):
        return ModuleOperator(module=function, parameters=parameters_of(function))
    if not callable(function) or isinstance(function, type):
        raise TypeError(
            f"op got {shown(function)}; expected a function with at least one parameter or an Equinox module."
        )
    taken, given = specs_of(function)
    return FunctionOperator(
        function=function,
        input_spec=taken if input_spec is _ANNOTATED else input_spec,
        output_spec=given if output_spec is _ANNOTATED else output_spec,
        parameters=parameters_of(function),
    )
