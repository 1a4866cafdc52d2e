"""`tracing.reward`: a score on the observation of the edge that has made a choice, through Langfuse's own
client and a server on loopback."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypedDict

import numpy as np
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from opentelemetry.sdk.trace import TracerProvider

from mahsm import connect, tracing, vmap
from mahsm.errors import LearnError
from mahsm.learn import Router, cascade, route
from mahsm.testing import LangfuseServer
from tests.helpers import MODES, run

_numbers = itertools.count()


class State(TypedDict, total=False):
    x: list[float]
    y: int
    choice: dict[str, Any]


def asking(**options: Any) -> Any:
    router = Router(["cheap", "strong"], min_explore=0.2, seed=0)
    return route(router, dict.fromkeys(router.labels, lambda state: {"y": 1}), key="x", name="ask", **options)


def traced_to(server: LangfuseServer, **options: Any) -> Any:
    return tracing.init(f"pk-reward-{next(_numbers)}", "sk", server.url, **options)


@pytest.fixture
def server() -> Iterator[LangfuseServer]:
    with LangfuseServer() as server:
        traced_to(server)
        yield server
        tracing.off()


def ask() -> str:
    return asking().invoke({"x": [0.5]})["choice"]["id"]


def edges(server: LangfuseServer) -> list[dict[str, Any]]:
    tracing.flush()
    return [each for each in server.observations if each["name"] == "route:ask"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("handled", [True, False])
def test_the_score_is_on_the_edge_that_chose(mode: str, handled: bool) -> None:
    with LangfuseServer() as server:
        handler = traced_to(server)
        graph = connect(StateGraph(State), START, asking(), END).compile()
        config = {"callbacks": [handler]} if handled else {}
        choice = run(graph, {"x": [0.5, 1.0]}, mode, config)["choice"]
        tracing.reward(choice["id"], 0.25, comment="short")
        [edge] = edges(server)
        tracing.off()
    [score] = server.scores
    assert (score["traceId"], score["observationId"]) == (edge["traceId"], edge["id"])
    assert (score["name"], score["value"], score["dataType"]) == ("mahsm.reward", 0.25, "NUMERIC")
    assert (score["comment"], score["metadata"]) == ("short", {"mahsm.choice_id": choice["id"]})
    facts = {name: edge["metadata"][f"mahsm.choice_{name}"] for name in choice}
    assert facts == choice
    assert edge["metadata"]["mahsm.arms"] == ["cheap", "strong"]


@pytest.mark.parametrize(("value", "kind"), [(True, "BOOLEAN"), (np.bool_(True), "BOOLEAN"), (1, "NUMERIC")])
def test_true_and_false_are_boolean(server: LangfuseServer, value: Any, kind: str) -> None:
    tracing.reward(ask(), value)
    tracing.flush()
    assert [(score["value"], score["dataType"]) for score in server.scores] == [(1.0, kind)]


def test_each_item_of_a_vmap_has_its_own(server: LangfuseServer) -> None:
    edge = vmap(asking(), batch_key="xs", out_key="ys", item_to_state=lambda x: {"x": [x]})
    found = edge.invoke({"xs": [1.0, 2.0, 3.0]})["ys"]
    for one in found:
        tracing.reward(one["choice"]["id"], one["choice"]["features"][0])
    by_id = {each["id"]: each["metadata"]["mahsm.choice_features"] for each in edges(server)}
    assert sorted(score["value"] for score in server.scores) == [1.0, 2.0, 3.0]
    assert all(by_id[score["observationId"]] == [score["value"]] for score in server.scores)


def test_a_target_may_reward_its_own_choice(server: LangfuseServer) -> None:
    """The choice is in the trace as soon as it is made."""
    router = Router(["only"])
    key = router.route().id.rpartition("-")[0]

    def target(state: Any) -> dict[str, Any]:
        tracing.reward(f"{key}-1", 1.0)
        return {"y": 1}

    found = route(router, {"only": target}, key="x").invoke({"x": None})
    tracing.flush()
    assert [score["metadata"]["mahsm.choice_id"] for score in server.scores] == [found["choice"]["id"]]


def test_a_second_reward_is_an_error_unless_it_replaces(server: LangfuseServer) -> None:
    id = ask()
    tracing.reward(id, 0.0)
    with pytest.raises(LearnError, match=r"has a score 'mahsm\.reward' already; expected one reward"):
        tracing.reward(id, 1.0)
    tracing.reward(id, 1.0, name="thumb")
    tracing.reward(id, 0.5, replace=True)
    tracing.flush()
    page = server.answer("/api/public/v3/scores", {"name": "mahsm.reward"})
    assert [score["value"] for score in page["data"]] == [0.5]  # type: ignore[index]


def test_of_many_threads_one_gives_the_reward(server: LangfuseServer) -> None:
    id = ask()

    def reward(value: int) -> bool:
        try:
            tracing.reward(id, value)
        except LearnError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(reward, range(16))) == 1
    tracing.flush()
    assert len(server.scores) == 1


def test_a_choice_of_another_process_is_looked_up(server: LangfuseServer) -> None:
    ids = [ask(), ask()]
    tracing.flush()
    tracing.off()
    traced_to(server)  # knows no choices
    tracing.reward(ids[0], 0.0)
    tracing.flush()
    tracing.off()
    traced_to(server)
    with pytest.raises(LearnError, match="already"):
        tracing.reward(ids[0], 1.0)
    tracing.reward(ids[0], 0.75, replace=True)
    tracing.flush()
    by_trace = {each["traceId"]: each["id"] for each in edges(server)}
    assert [by_trace[score["traceId"]] for score in server.scores] == [
        score["observationId"] for score in server.scores
    ]
    page = server.answer("/api/public/v3/scores", {})
    assert [score["value"] for score in page["data"]] == [0.75]  # type: ignore[index]


def test_a_choice_of_a_resumed_run_is_found(server: LangfuseServer) -> None:
    failing = [True]

    def target(state: State) -> State:
        if failing:
            raise ConnectionError("reset by peer")
        return {"y": 1}

    edge = route(Router(["only"]), {"only": target}, key="x", name="ask")
    graph = connect(StateGraph(State), START, edge, END).compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    with pytest.raises(ConnectionError):
        graph.invoke({"x": [1.0]}, config)
    failing.clear()
    id = graph.invoke(None, config)["choice"]["id"]
    tracing.reward(id, 1.0)
    first, second = edges(server)
    assert first["metadata"]["mahsm.choice_id"] == second["metadata"]["mahsm.choice_id"] == id
    assert [score["observationId"] for score in server.scores] == [second["id"]]


def test_an_unknown_choice_is_an_error(server: LangfuseServer) -> None:
    with pytest.raises(LearnError, match=r"no trace has the choice 'a-1'.*tracing\.flush\(\) there"):
        tracing.reward("a-1", 1.0)


def test_a_comment_is_masked() -> None:
    with LangfuseServer() as server:
        traced_to(server, mask=lambda *, data, **_: _hidden(data))
        tracing.reward(ask(), 1.0, comment="card 4111, key sk-proj-abcdefghijklmnopqrstuvwxyz123456")
        tracing.flush()
        tracing.off()
    assert server.scores[0]["comment"].startswith("card ****, key ")
    assert "abcdefghij" not in server.scores[0]["comment"]


def _hidden(data: Any) -> Any:
    return data.replace("4111", "****") if isinstance(data, str) else data


def test_a_mask_that_fails_hides_the_comment() -> None:
    def fail(*, data: Any, **_: Any) -> Any:
        raise ValueError("no")

    with LangfuseServer() as server:
        traced_to(server, mask=fail)
        tracing.reward(ask(), 1.0, comment="card 4111")
        tracing.flush()
        tracing.off()
    assert "4111" not in server.scores[0]["comment"]


def test_without_langfuse_an_error_names_the_way() -> None:
    with pytest.raises(RuntimeError, match=r"tracing\.reward needs Langfuse: call tracing\.init\(\)"):
        tracing.reward("a-1", 1.0)
    tracing.use_otel(TracerProvider())
    id = ask()
    with pytest.raises(RuntimeError, match=r"tracing\.reward needs Langfuse"):
        tracing.reward(id, 1.0)
    tracing.off()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"id": 3}, r"id=3; expected a string"),
        ({"id": ""}, "id=''"),
        ({"name": ""}, "name=''"),
        ({"value": "good"}, "value='good'; expected a finite number, or True or False"),
        ({"value": float("nan")}, "value=nan"),
        ({"comment": 1}, "comment=1"),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(LearnError, match=why):
        tracing.reward(**{"id": "a-1", "value": 1.0, **arguments})


def test_the_latest_choices_are_kept(server: LangfuseServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mahsm.tracing._choices._MOST", 1)
    ids = [ask(), ask()]
    tracing.flush()
    for id in ids:  # the first one is looked up
        tracing.reward(id, 1.0)
    tracing.flush()
    assert [score["metadata"]["mahsm.choice_id"] for score in server.scores] == ids


def test_a_cascade_has_no_choice_of_a_router(server: LangfuseServer) -> None:
    edge = cascade([lambda state: {"y": 1}] * 2, accept=lambda state: True, name="ask")
    edge.invoke({"x": [1.0]})
    [seen] = server_edges(server)
    assert not [name for name in seen["metadata"] if name.startswith("mahsm.choice")]


def server_edges(server: LangfuseServer) -> list[dict[str, Any]]:
    tracing.flush()
    return [each for each in server.observations if each["type"] == "CHAIN"]
