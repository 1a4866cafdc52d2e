"""Names of this package that edges, graphs and operators import.

What imports DSPy is imported when it is first used: targets that are functions need none of it.
"""

from typing import TYPE_CHECKING, Any

from mahsm._lazy import attach
from mahsm.nodes._blocking import has_blocking_nodes as has_blocking_nodes
from mahsm.nodes._elsewhere import model_elsewhere as model_elsewhere
from mahsm.nodes._elsewhere import settings_elsewhere as settings_elsewhere
from mahsm.nodes._example import item_keys as item_keys
from mahsm.nodes._module_ref import HoldsGraph as HoldsGraph
from mahsm.nodes._module_ref import ModulePlace as ModulePlace
from mahsm.nodes._module_ref import ModuleRef as ModuleRef
from mahsm.nodes._module_ref import is_substituted as is_substituted
from mahsm.nodes._module_ref import substituted as substituted
from mahsm.nodes._node import Async as Async
from mahsm.nodes._node import Node as Node
from mahsm.nodes._node import Sync as Sync
from mahsm.nodes._node import node_name as node_name
from mahsm.nodes._parameter import annotations_of as annotations_of
from mahsm.nodes._parameter import is_item as is_item
from mahsm.nodes._parameter import keys_of as keys_of
from mahsm.nodes._position import Finished as Finished
from mahsm.nodes._position import Position as Position
from mahsm.nodes._position import StreamTarget as StreamTarget
from mahsm.nodes._position import position as position
from mahsm.nodes._provider import provider_of as provider_of
from mahsm.nodes._single_try import single_try as single_try
from mahsm.nodes._stream_target import EDGE as EDGE
from mahsm.nodes._stream_target import ITEM as ITEM
from mahsm.nodes._target import Target as Target
from mahsm.nodes._target import as_target as as_target
from mahsm.nodes._target import node_of as node_of
from mahsm.nodes._target import plain_update as plain_update
from mahsm.nodes._unparsed import Unparsed as Unparsed

if TYPE_CHECKING:
    from mahsm.nodes._dspy_fields import FieldInputs as FieldInputs
    from mahsm.nodes._dspy_fields import check_gives_fields as check_gives_fields
    from mahsm.nodes._dspy_fields import output_names as output_names
    from mahsm.nodes._dspy_fields import plain as plain

__all__ = [
    "EDGE",
    "ITEM",
    "Async",
    "FieldInputs",
    "Finished",
    "HoldsGraph",
    "ModulePlace",
    "ModuleRef",
    "Node",
    "Position",
    "StreamTarget",
    "Sync",
    "Target",
    "Unparsed",
    "annotations_of",
    "as_target",
    "check_gives_fields",
    "has_blocking_nodes",
    "is_item",
    "is_substituted",
    "item_keys",
    "keys_of",
    "model_elsewhere",
    "node_name",
    "node_of",
    "output_names",
    "plain",
    "plain_update",
    "position",
    "provider_of",
    "settings_elsewhere",
    "single_try",
    "substituted",
]
_HOMES = {
    "FieldInputs": "mahsm.nodes._dspy_fields",
    "check_gives_fields": "mahsm.nodes._dspy_fields",
    "output_names": "mahsm.nodes._dspy_fields",
    "plain": "mahsm.nodes._dspy_fields",
}


def __getattr__(name: str) -> Any:
    return attach(__name__, _HOMES, name)
