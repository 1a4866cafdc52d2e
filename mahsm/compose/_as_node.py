"""Composed functions as nodes and targets: they read the state as the function that they are made of does."""

import inspect
import sys
from dataclasses import make_dataclass
from typing import Any, cast

from mahsm.compose._calls import hints_of
from mahsm.compose._function import ComposedFunction
from mahsm.nodes._internal import node_of
from mahsm.operators import FunctionOperator, Operator, OperatorNode
from mahsm.operators._internal import parameters_of, specs_of


@node_of.register(ComposedFunction)
def _node_of(function: ComposedFunction[..., Any]) -> Any:
    kind = function.kind
    if kind.of != "function":
        return OperatorNode(_InNode(function), any_value=True, name=kind.name)
    if not kind.parameters.several:
        return _as_function(function)
    first = _innermost(function)
    by_name = _ByName(
        function=function, input_spec=specs_of(first)[0], output_spec=None, parameters=parameters_of(first)
    )
    return OperatorNode(by_name, any_value=True, name=kind.name)


def _innermost(function: Any) -> Any:
    while isinstance(function, ComposedFunction):
        function = cast("Any", function).first
    return function


class _ByName(FunctionOperator):
    """A function whose arguments are the fields of the input."""

    async def aforward(self, input: Any, /, *more: Any, **options: Any) -> Any:
        return await self.function.acall(**type(self)._arguments(self, input))

    @property
    def awaits(self) -> bool:
        return self.function.awaits


class _InNode(Operator):
    """A function of operators or DSPy modules, which check their input themselves."""

    function: Any

    @property
    def input_spec(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The spec of the first operator, or the fields of the first module."""
        kind = self.function.kind
        if kind.of == "module":
            return make_dataclass(kind.name, [(name, Any, None) for name in kind.parameters.names])
        return getattr(_innermost(self.function), "input_spec", None)

    def forward(self, input: Any, /) -> Any:
        return _fields(self.function(input))

    async def aforward(self, input: Any, /) -> Any:
        return _fields(await self.function.acall(input))

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return type(self).forward(self, *inputs)

    async def acall(self, *inputs: Any, **options: Any) -> Any:
        return await type(self).aforward(self, *inputs)

    @property
    def awaits(self) -> bool:
        return self.function.awaits


def _fields(result: Any) -> Any:
    """Return the fields of a prediction as a dict, and anything else as it is."""
    dspy: Any = sys.modules.get("dspy")
    return dict(result.items()) if dspy is not None and isinstance(result, dspy.Prediction) else result


def _as_function(function: ComposedFunction[..., Any]) -> Any:
    """Return a plain function that says of itself what the first one says, and what the last one returns."""

    async def awaiting(*args: Any, **kwargs: Any) -> Any:
        return await function.acall(*args, **kwargs)

    def blocking(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    made: Any = awaiting if function.awaits else blocking
    made.__name__ = made.__qualname__ = function.__name__
    made.__doc__ = function.__doc__
    made.__annotations__ = {
        name: hint for name, hint in hints_of(_innermost(function)).items() if name != "return"
    }
    if function.returns is not None:
        made.__annotations__["return"] = function.returns
    try:
        made.__signature__ = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none
        made.__signature__ = inspect.Signature(
            [inspect.Parameter("state", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        )
    return made
