"""`route` and `cascade`: which target runs, and what is kept of the decision."""

import asyncio
from typing import Annotated, Any

import dspy
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from mahsm import Branch, Retry, connect, policy_router, vmap
from mahsm.errors import EdgeError, LearnError, MissingKeyError
from mahsm.learn import Router, cascade, logs, route
from mahsm.testing import FakeLM
from tests.helpers import MODES, run, run_edge, thread


def router_of(**options: Any) -> Router:
    return Router(["cheap", "strong"], features=lambda x: [float(x)], seed=0, **options)


class Counted:
    """Targets that note what they were called with."""

    def __init__(self) -> None:
        self.called: list[tuple[str, Any]] = []

    def target(self, name: str, blocking: bool = True) -> Any:
        def work(state: dict[str, Any]) -> dict[str, Any]:
            self.called.append((name, state["x"]))
            return {"y": f"{name} {state['x']}"}

        async def work_async(state: dict[str, Any]) -> dict[str, Any]:
            await asyncio.sleep(0)
            return work(state)

        return work if blocking else work_async

    def targets(self, blocking: bool = True) -> dict[str, Any]:
        return {name: self.target(name, blocking) for name in ("cheap", "strong")}


class State(TypedDict, total=False):
    x: float
    y: str
    said: Annotated[list[str], lambda old, new: old + new]
    choice: dict[str, Any]


def graph_of(edge: Any, saver: Any = None) -> Any:
    return connect(StateGraph(State), START, edge, END).compile(checkpointer=saver)


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_one_target_runs_and_the_choice_is_written(mode: str, blocking: bool) -> None:
    router, counted = router_of(), Counted()
    edge = route(router, counted.targets(blocking), key="x")
    for number in range(20):
        found = run(graph_of(edge), {"x": number % 2}, mode)
        choice = found["choice"]
        assert found["y"] == f"{choice['arm']} {number % 2}"
        assert 0 < choice["propensity"] <= 1
        router.reward(choice["id"], (choice["arm"] == "strong") == (number % 2 == 1))
    assert len(counted.called) == 20
    assert (router.best(0), router.best(1)) == ("cheap", "strong")


@pytest.mark.parametrize("mode", MODES)
def test_each_item_of_a_vmap_is_routed(mode: str) -> None:
    router, counted = router_of(head="thompson"), Counted()
    edge = vmap(
        route(router, counted.targets(), key="x"),
        batch_key="xs",
        out_key="ys",
        item_to_state=lambda x: {"x": x},
    )
    found = run_edge(edge, list(range(30)), mode)
    assert [one["y"] for one in found] == [f"{one['choice']['arm']} {x}" for x, one in enumerate(found)]
    assert {one["choice"]["arm"] for one in found} == {"cheap", "strong"}
    for one in found:
        router.reward(one["choice"]["id"], 1.0)


@pytest.mark.parametrize("mode", MODES)
def test_a_router_without_features_needs_none_of_the_state(mode: str) -> None:
    """It finds the best fixed arm."""
    by_edge, by_node = (Router(["cheap", "strong"], seed=0) for _ in range(2))
    edge = graph_of(route(by_edge, Counted().targets()))
    builder = StateGraph(State)
    builder.add_node("router", policy_router(by_node, write_to="choice"))
    for name, target in Counted().targets().items():
        builder.add_node(name, target)
    node = builder.add_edge(START, "router").compile()
    for router, graph in ((by_edge, edge), (by_node, node)):
        for _ in range(20):
            choice = run(graph, {"x": 1}, mode)["choice"]
            router.reward(choice["id"], choice["arm"] == "strong")
        assert choice["features"] == []
        assert router.best() == "strong"


