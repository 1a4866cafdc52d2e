"""Graphs: edges wired into them, and a whole one as a DSPy program.

- `_connect`  `connect`: edges between the nodes of a graph that is being built
- `_find`     where in a compiled graph DSPy modules are
- `_trace`    the trace of one run, in an order that does not depend on who was quicker
- `_streams`  what `dspy.streamify` hears of a graph
- `_source`   what optimisers read as the source of a graph
- `_module`   `GraphModule`: a compiled graph as a DSPy module
- `_recorded` what modules gave, as plain data
- `_serializer` `DSPySerializer`: how a checkpointer stores the types of DSPy
- `_replay`   `forward`, run again with the calls that it has made before
- `_placeholders`  what stands for the modules of a program inside of `forward`
- `_program`  `dspy_program`: a DSPy program as a graph; both import DSPy, so they are loaded when first used
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
