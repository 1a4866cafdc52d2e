"""Runs that go on at the same time share jobs, such as those of an evaluation."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypedDict

import dspy
import pytest
from langgraph.graph import END, START, StateGraph

import mahsm
from mahsm import BatchAPI, GraphModule, connect
from mahsm.errors import EdgeError
from mahsm.testing import ModelServer
from tests.edges.batches.conftest import Twice
from tests.helpers import run

# Longer than a busy machine takes to begin some threads.
API = BatchAPI(poll=0.01, linger=1.5)
EXAMPLES = [
    dspy.Example(xs=[f"a {n}", f"b {n}"], ys=[f"A {n}", f"B {n}"]).with_inputs("xs") for n in range(12)
]


class State(TypedDict):
    xs: list[str]
    ys: list[str]


def program_of(edge: Any) -> GraphModule:
    return GraphModule(connect(StateGraph(State), START, edge, END).compile(), outputs=["ys"])


def same(example: dspy.Example, found: dspy.Prediction, trace: Any = None) -> bool:
    return example.ys == [answer.rstrip("!") for answer in found.ys]


@pytest.mark.parametrize(("target", "rounds"), [(None, 1), (Twice, 2)])
def test_an_evaluation_is_one_job_for_each_call(
    target: Any, rounds: int, server: ModelServer, edge_of: Any
) -> None:
    edge = edge_of(*(() if target is None else (target(),)), api=API)
    evaluate = dspy.Evaluate(devset=EXAMPLES, metric=same, num_threads=len(EXAMPLES))
    with mahsm.usage() as used:
        assert evaluate(program_of(edge)).score == 100
    assert len(server.jobs.ids) == rounds
    assert used.calls == len(server.bill) == rounds * 2 * len(EXAMPLES)
    assert used.usd == pytest.approx(server.bill.usd)


def test_a_job_waits_for_runs_also_longer_than_for_items_that_block_each_other(
    server: ModelServer, edge_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mahsm._batches.rounds._PATIENCE", 0.01)
    first_waits = threading.Event()
    ask = dspy.Predict("item -> answer")

    def target(state: Any) -> Any:
        if state["item"] == "b":
            first_waits.wait()
        else:
            threading.Timer(0.2, first_waits.set).start()
        return {"answer": ask(item=state["item"]).answer}

    edge = edge_of(target, api=API)
    with ThreadPoolExecutor() as pool:
        found = [pool.submit(copy_context().run, edge.invoke, {"xs": [x]}) for x in "ab"]
        assert [each.result()["ys"] for each in found] == [["A"], ["B"]]
    assert len(server.jobs.ids) == 1


def test_an_optimiser_evaluates_in_shared_jobs(server: ModelServer, edge_of: Any) -> None:
    optimiser = dspy.BootstrapFewShotWithRandomSearch(
        metric=same, num_candidate_programs=1, num_threads=len(EXAMPLES), max_bootstrapped_demos=1
    )
    program = optimiser.compile(program_of(edge_of(api=API)), trainset=EXAMPLES, valset=EXAMPLES)
    assert program(xs=["c"]).ys == ["C"]
    assert len(server.jobs.ids) < len(EXAMPLES)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_runs_of_other_options_share_none(mode: str, server: ModelServer, edge_of: Any) -> None:
    begun = threading.Barrier(2)
    edges = [edge_of(api=API), edge_of(api=BatchAPI(poll=0.01, linger=1.4))]

    def ran(edge: Any) -> Any:
        begun.wait()
        return run(edge, {"xs": ["a"]}, mode)["ys"]

    with ThreadPoolExecutor() as pool:
        found = [pool.submit(copy_context().run, ran, edge) for edge in edges]
        assert [each.result() for each in found] == [["A"], ["A"]]
    assert len(server.jobs.ids) == 2


def test_a_run_that_ends_early_leaves_the_others_their_jobs(server: ModelServer, edge_of: Any) -> None:
    edge = edge_of(api=API)
    late = edge.with_(deadline=0.01)

    with ThreadPoolExecutor() as pool:
        stays = pool.submit(copy_context().run, run, edge, {"xs": ["a"]}, "sync")
        goes = pool.submit(copy_context().run, run, late, {"xs": ["b"]}, "sync")
        assert isinstance(goes.exception(), TimeoutError)
        assert stays.result()["ys"] == ["A"]


def test_a_run_without_models_is_refused_whatever_other_runs_do(server: ModelServer, edge_of: Any) -> None:
    api = BatchAPI(poll=0.01, linger=1.5, max_requests=1)

    def calls_none(state: Any) -> Any:
        server.jobs.wait_for("submit")
        return {"answer": state["item"]}

    with ThreadPoolExecutor() as pool:
        calls = pool.submit(copy_context().run, edge_of(api=api).invoke, {"xs": ["a"]})
        with pytest.raises(EdgeError, match="no item called a model of DSPy"):
            edge_of(calls_none, api=api).invoke({"xs": ["a"]})
        assert calls.result()["ys"] == ["A"]


def test_a_job_that_only_an_ended_run_waits_for_is_cancelled(server: ModelServer, edge_of: Any) -> None:
    for _ in range(2):
        server.jobs.hold_next()
    edge = edge_of(api=API)

    async def goes() -> None:
        with dspy.context(lm=server.lm("openai/gpt-4o")):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(edge.ainvoke({"xs": ["b"]}))
                await asyncio.to_thread(server.jobs.wait_for, "submit", 2)
                task.cancel()

    with ThreadPoolExecutor() as pool:
        stays = pool.submit(copy_context().run, edge.invoke, {"xs": ["a"]})
        pool.submit(copy_context().run, asyncio.run, goes()).result()
        server.jobs.wait_for("cancel")
        server.jobs.finish()
        assert stays.result()["ys"] == ["A"]
