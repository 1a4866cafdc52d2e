"""`parallel`: branches that run at the same time, one after the other, or in waves.

- `function`  `parallel` and its arguments; `spec`: the checked arguments
- `branch`    one branch and its options; `waves`: the order of branches; `merge`: one update of several
- `lowering`  compiles the edge into a LangGraph subgraph; `run`: one run of it
- `seats`     branches whose model calls are collected for batch jobs
"""

from mahsm.edges._parallel.branch import Branch as Branch
from mahsm.edges._parallel.function import parallel as parallel

__all__ = ["Branch", "parallel"]
