"""Nodes: what stands between the keys of a state and the arguments of a function or module.

- `_node`    a node with a synchronous and an asynchronous side
- `_target`  whatever an edge can call, made into one thing
- `_parameter`  what a function says that it is called with
- `_example` the keys that an item gives by itself
- `_held`    places for DSPy modules, and what stands in for them inside a `GraphModule`
- `_outlet`  where the stream events of a node go
- `_dspy`    `dspy_node`, with `_fields` (state keys <-> fields) and `_tokens` (streaming); they import DSPy, so they are loaded
             when first used
"""

from typing import TYPE_CHECKING, Any

from mahsm._lazy import attach

if TYPE_CHECKING:
    from mahsm.nodes._dspy_node import DSPyNode as DSPyNode
    from mahsm.nodes._dspy_node import dspy_node as dspy_node

__all__ = ["DSPyNode", "dspy_node"]


def __getattr__(name: str) -> Any:
    return attach(__name__, {"DSPyNode": "mahsm.nodes._dspy_node", "dspy_node": "mahsm.nodes._dspy_node"}, name)
