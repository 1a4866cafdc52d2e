"""`jit_edge`: numeric work compiled by JAX; what is compiled, and how, is in `mahsm._numeric`.

- `function`  its arguments
- `edge`      the edge; `options`: the types of what its `with_` takes
- `fuse`      several as one
"""

from mahsm.edges._jit.edge import JitEdge as JitEdge
from mahsm.edges._jit.edge import drawn_steps as drawn_steps
from mahsm.edges._jit.function import jit_edge as jit_edge
from mahsm.edges._jit.fuse import fuse as fuse
from mahsm.edges._jit.options import JitOptions as JitOptions

__all__ = ["JitEdge", "JitOptions", "drawn_steps", "fuse", "jit_edge"]
