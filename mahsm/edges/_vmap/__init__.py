"""`vmap`: a fan-out over a list in the state.

- `function`    its arguments; `spec`: what they mean for an item; `options`: the types of some
- `batch`       what the target is called for; `concurrency`: how many items at a time
- `lowering`    how it becomes a LangGraph subgraph; `run`: one run of that
- `one_by_one`  an item that is a task of LangGraph; `together`: items that share one
- `cut`         what is stored of a batch; `results`: what tasks hand in; `outcomes`: what comes of both
- `cache`       items that need not be called; `cache_key`: keys of caches
- `numeric`     for a `jit_edge`: all items in one computation
"""

from mahsm.edges._vmap.function import vmap as vmap
from mahsm.edges._vmap.options import VmapOptions as VmapOptions

__all__ = ["VmapOptions", "vmap"]
