"""Structured outputs: a type in place of a text, through the adapter that DSPy is set to."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

import dspy
from pydantic import PydanticUserError

from mahsm._common import shown
from mahsm._models import _prompts
from mahsm._models._ask import Ask
from mahsm._models._response import Response
from mahsm._waiting import Way
from mahsm.errors import ModelError

_INSTRUCTIONS = "Answer the prompt."


async def answer(way: Way, lm: Any, ask: Ask) -> Any:
    """Return a value of the type `ask.output`.

    Raises:
        ModelError: if a prompt with earlier turns has more than text in them.
    """
    turns = _prompts.turns(ask.prompt)
    told = [ask.system, *(one["content"] for one in turns if one["role"] in ("system", "developer"))]
    said = [one for one in turns if one["role"] not in ("system", "developer")]
    inputs: dict[str, Any] = {"past": _history(said[:-1])} if len(said) > 1 else {}
    inputs |= _last(said[-1]["content"] if said else "")
    instructions = "\n".join(one for one in told if one) or _INSTRUCTIONS
    predict = dspy.Predict(
        _signature(ask.output, instructions, {name: type(value) for name, value in inputs.items()})
    )
    call: dict[str, Any] = {**inputs, "lm": lm, "config": ask.options}
    # The predictor is of this call, so it must not be in the trace that an optimiser reads.
    with dspy.context(trace=None):
        prediction: Any = await way.call(lambda: predict(**call), lambda: predict.acall(**call))
    return prediction.output


def _last(content: Any) -> dict[str, Any]:
    """Return the fields of the last message: its text, and images and the like."""
    parts = _prompts.parts_of(content)
    others = [part for part in parts if isinstance(part, dspy.Type)]
    texts = [part for part in parts if not isinstance(part, dspy.Type)]
    fields: dict[str, Any] = {f"attachment_{number}": part for number, part in enumerate(others, 1)}
    return {**fields, "prompt": "\n".join(map(_text, texts))}


def _history(turns: list[_prompts.Message]) -> dspy.History:
    """Return earlier turns, as DSPy's adapters send them: pairs of a prompt and an output."""
    pairs: list[dict[str, Any]] = []
    for one in turns:
        text = "\n".join(map(_text, _prompts.parts_of(one["content"])))
        if one["role"] == "user":
            pairs.append({"prompt": text})
        elif pairs and "output" not in pairs[-1]:
            pairs[-1]["output"] = text
        else:
            pairs.append({"output": text})
    return dspy.History(messages=pairs)


def _text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and cast("Any", part).get("type") == "text":
        return str(cast("Any", part).get("text"))
    if isinstance(part, Response):
        return str(part)
    raise ModelError(
        f"models: {shown(cast('Any', part))} cannot be part of a prompt with output=; "
        "expected strings, and in the last message dspy.Image and the like."
    )


def _signature(output: Any, instructions: str, inputs: dict[str, type]) -> Any:
    try:
        return _made(output, instructions, tuple(inputs.items()))
    except TypeError:  # the type cannot be hashed
        return _made.__wrapped__(output, instructions, tuple(inputs.items()))


@lru_cache(256)
def _made(output: Any, instructions: str, inputs: tuple[tuple[str, type], ...]) -> Any:
    fields: Any = {name: (kind, dspy.InputField()) for name, kind in inputs}
    try:
        return dspy.make_signature({**fields, "output": (output, dspy.OutputField())}, instructions)
    except PydanticUserError as error:
        raise ModelError(
            f"models: output={shown(output)} cannot be a structured output: {error.message}"
        ) from error
