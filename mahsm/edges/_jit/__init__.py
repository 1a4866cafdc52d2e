"""`jit_edge`: numeric functions compiled by JAX; the compilation itself is in `mahsm._numeric`.

- `function`  `jit_edge` and its arguments
- `edge`      the edge; `options`: the types of the arguments of its `with_`
- `fuse`      several edges as one computation
"""

from mahsm.edges._jit.edge import JitEdge as JitEdge
from mahsm.edges._jit.edge import drawn_steps as drawn_steps
from mahsm.edges._jit.function import jit_edge as jit_edge
from mahsm.edges._jit.fuse import fuse as fuse
from mahsm.edges._jit.options import JitOptions as JitOptions

__all__ = ["JitEdge", "JitOptions", "drawn_steps", "fuse", "jit_edge"]
