"""`as_dspy`: an operator as a DSPy module."""

from functools import partial
from typing import Any, cast

import dspy

from mahsm._common import shown
from mahsm._waiting import tasks
from mahsm.errors import NodeError
from mahsm.operators._io import Boundary, Names
from mahsm.operators._modules import modules_in, with_modules
from mahsm.operators._operator import Operator, without_forward


class OperatorModule(dspy.Module):
    """An operator as a DSPy module. Made by `as_dspy`.

    The DSPy modules in the operator's fields are its submodules: `named_predictors` finds them, optimisers
    and `set_lm` change them, and each call uses their present version.

    Attributes:
        op: The operator.
        modules: Those modules, by their path in the operator.
    """

    def __init__(
        self, op: Operator, input_fields: Names | None = None, output_fields: Names | None = None
    ) -> None:
        super().__init__()
        self.op = op
        self.modules: dict[str, Any] = dict(modules_in(op))
        self._boundary = Boundary(f"as_dspy({type(op).title(op)})", op, input_fields, output_fields)

    def forward(self, **inputs: Any) -> dspy.Prediction:
        return self._prediction(tasks.call(partial(self._current, self._input(inputs))))

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        return self._prediction(await self._current.acall(self._input(inputs)))

    @property
    def _current(self) -> Operator:
        """The operator with the present modules; a deep copy of this module has its own copies of them."""
        return cast("Operator", with_modules(self.op, self.modules))

    def _input(self, inputs: dict[str, Any]) -> Any:
        return self._boundary.input(inputs)

    def _prediction(self, result: Any) -> dspy.Prediction:
        update = self._boundary.update(result, any_value=True)
        return dspy.Prediction(**(update if isinstance(update, dict) else {"output": update}))


def as_dspy(
    op: Operator, /, *, input_fields: Names | None = None, output_fields: Names | None = None
) -> OperatorModule:
    """Make a DSPy module from an operator, which DSPy can then evaluate and optimise.

    Args:
        op: The operator.
        input_fields: The argument whose value is the input; or the fields of the input, which are arguments.
            By default the fields of the operator's `input_spec`; without a spec, all arguments as a dict.
        output_fields: The prediction's field for the output; or the fields of the output. By default all
            fields, or `output` if the output has no fields.

    Raises:
        NodeError: immediately, if `op` is not an operator; when called, if the output lacks a field.
        MissingKeyError: when called, if an argument is missing.

    Example:
        >>> import dspy
        >>> from mahsm.operators import ModelOperator, as_dspy
        >>> answer = ModelOperator(dspy.utils.DummyLM([{"answer": "4"}]), signature="question -> answer: int")
        >>> module = as_dspy(answer, output_fields="answer")
        >>> [name for name, _ in module.named_predictors()], module(question="2 + 2").answer
        (["modules['.predictor']"], 4)
    """
    if not isinstance(op, Operator):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise NodeError(
            f"as_dspy: got {shown(op)}; expected an Operator. Make one from a function with "
            "mahsm.operators.op."
        )
    if (problem := without_forward(op)) is not None:
        raise NodeError(f"as_dspy: {problem}")
    return OperatorModule(op, input_fields, output_fields)
