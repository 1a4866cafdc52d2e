"""`parallel`: branches that run at the same time, one after the other, or in waves.

- `function`  `parallel` and its arguments; `spec`: the checked arguments
- `branch`    one branch and its options; `waves`: the order of branches; `merge`: one update of several
- `lowering`  compiles the edge into a LangGraph subgraph; `run`: one run of it
- `seats`     branches whose model calls are collected for batch jobs
"""

from mahsm.edges._parallel.branch import Branch as Branch
from mahsm.edges._parallel.branch import Branches as Branches
from mahsm.edges._parallel.branch import BranchSpec as BranchSpec
from mahsm.edges._parallel.branch import branch_specs as branch_specs
from mahsm.edges._parallel.function import edge_of_branches as edge_of_branches
from mahsm.edges._parallel.function import parallel as parallel
from mahsm.edges._parallel.lowering import ParallelLowering as ParallelLowering
from mahsm.edges._parallel.run import ParallelRun as ParallelRun
from mahsm.edges._parallel.spec import ParallelSpec as ParallelSpec
from mahsm.edges._parallel.waves import plan as plan

__all__ = [
    "Branch",
    "BranchSpec",
    "Branches",
    "ParallelLowering",
    "ParallelRun",
    "ParallelSpec",
    "branch_specs",
    "edge_of_branches",
    "parallel",
    "plan",
]