def test_a_router_with_features_is_not_called_without_them() -> None:
    router = Router(["cheap", "strong"], dims=2)
    with pytest.raises(LearnError, match="0 features; expected 2"):
        route(router, Counted().targets()).invoke({"x": 1})


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_run_keeps_its_choice(mode: str) -> None:
    router, failing = router_of(head="thompson", min_explore=1.0), [True]

    def target(state: State) -> State:
        if failing:
            raise ConnectionError("reset by peer")
        return {"y": "done"}

    graph = graph_of(route(router, {"cheap": target, "strong": target}, key="x"), InMemorySaver())
    for number in range(8):
        failing[:] = [True]
        config = {"configurable": {"thread_id": str(number)}}
        with pytest.raises(ConnectionError):
            run(graph, {"x": 1}, mode, config)
        [task] = graph.get_state(config, subgraphs=True).tasks
        kept = task.state.values["done"][-1]["note"]
        failing.clear()
        assert run(graph, None, mode, config)["choice"] == kept
        router.reward(kept["id"], 1.0)


@pytest.mark.parametrize("mode", MODES)
def test_a_target_may_interrupt(mode: str) -> None:
    def ask(state: State) -> State:
        return {"y": interrupt("sure?")}

    router = router_of()
    graph = graph_of(route(router, {"cheap": ask, "strong": ask}, key="x"), InMemorySaver())
    assert run(graph, {"x": 1}, mode, thread())["__interrupt__"][0].value == "sure?"
    found = run(graph, Command(resume="yes"), mode, thread())
    assert found["y"] == "yes"
    router.reward(found["choice"]["id"], 1.0)


def test_targets_may_retry_and_reduced_keys_are_reduced() -> None:
    calls: list[int] = []

    def flaky(state: State) -> State:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("reset by peer")
        return {"said": ["hello"]}

    target = Branch(flaky, retry=Retry(attempts=2, base=0.001))
    graph = graph_of(route(router_of(), {"cheap": target, "strong": target}, key="x"))
    assert graph.invoke({"x": 1, "said": ["first"]})["said"] == ["first", "hello"]


def test_edges_inside_a_target_are_not_bounded() -> None:
    inside = vmap(lambda state: state["item"], batch=lambda state: range(9), out_key="y")
    edge = route(router_of(), {"cheap": inside, "strong": inside}, key="x")
    assert edge.invoke({"x": 1})["y"] == list(range(9))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"targets": {"cheap": len}}, LearnError),
        ({"router": "x"}, EdgeError),
        ({"write_to": ""}, EdgeError),
        ({"name": "a:b"}, EdgeError),
        ({"key": 3}, EdgeError),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict[str, Any], error: type[Exception]) -> None:
    given = {"router": router_of(), "targets": Counted().targets(), **arguments}
    with pytest.raises(error):
        route(given.pop("router"), given.pop("targets"), **given)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(MissingKeyError, match="'x'"):
        route(router_of(), Counted().targets(), key="x").invoke({})


# Cascades.

SKILL = {"cheap": 0.3, "middle": 0.6, "strong": 0.9}


def cascade_of(counted: Counted, **options: Any) -> Any:
    def scored(state: dict[str, Any]) -> float:
        name = state["y"].split()[0]
        return SKILL[name] - state["x"]

    targets = {name: counted.target(name) for name in SKILL}
    return cascade(targets, **{"accept": scored, "threshold": 0.0, **options})


