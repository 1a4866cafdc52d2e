"""`Trained`: what `train` has done."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mahsm.errors import LearnError


class ExamplesLeftOut(UserWarning):
    """Examples failed, and `train` has learned nothing from them.

    Example:
        >>> import warnings
        >>> from mahsm.learn import ExamplesLeftOut, Router, route, train
        >>> ask = route(Router(["a"]), {"a": lambda state: {"y": 12}})
        >>> with warnings.catch_warnings(record=True, action="always") as caught:
        ...     report = train(ask.compile(), [{"x": 0}, {"x": 12}], lambda example, found: 1 / example["x"])
        >>> caught[0].category is ExamplesLeftOut, report.failed
        (True, 1)
    """


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

    Example:
        >>> from mahsm.learn import Learned
        >>> print(Learned("ask", "attend", {"a": 1.5, "b": 0.5}, {"a": 0.9, "b": 0.4}, 40, 20, 0))
        attend 'ask': weights a 1.5, b 0.5; scores a 0.9, b 0.4; 40 runs, 20 rows, 0 examples left out
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

    Example:
        >>> from mahsm.learn import Router, route, train
        >>> targets = {"a": lambda state: {"y": 1}, "b": lambda state: {"y": 2}}
        >>> ask = route(Router(["a", "b"]), targets, name="ask")
        >>> report = train(ask.compile(), [{}] * 4, lambda example, found: found["y"] == 2, holdout=0.5)
        >>> report["ask"].values, report.held_out, report.before, report.after
        ({'a': 0.0, 'b': 1.0}, 2, 0.0, 1.0)
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
