"""Nodes: they convert between the keys of a state and the arguments of functions and modules.

- `_node`           `Node`: a LangGraph node with a sync and an async function
- `_target`         `Target`: anything that an edge can call, in one form
- `_blocking`       graphs whose nodes block
- `_parameter`      annotations of a function: its input and its output
- `_example`        the state keys that an item sets by default
- `_single_try`     Runnables without retries of their own
- `_provider`       the provider whose models a DSPy module calls
- `_module_ref`     references to DSPy modules, which a `GraphModule` substitutes
- `_position`       the item and the edge runs that code runs in
- `_elsewhere`      DSPy's models and settings in other processes
- `_stream_target`  the stream that a node's events go to
- `_dspy_node`      `dspy_node`, with `_dspy_fields` (state keys <-> fields), `_tokens` (streaming),
                    `_prompt_prefix` and `_unparsed`; they import DSPy, so they are loaded when first used
- `_internal`       names that other packages of mahsm import
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
