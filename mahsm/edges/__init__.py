"""The special edges.

- `_edge`    what all edges are: a node that LangGraph can look into
- `_vmap`    `vmap`: its arguments
- `_spec`    what they mean for an item
- `_lower`   how a `vmap` becomes a subgraph, and how that is run
- `_run`     one run: its items, in tasks or threads
- `_attempts` what an attempt of an item waits for, and what it is called with
- `_hedging`  two calls for one item that takes unusually long
- `_adaptive` concurrency that finds out by itself what a provider takes
- `_cache`    items that need not be called
- `_stop_when` when the entries so far are enough
- `_items`   an item and the slots that it lends to edges inside it
- `_bound`   LangGraph's own `max_concurrency`
- `_reduce`  `reduce_edge`
- `_check`   checks of arguments
"""

from mahsm.edges._edge import Edge as Edge
from mahsm.edges._reduce import reduce_edge as reduce_edge
from mahsm.edges._vmap import vmap as vmap

__all__ = ["Edge", "reduce_edge", "vmap"]
