"""`logs.from_langfuse`: choices in traces and their scores, over the wire to a server on loopback."""

import itertools
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from langfuse import Langfuse
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from mahsm import connect, tracing, vmap
from mahsm._spans import tracer
from mahsm.errors import LearnError
from mahsm.learn import Router, evaluate, logs, route
from mahsm.testing import LangfuseServer

ARMS = ["cheap", "strong"]
_numbers = itertools.count()


class State(TypedDict, total=False):
    x: list[float]
    y: str
    choice: dict[str, Any]


@pytest.fixture
def server() -> Iterator[LangfuseServer]:
    with LangfuseServer() as server:
        tracing.init(f"pk-logs-{next(_numbers)}", "sk", server.url)
        yield server
        tracing.off()


def client() -> Langfuse:
    found: Any = tracer()
    return found.backend.client


def answer(state: Any) -> dict[str, Any]:
    with tracing.span("call of a model"):
        return {"y": "answer"}


def asking(name: str = "ask", **options: Any) -> Any:
    router = Router(ARMS, seed=0, **{"min_explore": 0.4, **options})
    return route(router, dict.fromkeys(ARMS, answer), key="x", name=name)


def graph_of(edge: Any, **options: Any) -> Any:
    return connect(StateGraph(State), START, edge, END).compile(**options)


def named(server: LangfuseServer, name: str) -> list[dict[str, Any]]:
    tracing.flush()
    return [each for each in server.observations if each["name"] == name]


def thumb(value: Any, seen: dict[str, Any], *, on_trace: bool = False, **options: Any) -> None:
    """What a dashboard's reader gives."""
    at = {} if on_trace else {"observation_id": seen["id"]}
    kind = {bool: "BOOLEAN", float: "NUMERIC", str: "CATEGORICAL"}[type(value)]
    given: Any = {"name": "thumb", "value": value, "data_type": kind, **at, **options}
    client().create_score(trace_id=seen["traceId"], **given)
    tracing.flush()


def test_rewards_come_back_with_their_choices(server: LangfuseServer) -> None:
    edge = asking()
    x = np.random.default_rng(0).normal(size=(30, 12))
    choices = [edge.invoke({"x": row.tolist()})["choice"] for row in x]
    for number, choice in enumerate(choices[:20]):
        tracing.reward(choice["id"], number % 3 / 2)
    tracing.flush()
    found = logs.from_langfuse()
    assert found == logs.read(
        {**choice, "reward": number % 3 / 2} for number, choice in enumerate(choices[:20])
    )
    assert (len(found), found.unscored, found.unreadable) == (20, 10, 0)


def test_pages_are_read_to_the_end(server: LangfuseServer) -> None:
    edge = vmap(asking(), batch_key="xs", out_key="ys", item_to_state=lambda x: {"x": [x]})
    choices = [one["choice"] for one in edge.invoke({"xs": list(range(230))})["ys"]]
    for choice in choices:
        tracing.reward(choice["id"], True)
    tracing.flush()
    found = logs.from_langfuse()
    assert {row.id for row in found} == {choice["id"] for choice in choices}


def test_thumbs_train_a_router_and_are_evaluated(server: LangfuseServer) -> None:
    edge = asking(head="thompson", min_explore=0.5)
    for number in range(60):
        found = edge.invoke({"x": [number % 2]})
        [*_, seen] = named(server, "route:ask")
        thumb((found["choice"]["arm"] == "strong") == (number % 2 == 1), seen)
    log = logs.from_langfuse(name="thumb")
    learned = Router(ARMS, seed=0)
    assert learned.fit(log) == 60
    assert (learned.best([0.0]), learned.best([1.0])) == ("cheap", "strong")
    with pytest.warns(UserWarning, match="effective"):
        assert evaluate(log, learned.best).doubly_robust.value > 0.9


@pytest.mark.parametrize(
    ("value", "reward"), [(True, 1.0), (False, 0.0), (0.25, 0.25), ("good", 1.0), ("bad", 0.0)]
)
@pytest.mark.parametrize("where", ["edge", "inside", "around", "trace"])
def test_a_thumb_counts_wherever_it_is(server: LangfuseServer, value: Any, reward: float, where: str) -> None:
    with tracing.span("request"):
        choice = graph_of(asking()).invoke({"x": [1.0]})["choice"]
    with tracing.span("request"):
        graph_of(asking()).invoke({"x": [2.0]})
    name = {"edge": "route:ask", "inside": "call of a model"}.get(where, "request")
    of_trace = {each["traceId"] for each in named(server, "route:ask")[:1]}
    [seen] = [each for each in named(server, name) if each["traceId"] in of_trace]
    thumb(value, seen, on_trace=where == "trace")
    found = logs.from_langfuse(name="thumb", values={"good": 1.0, "bad": 0.0})
    assert [(row.id, row.reward) for row in found] == [(choice["id"], reward)]
    assert found.unscored == 1


