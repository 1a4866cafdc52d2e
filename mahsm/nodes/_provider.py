"""The provider whose models a DSPy module calls."""

import sys
from typing import Any

from mahsm.errors import LimitError


def provider_of(module: Any) -> str | None:
    """The provider of the DSPy language models that a module uses, or that are configured if it is None.

    It is "openai" of "openai/gpt-4o-mini"; None if there is no language model.

    Raises:
        LimitError: if it has several.
    """
    dspy: Any = sys.modules.get("dspy")
    if dspy is None:
        return None
    own = [] if module is None else [predictor.lm for predictor in module.predictors()]
    models: set[str] = {lm.model for lm in own or [None] if lm is not None}
    if dspy.settings.lm is not None and (not own or None in own):
        models.add(dspy.settings.lm.model)
    providers = {model.split("/")[0] if "/" in model else "openai" for model in models}  # as DSPy takes it
    if len(providers) > 1:
        raise LimitError(
            f"{type(module).__name__} has language models of several providers: "
            f"{', '.join(sorted(providers))}. Say which one the limit is of: RateLimit('openai', ...)."
        )
    return next(iter(providers), None)
