"""`vmap`: a fan-out over a list in the state.

- `function`    `vmap` and its arguments; `spec`: the checked arguments; `options`: the types of some
- `batch`       where the items come from; `concurrency`: how many items run at a time
- `lowering`    compiles the edge into a LangGraph subgraph; `run`: one run of it
- `one_by_one`  an item that is a LangGraph task of its own; `together`: items that share a task
- `cut`         the stored form of a batch; `results`: results on their way to the tasks that hand them in
- `item_states` the states that the target is called with; `tally`: the outcomes of items so far
- `streamed`    a batch that is a stream, and results that go to a sink
- `outcomes`    the outcomes of all items, put together; `size`: a warning if they take much memory
- `warm`        items that run before the others, so that a provider's prompt cache is warm
- `executors`   items in other processes
- `cache`       items that need no call; `cache_key`: keys of caches
- `numeric`     `vmap` of a `jit_edge`: all items in one computation
"""

from mahsm.edges._vmap.function import vmap as vmap
from mahsm.edges._vmap.options import VmapOptions as VmapOptions

__all__ = ["VmapOptions", "vmap"]