def test_the_nearest_score_counts_and_of_these_the_latest(server: LangfuseServer) -> None:
    with tracing.span("request"):
        vmap(asking(), batch_key="xs", out_key="ys", item_to_state=lambda x: {"x": [x]}).invoke(
            {"xs": [1.0, 2.0]}
        )
    first, second = sorted(
        named(server, "route:ask"), key=lambda each: each["metadata"]["mahsm.choice_features"]
    )
    thumb(0.1, first)
    thumb(0.2, first)
    thumb(0.3, second, on_trace=True)
    thumb(0.4, named(server, "vmap:ask")[0])
    thumb(0.5, second, on_trace=True)
    found = logs.from_langfuse(name="thumb")
    assert sorted((row.features, row.reward) for row in found) == [([1.0], 0.2), ([2.0], 0.4)]


def test_a_run_that_was_resumed_is_one_choice(server: LangfuseServer) -> None:
    failing = [True]

    def target(state: State) -> State:
        if failing:
            raise ConnectionError("reset by peer")
        return {"y": "done"}

    edge = route(Router(ARMS), dict.fromkeys(ARMS, target), key="x", name="ask")
    graph, config = graph_of(edge, checkpointer=InMemorySaver()), {"configurable": {"thread_id": "1"}}
    with pytest.raises(ConnectionError):
        graph.invoke({"x": [1.0]}, config)
    failing.clear()
    choice = graph.invoke(None, config)["choice"]
    first, second = named(server, "route:ask")
    thumb(True, first)
    [row] = found = logs.from_langfuse(name="thumb")
    assert (row.id, row.reward, found.unscored) == (choice["id"], 1.0, 0)
    thumb(False, second)
    assert [row.reward for row in logs.from_langfuse(name="thumb")] == [0.0]


def test_names_edges_and_times(server: LangfuseServer) -> None:
    before = datetime.now(UTC)
    for name in ("ask", "other"):
        choice = asking(name).invoke({"x": [1.0]})["choice"]
        tracing.reward(choice["id"], 1.0)
        tracing.reward(choice["id"], 0.5, name="judge")
    tracing.flush()
    assert len(logs.from_langfuse()) == 2
    assert [row.reward for row in logs.from_langfuse(name="judge", edge="ask")] == [0.5]
    assert len(logs.from_langfuse(name=["judge", "mahsm.reward"], edge="route:other")) == 1
    found = logs.from_langfuse(name="nothing")
    assert (found, found.unscored) == ([], 2)
    assert len(logs.from_langfuse(from_=before)) == 2
    assert logs.from_langfuse(from_=datetime.now(UTC)) == logs.from_langfuse(to=before) == []
    assert len(logs.from_langfuse(to=datetime.now(UTC) + timedelta(minutes=1), from_=before)) == 2


def test_a_client_may_be_passed(server: LangfuseServer) -> None:
    tracing.reward(asking().invoke({"x": [1.0]})["choice"]["id"], True)
    tracing.flush()
    given = client()
    tracing.off()
    assert len(logs.from_langfuse(given)) == 1
    with pytest.raises(RuntimeError, match=r"logs\.from_langfuse needs Langfuse: call tracing\.init\(\)"):
        logs.from_langfuse()


def test_what_a_mask_hides_is_counted() -> None:
    def mask(*, data: Any, **_: Any) -> Any:
        return "hidden" if isinstance(data, list | float) else _inside(data)

    def _inside(data: Any) -> Any:
        return {key: mask(data=value) for key, value in data.items()} if isinstance(data, dict) else data

    with LangfuseServer() as server:
        tracing.init(f"pk-logs-{next(_numbers)}", "sk", server.url, mask=mask)
        tracing.reward(asking().invoke({"x": [1.0]})["choice"]["id"], 1.0)
        tracing.flush()
        found = logs.from_langfuse()
        tracing.off()
    assert (found, found.unscored, found.unreadable) == ([], 0, 1)


def test_categories_need_values(server: LangfuseServer) -> None:
    asking().invoke({"x": [1.0]})
    thumb("good", named(server, "route:ask")[0])
    with pytest.raises(LearnError, match=re.escape("the score 'thumb' has the value 'good'; expected")):
        logs.from_langfuse(name="thumb", values={"bad": 0.0})


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"name": ""}, "name=''"),
        ({"name": "a,b"}, "without commas"),
        ({"name": []}, r"name=\[\]"),
        ({"name": 3}, "name=3"),
        ({"edge": ""}, "edge=''; expected the name of an edge"),
        ({"from_": datetime(2026, 1, 1)}, "with a time zone"),
        ({"to": "2026-01-01"}, "to='2026-01-01'; expected a datetime"),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(LearnError, match=why):
        logs.from_langfuse(**arguments)
