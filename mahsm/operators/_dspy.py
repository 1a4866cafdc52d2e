"""`as_dspy`: an operator as a DSPy module, and DSPy modules in the fields of operators."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import dspy
import equinox as eqx

from mahsm import _tasks
from mahsm._state import shown
from mahsm.errors import NodeError
from mahsm.operators._io import Boundary, Names
from mahsm.operators._operator import Operator


class OperatorModule(dspy.Module):
    """An operator as a DSPy module. Made by `as_dspy`.

    The DSPy modules in the operator's fields are its own: `named_predictors` finds them, optimisers and `set_lm` change them,
    and calls use them as they are then.

    Attributes:
        op: The operator.
        modules: Those modules, by where they are in the operator.
    """

    def __init__(self, op: Operator, input_fields: Names | None = None, output_fields: Names | None = None) -> None:
        super().__init__()
        self.op = op
        self.modules = dict(_modules(op, ""))
        self._boundary = Boundary(f"as_dspy({type(op).__name__})", op, input_fields, output_fields)

    def forward(self, **inputs: Any) -> dspy.Prediction:
        return self._prediction(_tasks.call(partial(self._current, self._input(inputs))))

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        return self._prediction(await self._current.acall(self._input(inputs)))

    @property
    def _current(self) -> Operator:
        """The operator with the modules as they are now: a copy of this one has copies of them."""
        return cast("Operator", _with_modules(self.op, self.modules, ""))

    def _input(self, inputs: dict[str, Any]) -> Any:
        return self._boundary.input(inputs)

    def _prediction(self, result: Any) -> dspy.Prediction:
        update = self._boundary.update(result, any_value=True)
        return dspy.Prediction(**(update if isinstance(update, dict) else {"output": update}))


def as_dspy(op: Operator, /, *, input_fields: Names | None = None, output_fields: Names | None = None) -> OperatorModule:
    """Make a DSPy module of an operator, which DSPy can evaluate and optimise.

    Args:
        op: The operator.
        input_fields: The argument whose value the operator takes; or the fields of its input. By default those of its
            `input_spec`; without one, all arguments as a dict.
        output_fields: The prediction's field that gets what the operator gives; or fields of that. By default all, or
            `output`.

    Raises:
        NodeError: at once, for what is no operator; when called, for an output without the fields.
        MissingKeyError: when called, for an argument that is missing.

    Example:
        >>> import dspy
        >>> from mahsm.operators import ModelOperator, as_dspy
        >>> answer = ModelOperator(dspy.utils.DummyLM([{"answer": "4"}]), signature="question -> answer: int")
        >>> module = as_dspy(answer, output_fields="answer")
        >>> [name for name, _ in module.named_predictors()], module(question="2 + 2").answer
        (["modules['.predictor']"], 4)
    """
    if not isinstance(op, Operator):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise NodeError(f"as_dspy: got {shown(op)}; expected an Operator. Make one of a function with mahsm.operators.op.")
    return OperatorModule(op, input_fields, output_fields)


def _modules(value: Any, where: str) -> Iterator[tuple[str, dspy.Module]]:
    """The DSPy modules in a value, by where they are."""
    if isinstance(value, dspy.Module):
        yield where, value
    else:
        for name, entry in _entries(value):
            yield from _modules(entry, f"{where}{name}")


def _with_modules(value: Any, modules: Mapping[str, dspy.Module], where: str) -> Any:
    """The value with these modules; what holds none is not copied."""
    if isinstance(value, dspy.Module):
        return modules[where]
    entries = _entries(value)
    made = [_with_modules(entry, modules, f"{where}{name}") for name, entry in entries]
    if all(new is entry for new, (_, entry) in zip(made, entries, strict=True)):
        return value
    if isinstance(value, eqx.Module):
        copy: Any = object.__new__(type(value))
        for name, entry in {**vars(value), **dict(zip((name[1:] for name, _ in entries), made, strict=True))}.items():
            object.__setattr__(copy, name, entry)
        return copy
    return dict(zip(cast("dict[Any, Any]", value), made, strict=True)) if isinstance(value, dict) else type(value)(made)


def _entries(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, eqx.Module):
        return [(f".{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, dict):
        return [(f"[{key!r}]", entry) for key, entry in cast("dict[Any, Any]", value).items()]
    if type(value) in (list, tuple):
        return [(f"[{index}]", entry) for index, entry in enumerate(cast("Sequence[Any]", value))]
    return []
