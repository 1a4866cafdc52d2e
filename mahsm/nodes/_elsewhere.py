"""DSPy's language models and settings in other processes, where they come without their keys."""

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, cast

from mahsm._model_calls import plain_adapter


def model_elsewhere(value: object) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
    """Return how to make a language model again in another process, if the value is one: without its key.

    There, the key comes from the environment.
    """
    dspy: Any = sys.modules.get("dspy")
    if dspy is None or not isinstance(value, dspy.LM):
        return None
    return _model, (cast("Any", value).dump_state(),)


def _model(state: dict[str, Any]) -> Any:
    import dspy

    return cast("Any", dspy.BaseLM).load_state(state, allow_custom_lm_class=True)


def settings_elsewhere() -> Callable[[], AbstractContextManager[Any]] | None:
    """Return a function that crosses to other processes, and returns a block with the settings of this one.

    None, if no language model is set here.
    """
    dspy: Any = sys.modules.get("dspy")
    if dspy is None or dspy.settings.lm is None:
        return None
    found = {"lm": dspy.settings.lm, "adapter": plain_adapter(dspy.settings.adapter)}
    return partial(_inside, found)


def _inside(settings: Mapping[str, Any]) -> AbstractContextManager[Any]:
    import dspy

    return cast("Any", dspy).context(**settings)
