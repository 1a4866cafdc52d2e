"""`parallel`: branches at once, in order, in waves.

- `function`  its arguments; `spec`: what they mean
- `branch`    what a branch is; `waves`: in which order they run; `merge`: what comes of their updates
- `lowering`  how it becomes a LangGraph subgraph; `run`: one run of that
"""

from mahsm.edges._parallel.branch import Branch as Branch
from mahsm.edges._parallel.function import parallel as parallel

__all__ = ["Branch", "parallel"]
