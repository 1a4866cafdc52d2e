"""How each kind of learning edge learns from runs of all its options."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol, cast

import numpy as np

from mahsm.errors import LearnError
from mahsm.learn._arguments import prices_of
from mahsm.learn._attend import Attend, Votes
from mahsm.learn._cascade import UntilAccepted
from mahsm.learn._route import ByRouter
from mahsm.learn._thresholds import Tuned, thresholds
from mahsm.learn._trained import Learned
from mahsm.learn._trial import Seen, Trial
from mahsm.learn._trials import Job, Outcome, Trials
from mahsm.learn.logs import Logged

Price = Callable[[object, str], float]
"""The price of a target, by the chooser and the name."""


class Lesson(Protocol):
    """A learning edge, and how it learns."""

    @property
    def edge(self) -> str:
        """Its path in the graph."""
        ...

    @property
    def options(self) -> Sequence[str]:
        """Its targets, if it chooses among some."""
        ...

    async def learn(self, trials: Trials, examples: Sequence[int]) -> Learned:
        """Run its options on examples, and learn in place."""
        ...


@dataclass(frozen=True)
class RouteLesson:
    """Each arm is run on each example, and each run of the edge is a row of the router's log."""

    edge: str
    chooser: ByRouter

    @property
    def options(self) -> Sequence[str]:
        return self.chooser.router.labels

    async def learn(self, trials: Trials, examples: Sequence[int]) -> Learned:
        found, runs, failed = await _each(self, self.chooser, trials, examples)
        router = self.chooser.router
        rows = [
            Logged(seen.value, outcome.trial.option, None, outcome.score)
            for outcomes in found
            for outcome in outcomes
            for seen in outcome.trial.seen
        ]
        router.fit(rows)
        best = [router.best(row.features) for row in rows]
        shares = {arm: best.count(arm) / max(1, len(best)) for arm in self.options}
        return Learned(self.edge, "route", shares, _means(found), runs, len(rows), failed)


@dataclass(frozen=True)
class CascadeLesson:
    """Each target is run and judged on each example, and the thresholds are those of `thresholds`."""

    edge: str
    chooser: UntilAccepted
    options: Sequence[str]
    price: Price
    budget: float | None
    quality: float | None

    async def learn(self, trials: Trials, examples: Sequence[int]) -> Learned:
        found, runs, failed = await _each(self, self.chooser, trials, examples)
        scores: list[list[float]] = []
        good: list[list[float]] = []
        for outcomes in found:
            judged = [{seen.place: seen.value for seen in each.trial.seen} for each in outcomes]
            for place in judged[0]:
                if all(place in each for each in judged):
                    scores.append([each[place] for each in judged[:-1]])
                    good.append([outcome.score for outcome in outcomes])
        if scores:
            self.chooser.thresholds = tuple(self._tuned(scores, good).thresholds)
        values = dict(zip(self.options, self.chooser.thresholds, strict=False))
        return Learned(self.edge, "cascade", values, _means(found), runs, len(scores), failed)

    def _tuned(self, scores: Any, good: Any) -> Tuned:
        prices = [self.price(self.chooser, name) for name in self.options]
        if self.quality is not None:
            try:
                return thresholds(scores, good, prices, quality=self.quality)
            except LearnError as error:
                warnings.warn(
                    f"train, {self.edge}: {error} Thresholds of the best quality are taken.", stacklevel=2
                )
        return thresholds(scores, good, prices, budget=sum(prices) if self.budget is None else self.budget)


@dataclass(frozen=True)
class AttendLesson:
    """The voters answer each example once; then each other answer is made the result, to see its score."""

    edge: str
    vote: Attend
    options: Sequence[str] = ()

    async def learn(self, trials: Trials, examples: Sequence[int]) -> Learned:
        begun = trials.runs, len(trials.failed)
        known = trials.failed.copy()
        asked = await trials.run(self.edge, [Job(each, Trial(self.vote)) for each in examples])
        first = {each.example: each for [each] in asked}
        jobs = [job for each in first.values() for job in self._others(each)]
        others = await trials.run(self.edge, jobs) if jobs else []
        replays = {outcomes[0].example: outcomes for outcomes in others}
        rows = [
            row
            for example, outcome in first.items()
            if example not in trials.failed - known
            for row in self._rows(outcome, replays.get(example, []))
        ]
        count = self.vote.fit({"answers": values, "scores": scores} for values, scores in rows)
        means = {
            voter: fmean(told)
            for place, voter in enumerate(self.vote.labels)
            if (told := [scores[place] for _, scores in rows if scores[place] is not None])
        }
        failed = len(trials.failed - known)
        return Learned(self.edge, "attend", self.vote.weights, means, trials.runs - begun[0], count, failed)

    def _others(self, first: Outcome) -> Iterator[Job]:
        """Yield a run for each answer of which the first run does not tell the score."""
        seen = [(each.place, *self._votes(each)) for each in first.trial.seen]
        for number in range(max((len(votes.answers) for _, votes, _ in seen), default=0)):
            told = {
                place: votes.values[votes.firsts[number]]
                for place, votes, winner in seen
                if number < len(votes.answers) and not (len(seen) == 1 and number == winner)
            }
            if told:
                yield Job(first.example, Trial(self.vote, told))

    def _rows(self, first: Outcome, replays: Sequence[Outcome]) -> Iterator[tuple[Any, list[Any]]]:
        """Yield the values of voters with their scores, for each run of the vote."""
        for each in first.trial.seen:
            votes, winner = self._votes(each)
            of_answer: dict[int, float] = {winner: first.score} if len(first.trial.seen) == 1 else {}
            for replay in replays:
                if each.place in replay.trial.option:
                    made = replay.trial.option[each.place]
                    number = next(
                        number for number, at in enumerate(votes.firsts) if votes.values[at] is made
                    )
                    of_answer[number] = replay.score
            yield votes.values, [of_answer.get(number) for number in votes.of_voter]

    def _votes(self, seen: Seen) -> tuple[Votes, int]:
        values, winner = cast("tuple[list[Any], int]", seen.value)
        votes = Votes(self.vote, values)
        return votes, votes.of_voter[winner]


async def _each(
    lesson: RouteLesson | CascadeLesson, subject: object, trials: Trials, examples: Sequence[int]
) -> tuple[list[list[Outcome]], int, int]:
    """Run each option on each example; return the outcomes, and the numbers of runs and failed examples."""
    jobs = [Job(each, Trial(subject, option)) for each in examples for option in lesson.options]
    found = await trials.run(lesson.edge, jobs)
    return found, len(jobs), len(examples) - len(found)


def _means(found: Sequence[Sequence[Outcome]]) -> dict[Any, float]:
    """Return the mean score of each option, over examples on which the edge has run."""
    reached = [outcomes for outcomes in found if all(each.trial.seen for each in outcomes)]
    scores = np.array([[each.score for each in outcomes] for outcomes in reached])
    names = [each.trial.option for each in found[0]]
    return dict(zip(names, scores.mean(axis=0).tolist(), strict=True)) if len(reached) else {}


def price_of(prices: Any) -> Price:
    """Return the price of a target: of `prices`, or the router's, or 1 for a target of a cascade."""

    def price(chooser: object, name: str) -> float:
        if prices is not None and name in prices:
            return float(prices[name])
        if isinstance(chooser, ByRouter):
            return prices_of(chooser.router.cost, [name])[0]
        return 1.0

    return price
