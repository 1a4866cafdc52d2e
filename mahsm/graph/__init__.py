"""Graphs: adding edges to a graph, a graph as a DSPy program, and a DSPy program as a graph.

- `_connect`  `connect`: adds edges to a graph that is being built
- `_find`     looks into a compiled graph, for DSPy modules
- `_trace`    the trace of one run, in an order that does not depend on timing
- `_streams`  streams of `dspy.streamify` from a graph
- `_source`   the source of a graph that optimisers read
- `_module`   `GraphModule`: a compiled graph as a DSPy module
- `_recorded` results of modules as plain data
- `_serializer` `DSPySerializer`: lets a checkpointer store the types of DSPy
- `_replay`   runs `forward` again with the results of earlier calls
- `_placeholders`  placeholders for the modules of a program inside `forward`
- `_program`  `dspy_program`: a DSPy program as a graph
- `_on_examples` a graph that is run on examples; `_internal`: exports for `mahsm.learn`

Most of these import DSPy, so they are loaded when first used.
"""

from typing import TYPE_CHECKING, Any

from mahsm import edges as edges
from mahsm._lazy import attach
from mahsm.graph._connect import connect as connect

if TYPE_CHECKING:
    from mahsm.graph._module import GraphModule as GraphModule
    from mahsm.graph._program import dspy_program as dspy_program
    from mahsm.graph._serializer import DSPySerializer as DSPySerializer

__all__ = ["DSPySerializer", "GraphModule", "connect", "dspy_program", "edges"]

_LAZY = {
    "DSPySerializer": "mahsm.graph._serializer",
    "GraphModule": "mahsm.graph._module",
    "dspy_program": "mahsm.graph._program",
}


def __getattr__(name: str) -> Any:
    return attach(__name__, _LAZY, name)
