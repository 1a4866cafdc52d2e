"""Everything that one example draws for a `parallel`, and what must come of it."""

from dataclasses import dataclass
from typing import Any

from tests.model.case import ASYNC_MODES, Fault, Short

ITEMS = 3
"""How many items a branch that is a `vmap` has."""


@dataclass(frozen=True, repr=False)
class BranchCase(Short):
    """One example of branches. Branch `n` is named `b<n>` and writes the key of that name.

    Attributes:
        after: For each branch the ones that it depends on, all of them with smaller numbers.
        order: The order in which the branches are listed.
        rows: In how many rows of a `vmap` the edge runs, or None if there is no `vmap` around it.
        blocks: Which branches block; the others are coroutines.
        edges: Which branches are a `vmap`.
        fails: Pairs of a branch and how often it fails, in each row.
        asks: Branches that call `interrupt()`.
        merged: Whether a function of the user's merges.
    """

    after: tuple[tuple[int, ...], ...] = ((), (0,))
    order: tuple[int, ...] = (0, 1)
    mode: str = "invoke"
    nesting: str = "flat"
    rows: int | None = None
    blocks: tuple[int, ...] = ()
    edges: tuple[int, ...] = ()
    scheduler: str = "wave"
    eager: bool = False
    wave_size: int | None = None
    max_concurrency: int | None = None
    config_bound: int | None = None
    attempts: int | None = None
    on_error: str = "raise"
    fails: tuple[tuple[int, int], ...] = ()
    asks: tuple[int, ...] = ()
    answers_all: bool = True
    merged: bool = False
    saver: str | None = None
    slow: float = 0.0
    durability: str = "async"
    fault: Fault | None = None

    @property
    def is_async(self) -> bool:
        return self.mode in ASYNC_MODES

    @property
    def resumed(self) -> "BranchCase":
        return self

    @property
    def size(self) -> int:
        return len(self.after)

    @property
    def bound(self) -> int:
        """How many calls there may be at any moment, in all rows together."""
        most = (self.max_concurrency or self.size) * (self.rows or 1)
        return min([most, *([self.config_bound] if self.config_bound else [])])

    @property
    def is_logged(self) -> bool:
        """Whether branches also write a key that the parent's state reduces, which is known where `connect`
        wires the edge."""
        return not self.merged and self.rows is None

    def tries(self, branch: int) -> int:
        return 1 if branch in self.edges else self.attempts or 1


@dataclass
class Expected:
    """What comes of one row.

    Attributes:
        update: What the branches that succeed write, without what is merged.
        failed: Branches that fail.
        skipped: Branches that depend on those.
    """

    update: dict[str, Any]
    failed: list[int]
    skipped: list[int]

    @property
    def done(self) -> list[int]:
        return [int(name[1:]) for name in self.update]


def value_of(case: BranchCase, branch: int, needs: list[Any], answer: int) -> Any:
    """What a branch writes, of what those that it depends on have written."""
    if branch in case.edges:
        return [branch * 10 + item for item in range(ITEMS)]
    return 1 + answer + sum(sum(need) if isinstance(need, list) else need for need in needs)


def plain_branches(case: BranchCase, answer: int) -> Expected:
    """The branches one after the other."""
    fails = dict(case.fails)
    expected = Expected({}, [], [])
    values: dict[int, Any] = {}
    for branch in range(case.size):
        if any(need not in values for need in case.after[branch]):
            expected.skipped.append(branch)
        elif case.on_error == "isolate" and fails.get(branch, 0) >= case.tries(branch):
            expected.failed.append(branch)
        else:
            needs = [values[need] for need in case.after[branch]]
            values[branch] = value_of(case, branch, needs, answer if branch in case.asks else 0)
    expected.update = {f"b{branch}": value for branch, value in values.items()}
    return expected
