"""`train`: what each kind of edge learns, from how many runs, and what becomes of failures."""

import asyncio
from typing import Any, cast

import dspy
import numpy as np
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict

from mahsm import GraphModule, budget, connect, parallel, reduce_edge, vmap
from mahsm.errors import BudgetExceeded, GraphError, LearnError
from mahsm.learn import ExamplesLeftOut, Router, Trained, atrain, attend, cascade, route, train
from mahsm.testing import FakeLM
from tests.helpers import MODES, Gauge


class State(TypedDict, total=False):
    x: int
    xs: list[int]
    ys: list[Any]
    y: str
    z: str
    choice: dict[str, Any]
    second: dict[str, Any]


def graph_of(*edges: Any, **options: Any) -> Any:
    return connect(StateGraph(State), START, *edges, END).compile(**options)


def trained(mode: str, *arguments: Any, **options: Any) -> Trained:
    if mode == "sync":
        return train(*arguments, **options)
    return asyncio.run(atrain(*arguments, **options))


def parity(state: Any) -> list[float]:
    return [float(state["x"] % 2)]


def by_parity(key: str = "y", router: Router | None = None, **options: Any) -> Any:
    router = router or Router(["even", "odd"], features=parity)
    names = {"even": lambda state: {key: "even"}, "odd": lambda state: {key: "odd"}}
    return route(router, names, **{"name": "ask", **options})


EXAMPLES = [{"x": x, "right": ["even", "odd"][x % 2]} for x in range(20)]


def right(example: Any, prediction: Any) -> bool:
    return prediction.y == example["right"]


@pytest.mark.parametrize("mode", MODES)
def test_a_router_learns_from_all_arms(mode: str) -> None:
    graph = graph_of(by_parity(), checkpointer=InMemorySaver())
    report = trained(mode, graph, EXAMPLES, right)
    assert report.runs == report["ask"].runs == 2 * len(EXAMPLES)
    assert report["ask"].values == report["ask"].scores == {"even": 0.5, "odd": 0.5}
    assert (report["ask"].rows, report["ask"].failed, report.before) == (40, 0, None)
    for x in (30, 31):
        found = graph.invoke({"x": x}, {"configurable": {"thread_id": str(x)}})
        assert found["y"] == ["even", "odd"][x % 2]


def test_nothing_of_a_training_waits_for_a_reward() -> None:
    router = Router(["even", "odd"], features=parity, max_waiting=1)
    graph = graph_of(by_parity(router=router))
    choice = router.route({"x": 1})
    train(graph, EXAMPLES, right, holdout=0.2)
    router.reward(choice.id, 1.0)


@pytest.mark.parametrize("mode", MODES)
def test_held_out_examples_are_scored_before_and_after(mode: str) -> None:
    router = Router(["even", "odd"], features=parity, cost={"even": 1.0, "odd": 2.0}, cost_weight=0.01)
    report = trained(mode, graph_of(by_parity(router=router)), EXAMPLES, right, holdout=0.5)
    assert report.runs == 2 * 10 + 10 + 10
    assert (report.held_out, report.after, report.price_before) == (10, 1.0, 1.0)
    assert cast("float", report.before) < 0.7
    assert 1.0 < cast("float", report.price_after) < 2.0
    assert "held out: 10 examples" in repr(report)
    assert "route 'ask': best arm even" in repr(report)
    with pytest.raises(LearnError, match=r"'asks'.*'ask'"):
        report["asks"]


def test_metrics_and_examples_may_be_those_of_dspy() -> None:
    async def scored(example: Any, prediction: Any) -> Any:
        return dspy.Prediction(score=float(prediction.y == example.right), feedback="")

    examples = [dspy.Example(**example) for example in EXAMPLES]
    with_inputs = [example.with_inputs("x") for example in examples]
    for given in (examples, with_inputs):
        graph = graph_of(by_parity())
        train(graph, given, scored)
        assert graph.invoke({"x": 3})["y"] == "odd"


