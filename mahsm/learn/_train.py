"""`train`: fits all learning edges of a graph from runs of all their options."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any, cast

import numpy as np

from mahsm._common import is_figure, shown
from mahsm._waiting import tasks
from mahsm.edges import Edge
from mahsm.errors import GraphError, LearnError
from mahsm.graph._internal import OnExamples, walked
from mahsm.learn._attend import Attend
from mahsm.learn._cascade import UntilAccepted
from mahsm.learn._lessons import AttendLesson, CascadeLesson, Lesson, Price, RouteLesson, price_of
from mahsm.learn._route import ByRouter
from mahsm.learn._trained import Trained
from mahsm.learn._trial import Trial
from mahsm.learn._trials import Job, Metric, Outcome, Trials


def train(
    graph: Any,
    examples: Sequence[Any],
    metric: Metric,
    *,
    prices: Mapping[str, float] | None = None,
    budget: float | None = None,
    quality: float | None = None,
    holdout: float = 0.0,
    max_concurrency: int = 8,
    seed: int = 0,
) -> Trained:
    """Fit the routers, thresholds and weights of all learning edges in a graph, in place.

    Edges learn one after the other, in the order of the graph. For each `route`, every arm is run on every
    example; for each `cascade`, every target, and its answer is judged; for each `attend`, all voters are
    run, and once more for each further answer that some of them gave. The other edges meanwhile do what they
    think best: those before have learned already. So there are `examples * arms` runs of the graph for each
    edge, and twice the held-out examples. The metric scores the end result of each run.

    The graph that you pass learns: its next run uses what was learned. Keep it with the `store=` of a router,
    `mahsm.operators.save(path, vote)`, and the thresholds of the report, which `cascade(threshold=)` takes;
    `edge.with_` makes a cascade with the thresholds that it was built with. Trained again, a router learns
    the same examples a second time.

    An edge that runs several times for an example, in a `vmap` or a loop, takes the same arm in all of them,
    and each of them has the score of the example. An edge that an example does not reach learns nothing from
    it. An example of which a run or the metric fails is left out for that edge, with a warning.

    Args:
        graph: A compiled graph, or a `GraphModule`, whose modules then run. It runs without its checkpointer.
        examples: Dicts, whose keys of the graph's state are its inputs, or `dspy.Example`s.
        metric: A function `metric(example, prediction)`, sync or async, as DSPy has it: the score, a number,
            or True or False. A prediction has the state keys that the graph returns. For `attend`, scores are
            >= 0.
        prices: The price of an answer of each target, by its name. By default the `cost` of a router, and 1
            for each target of a cascade.
        budget: For cascades: the most that a question may cost on average, in units of `prices`.
        quality: For cascades: the least mean score, at which the cost is as low as possible. By default, and
            if it cannot be reached, the score is as high as possible.
        holdout: The share of examples, in [0, 1), that nothing is learned from, and on which the graph is
            scored before and after.
        max_concurrency: Runs at a time, >= 1, and calls in edges inside them.
        seed: For the draw of held-out examples.

    Returns:
        What each edge has learned, the number of runs, and the scores and prices on held-out examples.

    Raises:
        GraphError: immediately, if `graph` is not a compiled graph or a `GraphModule`.
        LearnError: immediately, if it has no edge that learns, or for other invalid arguments; when run, if
            all examples fail.

    Example:
        >>> from typing import Any, TypedDict
        >>> from langgraph.graph import END, START, StateGraph
        >>> from mahsm import connect
        >>> from mahsm.learn import Router, route, train
        >>> class State(TypedDict, total=False):
        ...     number: int
        ...     answer: str
        ...     choice: dict[str, Any]
        >>> router = Router(["even", "odd"], features=lambda state: [state["number"] % 2])
        >>> ask = route(router, {
        ...     "even": lambda state: {"answer": "even"},
        ...     "odd": lambda state: {"answer": "odd"},
        ... }, name="ask")
        >>> graph = connect(StateGraph(State), START, ask, END).compile()
        >>> examples = [{"number": number, "right": ["even", "odd"][number % 2]} for number in range(20)]
        >>> right = lambda example, prediction: prediction.answer == example["right"]
        >>> report = train(graph, examples, right, holdout=0.5)
        >>> report.before, report.after, report.runs
        (0.6, 1.0, 40)
        >>> graph.invoke({"number": 7})["answer"]
        'odd'
    """
    return tasks.call(
        partial(
            atrain,
            graph,
            examples,
            metric,
            prices=prices,
            budget=budget,
            quality=quality,
            holdout=holdout,
            max_concurrency=max_concurrency,
            seed=seed,
        )
    )


async def atrain(
    graph: Any,
    examples: Sequence[Any],
    metric: Metric,
    *,
    prices: Mapping[str, float] | None = None,
    budget: float | None = None,
    quality: float | None = None,
    holdout: float = 0.0,
    max_concurrency: int = 8,
    seed: int = 0,
) -> Trained:
    """Async version of `train`.

    Example:
        >>> import asyncio
        >>> from mahsm.learn import Router, atrain, route
        >>> targets = {"a": lambda state: {"y": 1}, "b": lambda state: {"y": 2}}
        >>> ask = route(Router(["a", "b"]), targets, name="ask")
        >>> report = asyncio.run(atrain(ask.compile(), [{}] * 3, lambda example, found: found["y"] == 2))
        >>> report["ask"].values
        {'a': 0.0, 'b': 1.0}
    """
    given = _checked(examples, metric, holdout, max_concurrency)
    _check_aims(prices, budget, quality)
    price = price_of(prices)
    runs = OnExamples(graph)
    lessons = list(_lessons(runs.graph, price, budget, quality))
    _check_edges(lessons, prices, price, budget)
    order = np.random.default_rng(seed).permutation(len(given)).tolist()
    count = min(len(given) - 1, max(1, round(holdout * len(given)))) if holdout else 0
    held, seen = sorted(order[:count]), sorted(order[count:])
    trials = Trials(runs, given, metric, max_concurrency)
    before = await _scored(trials, held)
    learned = [await lesson.learn(trials, seen) for lesson in lessons]
    after = await _scored(trials, held)
    both = before.keys() & after.keys()
    if not both:
        return Trained(tuple(learned), trials.runs, len(trials.failed))
    return Trained(
        tuple(learned),
        trials.runs,
        len(trials.failed),
        len(both),
        *(fmean(found[each].score for each in both) for found in (before, after)),
        *(fmean(_price(found[each], price) for each in both) for found in (before, after)),
    )


async def _scored(trials: Trials, examples: Sequence[int]) -> dict[int, Outcome]:
    """Run the graph as it now is; return the outcomes by example."""
    if not examples:
        return {}
    found = await trials.run("held-out examples", [Job(each, Trial()) for each in examples])
    return {each.example: each for [each] in found}


def _price(outcome: Outcome, price: Price) -> float:
    return sum(price(chooser, name) for chooser, name in outcome.trial.asked)


def _lessons(graph: Any, price: Price, budget: float | None, quality: float | None) -> Iterator[Lesson]:
    """Yield the learning edges of a graph."""
    targets: dict[int, list[str]] = {}
    for path, value in walked(graph):
        if isinstance(value, Edge):
            targets[id(value.children.get(""))] = list(value.children)
        elif isinstance(value, ByRouter):
            yield RouteLesson(path, value)
        elif isinstance(value, UntilAccepted):
            names = targets[id(value)][: len(value.thresholds) + 1]
            yield CascadeLesson(path, value, names, price, budget, quality)
        elif isinstance(value, Attend):
            yield AttendLesson(path.removesuffix("/merge"), value)


def _checked(examples: Any, metric: Any, holdout: Any, max_concurrency: Any) -> list[Any]:
    is_list = isinstance(examples, Sequence) and not isinstance(examples, str)
    given = list(cast("Sequence[Any]", examples)) if is_list else []
    if not given:
        raise LearnError(
            f"train: examples={shown(cast('Any', examples))}; expected a list of at least one example."
        )
    if not callable(metric):
        raise LearnError(f"train: metric={shown(metric)}; expected a function (example, prediction).")
    if not is_figure(holdout, 0.0, 1.0) or holdout == 1.0 or (holdout and len(given) < 2):
        raise LearnError(
            f"train: holdout={shown(holdout)} of {len(given)} examples; expected a number in [0, 1), which "
            "leaves examples to learn from."
        )
    if type(max_concurrency) is not int or max_concurrency < 1:
        raise LearnError(f"train: max_concurrency={shown(max_concurrency)}; expected an integer >= 1.")
    return given


def _check_aims(prices: Any, budget: Any, quality: Any) -> None:
    if budget is not None and quality is not None:
        raise LearnError(f"train: budget={shown(budget)}, quality={shown(quality)}; expected one of the two.")
    for name, value in (("budget", budget), ("quality", quality)):
        if value is not None and not is_figure(value, -1e300, 1e300):
            raise LearnError(f"train: {name}={shown(value)}; expected a number.")
    figures: list[Any] = (
        list(cast("Mapping[Any, Any]", prices).values()) if isinstance(prices, Mapping) else []
    )
    if prices is not None and not (figures and all(map(is_figure, figures))):
        raise LearnError(
            f"train: prices={shown(cast('Any', prices))}; expected a dict of numbers >= 0, by target."
        )


def _check_edges(lessons: Sequence[Lesson], prices: Any, price: Price, budget: float | None) -> None:
    if not lessons:
        raise GraphError(
            "train: the graph has no edge that learns; expected a route, a cascade or an attend, as a node "
            "or inside an edge."
        )
    names = {name for lesson in lessons for name in lesson.options}
    if unknown := [name for name in prices or () if name not in names]:
        raise LearnError(
            f"train: prices has {unknown[0]!r}; expected targets of the graph's learning edges: "
            f"{', '.join(map(repr, sorted(names)))}."
        )
    for lesson in lessons:
        if isinstance(lesson, CascadeLesson):
            if prices is not None and (lacking := [name for name in lesson.options if name not in prices]):
                raise LearnError(f"train: prices lacks {lacking[0]!r}, a target of {lesson.edge!r}.")
            if budget is not None and budget < (least := price(lesson.chooser, lesson.options[0])):
                raise LearnError(
                    f"train: budget={budget:g}; expected at least {least:g}, the price of the first target "
                    f"of {lesson.edge!r}."
                )
