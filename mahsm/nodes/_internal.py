"""What of nodes the edges, graphs and operators use."""

from mahsm.nodes._example import item_keys as item_keys
from mahsm.nodes._fields import Inputs as Inputs
from mahsm.nodes._fields import check_gives_fields as check_gives_fields
from mahsm.nodes._fields import output_names as output_names
from mahsm.nodes._fields import plain as plain
from mahsm.nodes._held import Held as Held
from mahsm.nodes._held import HoldsGraph as HoldsGraph
from mahsm.nodes._held import Place as Place
from mahsm.nodes._held import anything_stands_in as anything_stands_in
from mahsm.nodes._held import standing_in as standing_in
from mahsm.nodes._node import Async as Async
from mahsm.nodes._node import Node as Node
from mahsm.nodes._node import Sync as Sync
from mahsm.nodes._node import node_name as node_name
from mahsm.nodes._outlet import EDGE as EDGE
from mahsm.nodes._outlet import ITEM as ITEM
from mahsm.nodes._outlet import Outlet as Outlet
from mahsm.nodes._outlet import of_edge as of_edge
from mahsm.nodes._parameter import annotations_of as annotations_of
from mahsm.nodes._parameter import keys_of as keys_of
from mahsm.nodes._provider import provider_of as provider_of
from mahsm.nodes._single_try import single_try as single_try
from mahsm.nodes._target import Target as Target
from mahsm.nodes._target import as_target as as_target
from mahsm.nodes._target import node_of as node_of
from mahsm.nodes._target import plain_update as plain_update
from mahsm.nodes._unparsed import Unparsed as Unparsed

__all__ = [
    "EDGE",
    "ITEM",
    "Async",
    "Held",
    "HoldsGraph",
    "Inputs",
    "Node",
    "Outlet",
    "Place",
    "Sync",
    "Target",
    "Unparsed",
    "annotations_of",
    "anything_stands_in",
    "as_target",
    "check_gives_fields",
    "item_keys",
    "keys_of",
    "node_name",
    "node_of",
    "of_edge",
    "output_names",
    "plain",
    "plain_update",
    "provider_of",
    "single_try",
    "standing_in",
]
