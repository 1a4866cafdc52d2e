"""Nodes: what stands between the keys of a state and the arguments of a function or module.

- `_node`           a node with a synchronous and an asynchronous side
- `_target`         whatever an edge can call, made into one thing
- `_parameter`      what a function says that it is called with
- `_example`        the keys that an item gives by itself
- `_single_try`     Runnables whose chat models do not try again by themselves
- `_provider`       the provider whose models a DSPy module calls
- `_module_ref`     references to DSPy modules, for which others are substituted inside a `GraphModule`
- `_position`       which item, of which edge runs, code runs in
- `_stream_target`  where the stream events of a node go
- `_dspy_node`      `dspy_node`, with `_dspy_fields` (state keys <-> fields), `_tokens` (streaming) and
                    `_unparsed`; they import DSPy, so they are loaded when first used
- `_internal`       what the packages above use
"""

from typing import TYPE_CHECKING, Any

from mahsm._lazy import attach

if TYPE_CHECKING:
    from mahsm.nodes._dspy_node import DSPyNode as DSPyNode
    from mahsm.nodes._dspy_node import dspy_node as dspy_node

__all__ = ["DSPyNode", "dspy_node"]


def __getattr__(name: str) -> Any:
    return attach(
        __name__, {"DSPyNode": "mahsm.nodes._dspy_node", "dspy_node": "mahsm.nodes._dspy_node"}, name
    )
