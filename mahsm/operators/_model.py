"""`ModelOperator`: a language model and a prompt."""

from collections.abc import Mapping
from typing import Any, cast

import equinox as eqx

from mahsm._common import as_dict, missing, shown
from mahsm._models import ModelBinding
from mahsm.errors import MissingKeyError
from mahsm.operators._operator import Operator
from mahsm.operators._operator_fields import template_variables


class ModelOperator(Operator):
    """Call a language model; return its answer as a string, or typed through a DSPy signature.

    Args:
        model: The model's name, such as "openai/gpt-4o-mini", a `dspy.LM` or a `ModelBinding`.
        prompt: A template in the syntax of `str.format`. Its variables are the inputs. With `answer`, the
            template becomes the instructions of a signature.
        answer: The type of the answer, such as `float`, `bool`, `Literal[...]` or a pydantic model.
        signature: A DSPy signature, such as "question -> answer: float", instead of `prompt` and `answer`.

    The input is a dict or a model with the variables; if there is only one variable, the input may be its
    value. If a signature has several outputs, the result is a dict of them.

    Raises:
        ValueError: immediately, if neither or both of `prompt` and `signature` are given, or if `answer` is
            given for a prompt without variables.
        MissingKeyError: when called, if the input lacks a variable.

    Example:
        >>> import dspy
        >>> from mahsm.operators import ModelOperator
        >>> lm = dspy.utils.DummyLM([{"answer": "0.5"}])
        >>> grade = ModelOperator(lm, "Grade this essay: {essay}", answer=float)
        >>> grade("It was a dark and stormy night.")
        0.5
    """

    model: Any = eqx.field(static=True)
    prompt: str | None = eqx.field(static=True)
    predictor: Any = eqx.field(static=True)
    variables: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self, model: Any, prompt: str | None = None, *, answer: Any = None, signature: Any = None
    ) -> None:
        if (prompt is None) == (signature is None):
            raise ValueError(
                f"ModelOperator got prompt={shown(prompt)} and signature={shown(signature)}; expected one of "
                "them."
            )
        if signature is not None and answer is not None:
            raise ValueError(
                f"ModelOperator got signature and answer={shown(answer)}; give the type in the signature."
            )
        self.model = _binding(model)
        self.prompt = prompt
        self.predictor = None
        if prompt is not None:
            self.variables = template_variables(prompt)
        if signature is not None or answer is not None:
            self.predictor = _predictor(prompt, answer, signature)
            self.variables = tuple(self.predictor.signature.input_fields)

    def forward(self, input: Any, /) -> Any:
        values = self._values(input)
        if self.predictor is None:
            return self.model(cast("str", self.prompt).format(**values)).text
        return self._answer(self.predictor(**values, lm=self._lm))

    async def aforward(self, input: Any, /) -> Any:
        values = self._values(input)
        if self.predictor is None:
            return (await self.model.acall(cast("str", self.prompt).format(**values))).text
        return self._answer(await self.predictor.acall(**values, lm=self._lm))

    @property
    def _lm(self) -> Any:
        # An optimiser or `set_lm` may have set the predictor's own model.
        return self.predictor.lm or self.model.lm

    def _values(self, input: Any) -> dict[str, Any]:
        if len(self.variables) == 1 and not _has(input, self.variables[0]):
            return {self.variables[0]: input}
        values = as_dict(input) if self.variables else {}
        for name in self.variables:
            if name not in values:
                raise MissingKeyError(
                    f"ModelOperator: {missing(values, name, 'the input')} Its prompt needs {name!r}."
                )
        return {name: values[name] for name in self.variables}

    def _answer(self, prediction: Any) -> Any:
        outputs = {name: prediction[name] for name in self.predictor.signature.output_fields}
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def _binding(model: Any) -> ModelBinding:
    return ModelBinding.of(model)


def _has(input: Any, name: str) -> bool:
    return name in input if isinstance(input, Mapping) else hasattr(input, name)


def _predictor(prompt: str | None, answer: Any, signature: Any) -> Any:
    import dspy

    if prompt is None:
        return dspy.Predict(signature)
    names = template_variables(prompt)
    if not names:
        raise ValueError(
            f"ModelOperator got the prompt {shown(prompt)}, without variables; expected at least one, such "
            "as '{question}'."
        )
    fields: Any = {name: (str, dspy.InputField()) for name in names}
    fields["answer"] = (answer, dspy.OutputField())
    return dspy.Predict(dspy.make_signature(fields, instructions=prompt))