@pytest.mark.parametrize("saver", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_the_first_accepted_answer_is_taken(mode: str, saver: bool) -> None:
    for number, (x, last) in enumerate([(0.1, "cheap"), (0.5, "middle"), (0.8, "strong"), (1.5, "strong")]):
        counted = Counted()
        graph = graph_of(cascade_of(counted), InMemorySaver() if saver else None)
        found = run(graph, {"x": x}, mode, {"configurable": {"thread_id": str(number)}})
        asked = list(SKILL)[: list(SKILL).index(last) + 1]
        assert found["y"] == f"{last} {x}"
        assert [name for name, _ in counted.called] == asked == found["choice"]["asked"]
        judged = asked if last != "strong" else asked[:-1]
        assert found["choice"]["scores"] == pytest.approx([SKILL[name] - x for name in judged])


def test_thresholds_may_differ() -> None:
    edge = cascade_of(Counted(), threshold=[0.25, -1.0])
    assert edge.invoke({"x": 0.04})["choice"]["arm"] == "cheap"
    assert edge.invoke({"x": 0.1})["choice"]["arm"] == "middle"


@pytest.mark.parametrize("mode", MODES)
def test_a_failed_target_runs_again_and_no_other(mode: str) -> None:
    counted, failing = Counted(), [True]

    def strong(state: State) -> State:
        if failing:
            raise ConnectionError("reset by peer")
        return {"y": "strong"}

    judged: list[Any] = []

    def never(state: State) -> bool:
        judged.append(state.get("y"))
        return False

    edge = cascade({"cheap": counted.target("cheap"), "strong": strong}, accept=never)
    graph = graph_of(edge, InMemorySaver())
    with pytest.raises(ConnectionError):
        run(graph, {"x": 1}, mode, thread())
    failing.clear()
    assert run(graph, None, mode, thread())["y"] == "strong"
    assert len(counted.called) == len(judged) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_dspy_module_may_judge(mode: str) -> None:
    lm = FakeLM(lambda call: {"good": call.inputs["y"].startswith("strong")})
    edge = cascade(Counted().targets(), accept=dspy.Predict("y -> good: bool"))
    with dspy.context(lm=lm):
        assert run(graph_of(edge), {"x": 1.0}, mode)["choice"]["arm"] == "strong"
    assert len(lm.calls) == 1


def test_other_scores_are_refused() -> None:
    edge = cascade(Counted().targets(), accept=lambda state: "good")
    with pytest.raises(LearnError, match="'good'"):
        edge.invoke({"x": 1})


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"threshold": [0.1]}, "2 numbers"),
        ({"threshold": float("nan")}, "threshold"),
        ({"accept": None}, "accept"),
        ({"write_to": 3}, "write_to"),
    ],
)
def test_invalid_cascades_are_refused(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(EdgeError, match=why):
        cascade_of(Counted(), **arguments)


@pytest.mark.parametrize("targets", [[len], {}, None, len])
def test_a_cascade_of_fewer_than_two_is_refused(targets: Any) -> None:
    with pytest.raises(EdgeError, match="at least two"):
        cascade(targets, accept=len)


def test_choices_in_states_are_logs() -> None:
    router = router_of(min_explore=0.2)
    graph = graph_of(route(router, Counted().targets(), key="x"))
    rows = [graph.invoke({"x": number % 2})["choice"] for number in range(10)]
    found = logs.read([*rows, *({"id": row["id"], "reward": 1.0} for row in rows)])
    assert [(row.features, row.reward) for row in found] == [([number % 2], 1.0) for number in range(10)]
    assert Router(["cheap", "strong"]).fit(found) == 10


@pytest.mark.parametrize("mode", MODES)
def test_policy_router_goes_where_a_router_decides(mode: str) -> None:
    router, counted = router_of(), Counted()
    builder = StateGraph(State)
    builder.add_node("router", policy_router(router, key="x", write_to="choice"))
    for name, target in counted.targets().items():
        builder.add_node(name, target)
    graph = builder.add_edge(START, "router").compile()
    assert {edge.target for edge in graph.get_graph().edges if edge.source == "router"} == {"cheap", "strong"}
    for number in range(20):
        found = run(graph, {"x": number % 2}, mode)
        right = (found["y"].split()[0] == "strong") == (number % 2 == 1)
        router.reward(found["choice"]["id"], right)
    assert (router.best(0), router.best(1)) == ("cheap", "strong")


@pytest.mark.parametrize(
    "arguments", [{}, {"write_to": "choice", "labels": ["a"]}, {"write_to": "choice", "strategy": "sample"}]
)
def test_policy_router_refuses_what_a_router_has(arguments: dict[str, Any]) -> None:
    make: Any = policy_router
    with pytest.raises(EdgeError):
        make(router_of(), **arguments)


def test_graphs_without_names_are_numbered() -> None:
    graphs = [StateGraph(State).add_sequence([("ask", target)]) for target in Counted().targets().values()]
    edge = cascade([graph.add_edge(START, "ask").compile() for graph in graphs], accept=lambda state: False)
    assert edge.invoke({"x": 1})["choice"]["asked"] == ["branch_0", "branch_1"]
