"""`reduce_edge`: a fan-in by a reducer or a judge.

- `function`   its arguments, and its run
"""

from mahsm.edges._reduce.function import reduce_edge as reduce_edge

__all__ = ["reduce_edge"]
