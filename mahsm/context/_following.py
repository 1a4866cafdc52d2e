"""DSPy's language model follows a block that sets models; mahsm's models never follow DSPy's."""

from contextlib import ExitStack

from mahsm._context._internal import Layer


def follow(layer: Layer, before: Layer, leaving: ExitStack) -> None:
    """Have DSPy use the model of a block that begins, until it ends; no-op if it sets no models.

    Args:
        layer: The layer of the block, which is current.
        before: The layer around the block.
        leaving: What is left at the end of the block.
    """
    if "models" not in layer.values and layer.merged.get("models") == before.merged.get("models"):
        return
    # Imported here, since DSPy takes seconds.
    from mahsm._models import context_lm

    lm = context_lm()
    if lm is not None:
        import dspy

        leaving.enter_context(dspy.context(lm=lm))
