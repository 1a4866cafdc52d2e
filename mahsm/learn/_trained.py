"""`Trained`: what `train` has done."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mahsm.errors import LearnError


class ExamplesLeftOut(UserWarning):
    """Examples failed, and `train` has learned nothing from them."""


@dataclass(frozen=True)
class Learned:
    """What one edge has learned.

    Attributes:
        edge: Its path of node names in the graph.
        kind: "route", "cascade" or "attend".
        values: For a route, the share of runs for which each arm is now the best; for a cascade, the
            threshold of each target but the last; for a vote, the weight of each voter.
        scores: The mean score of each arm, target or voter alone.
        runs: Runs of the graph that it took.
        rows: How often the edge ran with an outcome that it could learn from.
        failed: Examples that were left out, since a run failed.
    """

    edge: str
    kind: Literal["route", "cascade", "attend"]
    values: Mapping[Any, float]
    scores: Mapping[Any, float]
    runs: int
    rows: int
    failed: int

    def __str__(self) -> str:
        what = {"route": "best arm", "cascade": "thresholds", "attend": "weights"}[self.kind]
        lines = f"{self.kind} {self.edge!r}: {what} {_listed(self.values)}; scores {_listed(self.scores)}"
        return f"{lines}; {self.runs} runs, {self.rows} rows, {self.failed} examples left out"


@dataclass(frozen=True, repr=False)
class Trained:
    """What `train` has done.

    Attributes:
        edges: What each edge has learned, in the order of training.
        runs: Runs of the graph, those on held-out examples included.
        failed: Examples of which some run failed.
        held_out: Held-out examples that were scored before and after; 0 without `holdout`.
        before: Their mean score before the training; None without them.
        after: Likewise after it.
        price_before: The mean price of what the graph asked for one of them before the training.
        price_after: Likewise after it.
    """

    edges: tuple[Learned, ...]
    runs: int
    failed: int
    held_out: int = 0
    before: float | None = field(default=None)
    after: float | None = None
    price_before: float | None = None
    price_after: float | None = None

    def __getitem__(self, edge: str) -> Learned:
        """Return what an edge has learned.

        Raises:
            LearnError: if the graph has no such learning edge.
        """
        for one in self.edges:
            if one.edge == edge:
                return one
        known = ", ".join(repr(one.edge) for one in self.edges)
        raise LearnError(f"Trained: no edge {edge!r} has learned; expected one of {known}.")

    def __repr__(self) -> str:
        lines = [f"Trained in {self.runs} runs; {self.failed} examples failed", *map(str, self.edges)]
        if self.before is not None and self.after is not None:
            lines.append(
                f"held out: {self.held_out} examples, score {self.before:.3g} -> {self.after:.3g}, price "
                f"{self.price_before:.3g} -> {self.price_after:.3g}"
            )
        return "\n  ".join(lines)


def _listed(values: Mapping[Any, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items()) or "none"
