"""The provider whose models a DSPy module or a binding of a model calls."""

import sys
from typing import Any

from mahsm.errors import LimitError


def provider_of(module: Any) -> str | None:
    """Return the provider of a module, a model, a binding, or, for None, of the configured language model.

    For "openai/gpt-4o-mini" it is "openai". It is None if no language model is set.

    Raises:
        LimitError: if the module uses several providers.
    """
    if hasattr(module, "_mahsm_provider"):  # a binding
        return module._mahsm_provider()
    dspy: Any = sys.modules.get("dspy")
    if dspy is None:
        return None
    if isinstance(module, dspy.BaseLM):
        own: list[Any] = [module]
    else:
        own = [] if module is None else [predictor.lm for predictor in module.predictors()]
    models: set[str] = {lm.model for lm in own or [None] if lm is not None}
    if dspy.settings.lm is not None and (not own or None in own):
        models.add(dspy.settings.lm.model)
    # DSPy, too, takes "openai" for a model without a provider.
    providers = {model.split("/")[0] if "/" in model else "openai" for model in models}
    if len(providers) > 1:
        raise LimitError(
            f"{type(module).__name__} has language models of several providers: "
            f"{', '.join(sorted(providers))}. Name the one to limit: RateLimit('openai', ...)."
        )
    return next(iter(providers), None)
