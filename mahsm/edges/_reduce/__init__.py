"""`reduce_edge`: a fan-in by a reducer or a judge.

- `function`   its arguments, and its run
- `streaming`  reducers that take value by value, and `stop_when`
"""

from mahsm.edges._reduce.function import reduce_edge as reduce_edge
from mahsm.edges._reduce.streaming import Reducer as Reducer
from mahsm.edges._reduce.streaming import StopWhen as StopWhen
from mahsm.edges._reduce.streaming import decider as decider
from mahsm.edges._reduce.streaming import streams_as as streams_as

__all__ = ["Reducer", "StopWhen", "decider", "reduce_edge", "streams_as"]
