"""`reduce_edge`: a fan-in by a reducer or a judge.

- `function`  `reduce_edge` and its arguments, its subgraph and its run
"""

from mahsm.edges._reduce.function import reduce_edge as reduce_edge

__all__ = ["reduce_edge"]