def test_edges_learn_in_order_each_with_those_before_it() -> None:
    """The second edge sees only what the first one, trained, writes."""
    asked: list[str] = []

    def repeat(state: State) -> dict[str, Any]:
        asked.append(state["y"])
        return {"z": state["y"]}

    second = Router(["repeat", "wrong"])
    edge = route(second, {"repeat": repeat, "wrong": lambda state: {"z": "?"}}, name="say", write_to="second")
    graph = graph_of(by_parity(), edge)
    report = train(graph, EXAMPLES, lambda example, found: found["z"] == example["right"])
    assert [one.edge for one in report.edges] == ["ask", "say"]
    assert report.runs == 80
    assert report["say"].scores == {"repeat": 1.0, "wrong": 0.0}
    assert asked[-20:].count("odd") == 10
    assert graph.invoke({"x": 5})["z"] == "odd"


@pytest.mark.parametrize("mode", MODES)
def test_each_item_of_a_vmap_is_a_row(mode: str) -> None:
    inside = by_parity(write_to="choice")
    edge = vmap(inside, batch_key="xs", out_key="ys", item_to_state=lambda x: {"x": x}, name="all")
    graph = graph_of(edge)
    examples = [{"xs": [x, x + 2], "right": ["even", "odd"][x % 2]} for x in range(10)]

    def all_right(example: Any, found: Any) -> float:
        return float(np.mean([one["y"] == example["right"] for one in found.ys]))

    report = trained(mode, graph, examples, all_right)
    assert (report.runs, report.edges[0].rows) == (20, 40)
    assert [one["y"] for one in graph.invoke({"xs": [4, 5, 6]})["ys"]] == ["even", "odd", "even"]


def test_an_edge_that_is_not_reached_learns_nothing() -> None:
    builder = StateGraph(State)
    connect(builder, by_parity(), END)
    builder.add_conditional_edges(START, lambda state: "ask" if state["x"] < 0 else END, ["ask", END])
    report = train(builder.compile(), EXAMPLES, lambda example, found: 1.0)
    assert (report["ask"].rows, report["ask"].scores) == (0, {})


# Cascades.


def cascade_of(**options: Any) -> Any:
    """The cheap answer is right for even numbers, and the score says which ones these are."""
    targets = {
        "cheap": lambda state: {"y": "even"},
        "strong": lambda state: {"y": ["even", "odd"][state["x"] % 2]},
    }
    return cascade(targets, accept=lambda state: 1.0 - 0.5 * (state["x"] % 2), name="ask", **options)


@pytest.mark.parametrize("mode", MODES)
def test_a_cascade_gets_thresholds(mode: str) -> None:
    graph = graph_of(cascade_of(threshold=2.0))
    prices = {"cheap": 1.0, "strong": 10.0}
    report = trained(mode, graph, EXAMPLES, right, prices=prices, quality=1.0, holdout=0.5)
    assert report["ask"].values == {"cheap": 1.0}
    assert report["ask"].scores["strong"] == report.before == report.after == 1.0
    assert report.price_before == 11.0
    assert cast("float", report.price_after) < 8.0
    assert graph.invoke({"x": 2})["choice"]["asked"] == ["cheap"]
    assert graph.invoke({"x": 3})["choice"]["asked"] == ["cheap", "strong"]


def test_a_budget_bounds_what_a_question_costs() -> None:
    graph = graph_of(cascade_of())
    train(graph, EXAMPLES, right, prices={"cheap": 1.0, "strong": 10.0}, budget=1.0)
    assert graph.invoke({"x": 3})["choice"]["asked"] == ["cheap"]
    train(graph, EXAMPLES, right)  # the best quality
    assert graph.invoke({"x": 3})["choice"]["asked"] == ["cheap", "strong"]


def test_a_quality_that_cannot_be_reached_is_told() -> None:
    graph = graph_of(cascade_of())
    with pytest.warns(UserWarning, match="quality=2.*at most 1.*best quality"):
        report = train(graph, EXAMPLES, right, quality=2.0)
    assert report["ask"].values == {"cheap": 1.0}


