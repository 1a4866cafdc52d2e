"""DSPy's language model follows a block that sets models; mahsm's models never follow DSPy's."""

import sys
from contextlib import ExitStack
from typing import Any

from mahsm._context._internal import Layer, here


def follow(layer: Layer, before: Layer, leaving: ExitStack) -> None:
    """Have DSPy use the model of a block that begins, until it ends; no-op if it sets no models.

    Threads of DSPy's get its settings, and no context variables. So a block that sets models or credentials
    hands its context over in a setting, too; if DSPy is not imported, it has no threads.

    Args:
        layer: The layer of the block, which is current.
        before: The layer around the block.
        leaving: What is left at the end of the block.
    """
    settings: dict[str, Any] = {}
    if _sets("models", layer, before):
        # Imported here, since DSPy takes seconds.
        from mahsm._models import context_lm

        if (lm := context_lm()) is not None:
            settings["lm"] = lm
    has_keys = _sets("credentials", layer, before) or _sets("providers", layer, before)
    if settings or (has_keys and "dspy" in sys.modules):
        import dspy

        leaving.enter_context(dspy.context(**settings, **{here.SETTING: _Handed(here.current())}))


def _sets(section: str, layer: Layer, before: Layer) -> bool:
    return section in layer.values or layer.merged.get(section) != before.merged.get(section)


class _Handed:
    """A layer in DSPy's settings; in a pickle or on disk, it is none."""

    def __init__(self, value: Layer | None = None) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: object) -> tuple[type[Any], tuple[()]]:
        return _Handed, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Handed":
        return self
