"""Runs of a graph on examples, each as a trial, and their scores."""

import asyncio
import inspect
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mahsm.edges import vmap
from mahsm.errors import BudgetExceeded, LearnError
from mahsm.graph._internal import OnExamples
from mahsm.learn._trained import ExamplesLeftOut
from mahsm.learn._trial import Trial
from mahsm.learn.logs import as_reward

Metric = Callable[[Any, Any], Any]


class Job(NamedTuple):
    """A run that is to be made."""

    example: int
    trial: Trial


@dataclass(frozen=True)
class Outcome:
    """A run that was made.

    Attributes:
        example: The place of its example.
        trial: What it was told, and what it saw.
        score: What the metric says; 0 if it failed.
        error: Why it failed.
    """

    example: int
    trial: Trial
    score: float = 0.0
    error: Exception | None = None


class Trials:
    """Runs a graph on examples.

    Args:
        graph: The graph.
        examples: The examples.
        metric: Scores a prediction.
        max_concurrency: Runs at a time.

    Attributes:
        runs: The number of runs so far.
        failed: The places of examples of which a run has failed.
    """

    def __init__(
        self, graph: OnExamples, examples: Sequence[Any], metric: Metric, max_concurrency: int
    ) -> None:
        self._graph = graph
        self._examples = examples
        self._metric = metric
        self._max_concurrency = max_concurrency
        self.runs = 0
        self.failed: set[int] = set()

    async def run(self, where: str, jobs: Iterable[Job]) -> list[list[Outcome]]:
        """Make the runs, and return their outcomes by example, without examples of which one has failed.

        Args:
            where: For whom, in warnings and errors.
            jobs: The runs.

        Raises:
            LearnError: if all examples failed.
            BudgetExceeded: if a budget around the training is spent.
        """
        todo = list(jobs)
        self.runs += len(todo)
        edge = vmap(
            self._one,
            batch=lambda _: todo,
            out_key="outcomes",
            name="train",
            max_concurrency=self._max_concurrency,
        )
        outcomes: list[Outcome] = (await edge.ainvoke({}))["outcomes"]
        by_example: dict[int, list[Outcome]] = {}
        for outcome in outcomes:
            by_example.setdefault(outcome.example, []).append(outcome)
        failures = {each.example: each.error for each in reversed(outcomes) if each.error is not None}
        self.failed |= failures.keys()
        if failures:
            self._tell(where, failures, len(by_example))
        return [found for example, found in by_example.items() if example not in failures]

    def _tell(self, where: str, failures: dict[int, Exception], count: int) -> None:
        first = failures[min(failures)]
        told = f"train, {where}: {len(failures)} of {count} examples failed"
        error = f"The first error is of example {min(failures)}: {type(first).__name__}: {first}"
        if len(failures) == count:
            raise LearnError(f"{told}, so nothing is learned. {error}") from first
        warnings.warn(f"{told} and are left out. {error}", ExamplesLeftOut, stacklevel=2)

    async def _one(self, state: dict[str, Any]) -> Outcome:
        job: Job = state["item"]
        example = self._examples[job.example]
        try:
            with job.trial.here():
                prediction = await self._graph.run(example)
            return Outcome(job.example, job.trial, await self._score(example, prediction))
        except BudgetExceeded:
            raise  # which would fail all others too
        except Exception as error:  # noqa: BLE001  it is counted, and told
            return Outcome(job.example, job.trial, error=error)

    async def _score(self, example: Any, prediction: Any) -> float:
        if inspect.iscoroutinefunction(self._metric):
            found = await self._metric(example, prediction)
        else:
            found = await asyncio.to_thread(self._metric, example, prediction)
        # A metric with feedback returns a prediction with a score.
        return as_reward("metric", getattr(found, "score", found))