def test_items_of_a_cascade_in_a_vmap_are_told_apart() -> None:
    """Items end in any order; the score of each stage is that of the same item."""
    edge = vmap(
        cascade_of(threshold=2.0), batch_key="xs", out_key="ys", item_to_state=lambda x: {"x": x}, name="all"
    )
    graph = graph_of(edge)
    examples = [{"xs": [2 * x + odd, 2 * x + odd + 2], "odd": odd} for x in range(8) for odd in (0, 1)]

    def all_right(example: Any, found: Any) -> float:
        return float(np.mean([one["y"] == ["even", "odd"][example["odd"]] for one in found.ys]))

    report = train(graph, examples, all_right, quality=1.0)
    assert report.edges[0].rows == 32
    assert [one["choice"]["arm"] for one in graph.invoke({"xs": [1, 2]})["ys"]] == ["strong", "cheap"]


# Votes.


def opinions(x: int) -> list[str]:
    """Four voters share an opinion; a fifth one is more often right."""
    rng = np.random.default_rng(x)
    shared, own = rng.random() < 0.7, rng.random() < 0.87
    return [*["even" if shared else "odd"] * 4, "even" if own else "odd"]


VOTES = [{"x": x, "right": "even"} for x in range(300)]


@pytest.mark.parametrize("mode", MODES)
def test_a_vote_gets_weights(mode: str) -> None:
    runs: list[int] = []

    def voter(state: State) -> str:
        runs.append(1)
        return opinions(state["x"])[cast("Any", state)["item"]]

    vote = attend(5)
    votes = vmap(voter, sample=5, out_key="ys", name="votes")
    graph = graph_of(votes, reduce_edge(input_key="ys", output_key="y", reducer=vote, name="vote"))
    report = trained(mode, graph, VOTES, right, holdout=0.5)
    split = sum(len({*opinions(example["x"])}) > 1 for example in VOTES)
    assert report.runs < 3 * 150 + split
    assert len(runs) == 5 * report.runs
    assert cast("float", report.before) < 0.77 < 0.82 < cast("float", report.after)
    [found] = report.edges
    assert found.kind == "attend"
    assert found.values[4] > sum(found.values[place] for place in range(4))
    assert found.scores[4] > found.scores[0]
    assert found.values == vote.weights


def test_branches_of_a_parallel_are_voters() -> None:
    names = ["a", "b", "c"]
    vote = attend(names, key="y")
    branches = {
        name: lambda state, at=at: {"y": ["even", "odd"][state["x"] % 2] if at == 2 else "even"}
        for at, name in enumerate(names)
    }
    graph = graph_of(parallel(branches, merge=vote, name="ask"))
    report = train(graph, EXAMPLES * 3, right)
    assert report["ask"].scores == {"a": 0.5, "b": 0.5, "c": 1.0}
    assert graph.invoke({"x": 3})["y"] == "odd"


def test_a_vote_for_each_item_of_a_vmap() -> None:
    vote = attend(2)
    said = vmap(lambda state: state["item"] == 1, sample=2, out_key="ys")
    chain = graph_of(said, reduce_edge(input_key="ys", output_key="y", reducer=vote))
    edge = vmap(chain, batch_key="xs", out_key="ys", item_to_state=lambda x: {"x": x}, name="all")
    graph = graph_of(edge)

    def share(example: Any, found: Any) -> float:
        return float(np.mean([one["y"] for one in found.ys]))

    report = train(graph, [{"xs": [1, 2, 3]}] * 6, share)
    assert (report.runs, report.edges[0].rows) == (6 + 2 * 6, 18)
    assert vote.weights[1] > 1 > vote.weights[0]


# Programs.


def test_the_modules_of_a_program_run() -> None:
    arms = {name: dspy.Predict(dspy.Signature("x: int -> y", name)) for name in ("even", "odd")}
    graph = graph_of(route(Router(["even", "odd"], features=parity), arms, name="ask"))
    program = GraphModule(graph, outputs=["y"])
    program.set_lm(FakeLM(lambda call: {"y": call.instructions.strip()}))  # the graph itself has no model
    report = train(program, [dspy.Example(**each).with_inputs("x") for each in EXAMPLES], right)
    assert report["ask"].values == {"even": 0.5, "odd": 0.5}
    assert program(x=7).y == "odd"


# Failures and bounds.


