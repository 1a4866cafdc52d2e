"""What one `parallel` edge was asked to do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mahsm._cached import cached
from mahsm._types import State
from mahsm.edges._branch import BranchSpec
from mahsm.edges._edge import StateReducer
from mahsm.edges._merge import Merger
from mahsm.edges._waves import Plan

OnBranchError: TypeAlias = Literal["raise", "isolate"]
Merge: TypeAlias = Callable[[State, dict[str, State]], Any]


@dataclass(frozen=True)
class ParallelSpec:
    """The arguments of `parallel`, checked, with the branches made ready."""

    name: str
    branches: Sequence[BranchSpec]
    scheduler: str
    plan: Plan
    merge: Merge | None
    max_concurrency: int | None
    on_error: OnBranchError
    errors_key: str | None
    deadline: float | None
    reducers: Mapping[str, StateReducer]

    @cached
    def merger(self) -> Merger:
        """Merges updates; with a `merge` of the user's, those that branches see are laid over each other as they come."""
        before = self.plan.before if self.merge is None else dict.fromkeys(self.plan.before, frozenset(self.plan.before))
        return Merger(self.name, before, self.reducers)

    def needs(self, name: str) -> frozenset[str]:
        """The branches without which this one cannot run, directly or not."""
        return self.plan.ancestors[name]
