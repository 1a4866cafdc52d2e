"""What an item is to a target by itself: `item`, and the fields of a DSPy example."""

import sys
from typing import Any

from mahsm._common import Overlay


def item_keys(item: Any) -> Overlay:
    """The keys that an item gives if nothing says otherwise.

    They are `{"item": item}`; of a `dspy.Example` also its fields, so that a module gets its inputs as from
    `dspy.Evaluate`: those that `with_inputs` names, and all where nothing is named. A field wins over `item`.
    """
    dspy: Any = sys.modules.get("dspy")  # whoever has made an example has imported it
    if dspy is None or not isinstance(item, dspy.Example):
        return {"item": item}
    example: Any = item
    try:
        fields = example.inputs()
    except (ValueError, AttributeError):  # none are named; a Prediction has no place for names
        fields = example
    return {"item": item, **dict(fields.items())}