@pytest.mark.parametrize("mode", MODES)
def test_failed_examples_are_left_out_and_told(mode: str) -> None:
    def odd(state: State) -> dict[str, Any]:
        if state["x"] == 4:
            raise ConnectionError("reset by peer")
        return {"y": "odd"}

    router = Router(["even", "odd"], features=parity)
    graph = graph_of(route(router, {"even": lambda state: {"y": "even"}, "odd": odd}, name="ask"))
    with pytest.warns(ExamplesLeftOut, match="1 of 20 examples failed.*example 4: ConnectionError: reset"):
        report = trained(mode, graph, EXAMPLES, right)
    assert (report.failed, report["ask"].failed, report["ask"].rows) == (1, 1, 38)
    assert graph.invoke({"x": 4})["y"] == "even"


@pytest.mark.parametrize(
    ("metric", "why"), [(lambda example, found: "good", "'good'"), (lambda example, found: 1 / 0, "division")]
)
def test_if_all_fail_nothing_is_learned(metric: Any, why: str) -> None:
    graph = graph_of(by_parity())
    with pytest.raises(LearnError, match=f"20 of 20 examples failed.*{why}"):
        train(graph, EXAMPLES, metric)


def test_an_interrupted_run_has_failed() -> None:
    edge = route(Router(["a"]), {"a": lambda state: interrupt("sure?")}, name="ask")
    with pytest.raises(LearnError, match="sure"):
        train(graph_of(edge), EXAMPLES, right)


def test_a_spent_budget_ends_the_training() -> None:
    lm = FakeLM(lambda call: {"y": "even"})
    arms = {name: dspy.Predict("x: int -> y") for name in ("even", "odd")}
    graph = graph_of(route(Router(["even", "odd"], features=parity), arms, name="ask"))
    with dspy.context(lm=lm), budget(calls=5), pytest.raises(BudgetExceeded):
        train(graph, EXAMPLES, right)
    assert len(lm.calls) <= 5


@pytest.mark.parametrize("mode", MODES)
def test_so_many_run_at_a_time(mode: str) -> None:
    gauge = Gauge()

    def target(state: State) -> dict[str, Any]:
        with gauge.inside():
            return {"y": "even"}

    inside = vmap(lambda state: target(state), sample=3, out_key="ys")
    graph = graph_of(route(Router(["a", "b"]), {"a": inside, "b": target}, name="ask"))
    trained(mode, graph, EXAMPLES, lambda example, found: 1.0, max_concurrency=3)
    assert 1 <= gauge.most <= 3


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"examples": []}, "examples"),
        ({"examples": "abc"}, "examples"),
        ({"metric": 3}, "metric=3"),
        ({"holdout": 1.0}, "holdout=1.0"),
        ({"holdout": 0.5, "examples": [{"x": 1}]}, "1 examples"),
        ({"max_concurrency": 0}, "max_concurrency=0"),
        ({"budget": 1.0, "quality": 1.0}, "one of the two"),
        ({"budget": "x"}, "budget='x'"),
        ({"budget": 0.5}, "at least 1"),
        ({"prices": {"cheep": 1.0}}, "'cheep'.*'cheap', 'strong'"),
        ({"prices": {"cheap": 1.0}}, "lacks 'strong'"),
        ({"prices": {"cheap": "x", "strong": 1}}, "prices"),
        ({"prices": [1.0]}, "prices"),
    ],
)
def test_invalid_arguments_are_refused_before_any_run(arguments: dict[str, Any], why: str) -> None:
    given = {"examples": EXAMPLES, "metric": right, **arguments}
    with pytest.raises(LearnError, match=why):
        train(graph_of(cascade_of()), given.pop("examples"), given.pop("metric"), **given)


@pytest.mark.parametrize("graph", [graph_of(vmap(lambda state: 1, batch_key="xs", out_key="ys")), 3])
def test_a_graph_that_does_not_learn_is_refused(graph: Any) -> None:
    with pytest.raises(GraphError, match="expected a"):
        train(graph, EXAMPLES, right)


def test_an_example_that_is_no_dict_fails() -> None:
    with pytest.raises(LearnError, match="the example is 3"):
        train(graph_of(by_parity()), [3], right)
