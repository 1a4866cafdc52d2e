"""A fan-out in other processes gives what a loop gives, whatever the engine, the options and the mode."""

import multiprocessing
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypedDict, cast

import dspy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver

import mahsm
from mahsm import Budget, RateLimit, Retry, is_item_error, vmap
from mahsm.data import sinks, stream
from mahsm.edges._vmap.executors.crossing import packed
from mahsm.errors import EdgeError, TooFewSucceeded
from mahsm.reducers import first
from mahsm.testing import Call, ModelServer
from tests.edges.vmap.executors import targets
from tests.helpers import MODES, graph_of, run, thread

pytestmark = pytest.mark.slow


class State(TypedDict, total=False):
    xs: Any
    ys: Any
    failing: list[int]
    mark: str


def edge_of(target: Any, engine: Any, **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", "name": "edge", "executor": engine, **options})


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(0, 120),
    failing=st.sets(st.integers(0, 120), max_size=3),
    width=st.integers(1, 20),
    on_error=st.sampled_from(["raise", "collect", "drop"]),
    is_async=st.booleans(),
    mode=st.sampled_from(MODES),
    saved=st.booleans(),
    options=st.fixed_dictionaries(
        {},
        optional={
            "retry": st.just(Retry(attempts=2, base=0)),
            "chunk_size": st.integers(1, 50),
            "timeout": st.just(60.0),
            "deadline": st.just(600.0),
            "dedupe_key": st.just(lambda item: item // 2),
        },
    ),
)
def test_results_are_those_of_a_loop(
    engine: Any,
    count: int,
    failing: set[int],
    width: int,
    on_error: Any,
    is_async: bool,
    mode: str,
    saved: bool,
    options: dict[str, Any],
) -> None:
    items, failing = list(range(count)), {one for one in failing if one < count}
    key = options.get("dedupe_key")
    called = {item - item % 2 if key else item for item in items}
    failed = {item for item in items if (item - item % 2 if key else item) in failing & called}
    edge = edge_of(
        targets.double_later if is_async else targets.double,
        engine,
        max_concurrency=width,
        on_error=on_error,
        **options,
    )
    graph = graph_of(edge, state=State, checkpointer=InMemorySaver() if saved else None)
    given = {"xs": items, "failing": sorted(failing)}
    if on_error == "raise" and failed:
        with pytest.raises(ValueError, match=r"no \d+"):
            run(graph, given, mode, thread())
        return
    found = run(graph, given, mode, thread()).get("ys", [])
    of = {item: (item - item % 2 if key else item) * 2 for item in items}
    if on_error == "drop":
        assert found == [of[item] for item in items if item not in failed]
        return
    assert [one["index"] if is_item_error(one) else one for one in found] == [
        item if item in failed else of[item] for item in items
    ]


@pytest.mark.parametrize("mode", MODES)
def test_other_processes_do_the_work(engine: Any, mode: str) -> None:
    found = run(edge_of(targets.process, engine), {"xs": list(range(200))}, mode)["ys"]
    assert os.getpid() not in found
    assert len(set(found)) >= 1


@pytest.mark.parametrize("mode", MODES)
def test_a_resume_does_not_call_finished_items(engine: Any, mode: str, tmp_path: Path) -> None:
    edge = edge_of(targets.noted, engine, chunk_size=1, max_concurrency=2)
    graph = graph_of(edge, state=State, checkpointer=InMemorySaver())
    with pytest.raises(ConnectionError, match="down"):
        run(graph, {"xs": list(range(100)), "mark": str(tmp_path)}, mode, thread())
    (tmp_path / "repaired").touch()
    assert run(graph, None, mode, thread())["ys"] == list(range(100))
    calls = Counter((tmp_path / "calls").read_text().split())
    assert calls["0"] == calls["1"] == 1
    assert calls["40"] == 2


def test_a_target_gets_what_its_config_holds(engine: Any) -> None:
    graph = graph_of(edge_of(targets.configured, engine), state=State, checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t", "tenant": "ours"}, "tags": ["fan"]}
    assert graph.invoke({"xs": [1]}, cast("Any", config))["ys"] == [("ours", "t", ["fan"])]


@pytest.mark.parametrize("target", [targets.builder(), "tests.edges.vmap.executors.targets:graph"])
@pytest.mark.parametrize("mode", MODES)
def test_state_graphs_cross_as_builders_or_by_name(engine: Any, target: Any, mode: str) -> None:
    edge = edge_of(target, engine, result="doubled")
    assert run(edge, {"xs": [1, 2, 3]}, mode)["ys"] == [2, 4, 6]


def test_modules_of_dspy_cross_with_their_model_and_without_its_key(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []

    def kept(edge: str, program: Any) -> Any:
        found = packed(edge, program)
        sent.append(found[0])
        return found

    monkeypatch.setattr("mahsm.edges._vmap.executors.parts.packed", kept)

    def answer(call: Call) -> dict[str, str]:
        return {"answer": call.text[-1:]}

    with ModelServer(answer) as server:
        lm = dspy.LM("openai/m", api_base=server.base_url, api_key="sk-not-to-be-sent-1", cache=False)
        edge = edge_of(
            targets.Ask(),
            engine,
            item_to_state=lambda n: {"question": f"q{n}"},
            result="answer",
            on_error="collect",
        )
        with dspy.context(lm=lm), mahsm.usage() as used:
            found = edge.invoke({"xs": [1, 2, 3]})["ys"]
    assert b"sk-not-to-be-sent-1" not in sent[0]
    assert used.calls == 3
    assert found == ["1", "2", "3"] or "api_key" in str(found), (
        "the environment of workers has the key or not"
    )


def test_a_budget_ends_a_run_at_what_is_on_its_way(engine: Any) -> None:
    edge = edge_of(targets.double, engine, budget=Budget(calls=50), on_error="drop", max_concurrency=2)
    found = edge.invoke({"xs": list(range(2000))})["ys"]
    assert 50 <= len(found) <= 100


def test_stop_when_and_min_success_decide_here(engine: Any) -> None:
    edge = edge_of(targets.double, engine, stop_when=first(), max_concurrency=2)
    assert 1 <= len(edge.invoke({"xs": list(range(5000))})["ys"]) < 5000
    edge = edge_of(targets.double, engine, min_success=100, on_error="drop")
    with pytest.raises(TooFewSucceeded, match="1 of 100 items failed"):
        edge.invoke({"xs": list(range(100)), "failing": [3]})


def test_streams_and_sinks(engine: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(f"{n}\n" for n in range(3000)))
    edge = edge_of(targets.double, engine, sink=sinks.Jsonl(tmp_path / "out"), chunk_size=500)
    report = edge.invoke({"xs": stream(tmp_path / "rows.jsonl")})["ys"]
    assert (report["rows"], report["parts"], report["errors"]) == (3000, 6, 0)
    assert sinks.read(tmp_path / "out").collect() == [n * 2 for n in range(3000)]


def test_each_worker_has_its_share_of_a_rate_limit(engine: Any) -> None:
    limit = RateLimit("executors-example", rps=10_000, burst=100)
    edge = edge_of(targets.double, engine, rate_limit=limit, max_concurrency=4)
    assert edge.invoke({"xs": list(range(50))})["ys"] == [x * 2 for x in range(50)]


def test_an_item_that_ends_its_worker_once_is_called_again(own: str, tmp_path: Path) -> None:
    edge = edge_of(targets.ends_once, own)
    found = edge.invoke({"xs": list(range(30)), "mark": str(tmp_path / "mark")})["ys"]
    assert found == list(range(30))


@pytest.mark.parametrize("name", ["own", "dask"])
def test_an_item_that_ends_each_worker_is_found(name: str, request: pytest.FixtureRequest) -> None:
    engine = request.getfixturevalue(name)
    found = edge_of(targets.ends_at_7, engine, on_error="collect").invoke({"xs": list(range(30))})["ys"]
    assert [y for y in found if not is_item_error(y)] == [n for n in range(30) if n != 7]
    assert "the worker that ran this item has died" in found[7]["message"]


def test_a_broken_pool_says_to_resume() -> None:
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
        pytest.raises(EdgeError, match=r"ProcessPoolExecutor has ended, or one of its workers has.*Resume"),
    ):
        edge_of(targets.ends_at_7, pool).invoke({"xs": list(range(30))})
