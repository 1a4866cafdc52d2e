"""The special edges.

- `_edge`    what all edges are: a node that LangGraph can look into
- `_edge_graph`, `_edge_run`  how the subgraph of an edge is run, and what its runs have in common
- `_drawing` how edges are drawn
- `_check`   checks of arguments

Fan-out:

- `_vmap`, `_vmap_spec`       `vmap`: its arguments, and what they mean for an item
- `_vmap_graph`, `_vmap_run`  how it becomes a subgraph; one run: its items, in tasks or threads
- `_one_by_one`, `_together`  an item that is a task of LangGraph; items that share one
- `_cut`, `_results`, `_outcomes`  what is stored of a batch, what tasks hand in, and what comes of both
- `_finished`                 items as they finish: events, and `as_completed`
- `_adaptive`, `_stop_when`   concurrency that is found out; an early end
- `_cache`, `_cache_key`      items that need not be called; keys of caches

Branches:

- `_parallel`, `_parallel_spec`       `parallel`: its arguments
- `_parallel_graph`, `_parallel_run`  how it becomes a subgraph; one run: its branches
- `_branch`, `_waves`, `_merge`       what a branch is, in which order they run, and what comes of their updates

What both need:

- `_writes`                what is written to keys that the parent's state reduces
- `_attempts`, `_hedging`  what an attempt waits for and is called with; two calls for one that takes unusually long
- `_heard`                 what streams, events and tracers hear of an edge and its items
- `_saving`, `_break_off`  what has been saved holds back new calls; how a run ends at an error
- `_items`, `_bound`       the slots that are held and lent; LangGraph's own `max_concurrency`

Fan-in: `_reduce`, `reduce_edge`.

Numeric work (what is compiled, and how, is in `mahsm._jit`):

- `_jit`, `_jit_edge`  `jit_edge`: its arguments; the edge
- `_fuse`, `_jit_vmap`  several as one; for every item of a list at once
"""

from mahsm.edges._branch import Branch as Branch
from mahsm.edges._edge import Edge as Edge
from mahsm.edges._fuse import fuse as fuse
from mahsm.edges._jit import jit_edge as jit_edge
from mahsm.edges._jit_edge import JitEdge as JitEdge
from mahsm.edges._parallel import parallel as parallel
from mahsm.edges._reduce import reduce_edge as reduce_edge
from mahsm.edges._vmap import vmap as vmap

__all__ = ["Branch", "Edge", "JitEdge", "fuse", "jit_edge", "parallel", "reduce_edge", "vmap"]
