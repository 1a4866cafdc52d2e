"""The checked arguments of one `parallel` edge."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mahsm._common import State, cached
from mahsm.edges._parallel.branch import BranchSpec
from mahsm.edges._parallel.merge import Merger
from mahsm.edges._parallel.waves import Plan
from mahsm.edges._shared.edge import StateReducer
from mahsm.edges._shared.ends import Ends
from mahsm.edges._shared.failures import Failures

OnBranchError: TypeAlias = Literal["raise", "isolate"]
Merge: TypeAlias = Callable[[State, dict[str, State]], Any]


@dataclass(frozen=True)
class ParallelSpec:
    """The checked arguments of `parallel`, with the branches ready to be called."""

    name: str
    branches: Sequence[BranchSpec]
    scheduler: str
    plan: Plan
    merge: Merge | None
    max_concurrency: int | None
    ends: Ends
    failures: Failures
    reducers: Mapping[str, StateReducer]

    @cached
    def merger(self) -> Merger:
        """The merger of updates.

        With a `merge` of the user's, any two branches may write one key: the updates that a branch sees are
        laid over each other in order, and `merge` resolves the rest.
        """
        before = (
            self.plan.before
            if self.merge is None
            else dict.fromkeys(self.plan.before, frozenset(self.plan.before))
        )
        return Merger(self.name, before, self.reducers)

    def needs(self, name: str) -> frozenset[str]:
        """Return the branches that this one depends on, directly or indirectly."""
        return self.plan.ancestors[name]
