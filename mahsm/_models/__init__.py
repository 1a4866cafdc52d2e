"""Calls of models.

`context_lm` makes DSPy's language model of the current context.
"""

from typing import TYPE_CHECKING, Any

from mahsm._context import config, credential

if TYPE_CHECKING:
    import dspy

__all__ = ["context_lm"]


def context_lm() -> "dspy.LM | None":
    """Return the model of the current context with its options; None if it has no default model."""
    options: dict[str, Any] = config("models", {})
    model = options.pop("default", None)
    if model is None:
        return None
    import dspy

    provider = model.partition("/")[0] if "/" in model else "openai"
    return dspy.LM(model, api_key=credential(provider), **options)
