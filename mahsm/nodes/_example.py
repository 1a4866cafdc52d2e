"""The state keys that an item sets by default: `item`, and the fields of a DSPy example."""

import sys
from typing import Any

from mahsm._common import Overlay


def item_keys(item: Any) -> Overlay:
    """Return the state keys that an item sets by default.

    They are `{"item": item}`, and for a `dspy.Example` also its fields, so that a module gets the same inputs
    as from `dspy.Evaluate`: the fields that `with_inputs` names, or all if it was not called. A field named
    `item` replaces the example.
    """
    # Code that makes examples has imported DSPy.
    dspy: Any = sys.modules.get("dspy")
    if dspy is None or not isinstance(item, dspy.Example):
        return {"item": item}
    example: Any = item
    try:
        fields = example.inputs()
    except (ValueError, AttributeError):
        # `with_inputs` was not called, or the item is a Prediction, which lacks it.
        fields = example
    return {"item": item, **dict(fields.items())}
