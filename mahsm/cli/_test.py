"""`mahsm test`: one call of a model."""

import os
import time
from dataclasses import dataclass
from typing import Any

from mahsm.cli._outcome import Failed, Json, Output
from mahsm.errors import MahsmError

PROMPT = "Reply with the word OK."


def test(prompt: str = PROMPT, /, *, model: str | None = None, json: Json = False) -> Output:
    """Call a model once: its answer, time, tokens and cost.

    Args:
        prompt: What the model is asked.
        model: Such as openai/gpt-4o-mini; by default that of the settings.
    """
    call = call_once(model, prompt)
    cost = "unknown cost" if call.cost is None else f"${call.cost:.6f}"
    told = f"{call.model}: {call.seconds:.2f} s, {call.input_tokens} + {call.output_tokens} tokens, {cost}"
    return Output(vars(call), [call.text, told], json)


@dataclass(frozen=True)
class Call:
    """One call of a model.

    Attributes:
        model: The full name of the model.
        text: Its answer.
        seconds: From the request to the answer; clients are loaded before.
        input_tokens: Tokens of the prompt.
        output_tokens: Tokens of the answer.
        cost: US dollars; None if the price is unknown.
    """

    model: str
    text: str
    seconds: float
    input_tokens: int
    output_tokens: int
    cost: float | None


def call_once(model: str | None, prompt: str = PROMPT, **options: Any) -> Call:
    """Call a model, without cache and retries.

    Args:
        model: Its name; None for the default of the settings.
        prompt: What it is asked.
        **options: Further options of the call.

    Raises:
        Failed: if the provider refuses, or cannot be reached; the message has its answer.
        MahsmError: if the model is unknown, or its credential is missing.
    """
    # LiteLLM then reads prices from its package, not from the network.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

    from mahsm._models import models
    from mahsm._models._internal import default, full

    name = full(default() if model is None else model)
    binding = models.instance(name, cache=False, num_retries=0, **options)
    try:
        # Loading a client is no part of the call's time.
        _ = binding.client
        began = time.perf_counter()
        response = binding(prompt)
    except MahsmError:
        raise
    except Exception as error:
        raise Failed(f"{name!r} failed: {type(error).__name__}: {error}") from error
    seconds = time.perf_counter() - began
    usage, cost = response.usage, response.cost
    cost = None if cost is None else round(cost, 12)
    return Call(name, response.text, seconds, usage.input_tokens, usage.output_tokens, cost)
