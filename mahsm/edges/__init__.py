"""The special edges, a folder each.

- `_vmap`, `_parallel`, `_reduce`, `_jit`  the four edges
- `_routed`    edges that choose which branch runs, for `mahsm.learn`
- `_batched`   runs whose model calls become jobs of a batch API
- `_shared`    the `Edge` class, and what the runs of all edges share
- `_internal`  exports for the packages above
"""

from mahsm._numeric import JitStats as JitStats
from mahsm.edges._jit import JitEdge as JitEdge
from mahsm.edges._jit import JitOptions as JitOptions
from mahsm.edges._jit import fuse as fuse
from mahsm.edges._jit import jit_edge as jit_edge
from mahsm.edges._parallel import Branch as Branch
from mahsm.edges._parallel import parallel as parallel
from mahsm.edges._reduce import reduce_edge as reduce_edge
from mahsm.edges._shared.edge import Edge as Edge
from mahsm.edges._vmap import VmapOptions as VmapOptions
from mahsm.edges._vmap import vmap as vmap

__all__ = [
    "Branch",
    "Edge",
    "JitEdge",
    "JitOptions",
    "JitStats",
    "VmapOptions",
    "fuse",
    "jit_edge",
    "parallel",
    "reduce_edge",
    "vmap",
]
