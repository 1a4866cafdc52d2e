"""What is collected becomes jobs, and each answer goes back to its item."""

import asyncio
from typing import Any, TypedDict

import dspy
import httpx
import pytest
from langgraph.graph import START, StateGraph

import mahsm
from mahsm import BatchAPI, Branch, connect, dspy_node, parallel, vmap
from mahsm.testing import ModelServer
from tests.edges.batches.conftest import Twice
from tests.helpers import MODES, run

WORDS = [f"word {number}" for number in range(12)]


def posts(server: ModelServer) -> int:
    return len(server.jobs.ids)


@pytest.mark.parametrize("mode", MODES)
def test_calls_of_all_items_are_one_job(mode: str, server: ModelServer, edge_of: Any) -> None:
    assert run(edge_of(), {"xs": WORDS}, mode)["ys"] == [word.upper() for word in WORDS]
    assert posts(server) == 1
    assert all(charge.job is not None for charge in server.bill)


@pytest.mark.parametrize("mode", MODES)
def test_each_call_of_an_item_is_a_round(mode: str, server: ModelServer, edge_of: Any) -> None:
    assert run(edge_of(Twice()), {"xs": WORDS}, mode)["ys"] == [f"{word.upper()}!" for word in WORDS]
    assert posts(server) == 2


@pytest.mark.parametrize("mode", MODES)
def test_usage_is_the_bill(mode: str, server: ModelServer, edge_of: Any) -> None:
    with mahsm.usage() as used:
        run(edge_of(Twice()), {"xs": WORDS}, mode)
    assert used.usd == pytest.approx(server.bill.usd)
    assert (used.calls, used.input_tokens, used.output_tokens) == (24, 240, 120)
    assert server.bill.usd == pytest.approx(24 * (10 * 0.15 + 5 * 0.60) / 2e6)


def test_blocking_code_waits_in_threads(server: ModelServer, edge_of: Any) -> None:
    ask = dspy.Predict("item -> answer")
    edge = edge_of(lambda state: {"answer": ask(item=state["item"]).answer})
    assert edge.invoke({"xs": WORDS})["ys"] == [word.upper() for word in WORDS]
    assert posts(server) == 1


@pytest.mark.parametrize("mode", MODES)
def test_many_items_that_block_are_one_job(mode: str, server: ModelServer, edge_of: Any) -> None:
    ask = dspy.Predict("item -> answer")
    words = [f"word {number}" for number in range(60)]
    edge = edge_of(lambda state: {"answer": ask(item=state["item"]).answer}, max_concurrency=60)
    assert run(edge, {"xs": words}, mode)["ys"] == [word.upper() for word in words]
    assert posts(server) == 1


class Said(TypedDict, total=False):
    item: str
    answer: str


def graph_of_items(*nodes: Any) -> Any:
    builder = StateGraph(Said).add_sequence(nodes)
    return builder.add_edge(START, next(iter(builder.nodes))).compile()


@pytest.mark.parametrize("mode", MODES)
def test_graphs_whose_nodes_block_are_one_job(mode: str, server: ModelServer, edge_of: Any) -> None:
    ask = dspy.Predict("item -> answer")

    def first(state: Said) -> Said:
        return {"answer": ask(item=state["item"]).answer}

    def again(state: Said) -> Said:
        return {"answer": ask(item=state["answer"] + "!").answer}

    inner = graph_of_items(first)
    words = [f"word {number}" for number in range(60)]
    edge = edge_of(graph_of_items(("inner", inner), again), max_concurrency=2)
    assert run(edge, {"xs": words}, mode)["ys"] == [f"{word.upper()}!" for word in words]
    assert posts(server) == 2


@pytest.mark.parametrize("mode", MODES)
def test_more_items_that_block_than_there_are_threads(
    mode: str, server: ModelServer, edge_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mahsm.edges._vmap.run._MOST_BLOCKING", 5)
    ask = dspy.Predict("item -> answer")
    edge = edge_of(lambda state: {"answer": ask(item=state["item"]).answer}, max_concurrency=2)
    assert run(edge, {"xs": WORDS}, mode)["ys"] == [word.upper() for word in WORDS]
    assert posts(server) >= 3


@pytest.mark.parametrize("scheduler", ["parallel", "sequential"])
@pytest.mark.parametrize("mode", MODES)
def test_branches_in_an_item_are_collected_together(
    mode: str, scheduler: Any, server: ModelServer, edge_of: Any
) -> None:
    ask = dspy.Predict("item -> answer")

    def branch(end: str) -> Any:
        return lambda state: {end: ask(item=state["item"] + end).answer}

    branches = parallel({end: branch(end) for end in "abc"}, scheduler=scheduler, name="branches")
    edge = edge_of(branches, result=lambda found: "".join(found[end][-1] for end in "abc"))
    assert run(edge, {"xs": WORDS}, mode)["ys"] == ["ABC"] * 12
    assert posts(server) == (1 if scheduler == "parallel" else 3)


@pytest.mark.parametrize("mode", MODES)
def test_more_items_than_may_work_at_the_same_time(mode: str, server: ModelServer, edge_of: Any) -> None:
    edge = edge_of(Twice(), max_concurrency=1)
    assert run(edge, {"xs": WORDS}, mode)["ys"] == [f"{word.upper()}!" for word in WORDS]
    assert posts(server) == 2


@pytest.mark.parametrize("mode", MODES)
def test_items_that_end_early_hold_up_no_job(mode: str, server: ModelServer, edge_of: Any) -> None:
    ask = dspy.Predict("item -> answer")

    async def some(state: Any) -> Any:
        if state["item"].endswith("1"):
            return {"answer": "early"}
        return {"answer": (await ask.acall(item=state["item"])).answer}

    ys = run(edge_of(some), {"xs": WORDS}, mode)["ys"]
    assert ys == ["early" if word.endswith("1") else word.upper() for word in WORDS]
    assert posts(server) == 1


@pytest.mark.parametrize("mode", MODES)
def test_calls_of_an_item_at_the_same_time_are_one_job(mode: str, server: ModelServer, edge_of: Any) -> None:
    ask = dspy.Predict("item -> answer")

    async def both(state: Any) -> Any:
        async with asyncio.TaskGroup() as group:
            found = [group.create_task(ask.acall(item=state["item"] + end)) for end in ("", "?")]
        return {"answer": "".join(one.result().answer for one in found)}

    ys = run(edge_of(both), {"xs": WORDS}, mode)["ys"]
    assert ys == [f"{word}{word}?".upper() for word in WORDS]
    assert posts(server) == 1


@pytest.mark.parametrize("mode", MODES)
def test_items_of_edges_inside_count(mode: str, server: ModelServer, edge_of: Any) -> None:
    inner = vmap(
        dspy.Predict("item -> answer"),
        batch_key="words",
        out_key="answer",
        result="answer",
        max_concurrency=1,
        item_to_state=lambda word: {"item": word},
    )
    edge = edge_of(inner, item_to_state=lambda pair: {"words": pair})
    pairs = [WORDS[start : start + 3] for start in range(0, 12, 3)]
    assert run(edge, {"xs": pairs}, mode)["ys"] == [[word.upper() for word in pair] for pair in pairs]
    assert posts(server) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_ordered", [False, True])
def test_branches_inside_count(is_ordered: bool, mode: str, server: ModelServer, edge_of: Any) -> None:
    """A branch that works before its call is waited for; one that waits for another branch is not."""
    ask = dspy.Predict("item -> answer")

    async def quick(state: Any) -> Any:
        return {"answer": (await ask.acall(item=state["item"])).answer}

    async def slow(state: Any) -> Any:
        for _ in range(100):
            await asyncio.sleep(0)
        return {"answer": (await ask.acall(item=state["item"] + "?")).answer}

    branches = {"quick": quick, "slow": Branch(slow, after=["quick"]) if is_ordered else slow}

    def merge(_: Any, found: Any) -> Any:
        return {"answer": found["quick"]["answer"] + found["slow"]["answer"]}

    both = parallel(branches, merge=merge, scheduler="wave" if is_ordered else "parallel")
    ys = run(edge_of(both), {"xs": WORDS}, mode)["ys"]
    assert ys == [f"{word}{word}?".upper() for word in WORDS]
    assert posts(server) == (2 if is_ordered else 1)


@pytest.mark.parametrize("mode", MODES)
def test_a_graph_of_dspy_nodes(mode: str, server: ModelServer, edge_of: Any) -> None:
    from langgraph.graph import END, START, StateGraph

    builder = StateGraph(dict)
    builder.add_node("first", dspy_node(dspy.Predict("item -> answer")))
    builder.add_node("second", dspy_node(dspy.Predict("item -> answer"), input_fields={"item": "answer"}))
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    builder.add_edge("second", END)
    ys = run(edge_of(builder.compile()), {"xs": WORDS}, mode)["ys"]
    assert ys == [word.upper() for word in WORDS]
    assert posts(server) == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_job_that_is_full_is_submitted(mode: str, server: ModelServer, edge_of: Any) -> None:
    edge = edge_of(api=BatchAPI(poll=0.01, max_requests=5))
    assert run(edge, {"xs": WORDS}, mode)["ys"] == [word.upper() for word in WORDS]
    sizes = [sum(charge.job == job for charge in server.bill) for job in server.jobs.ids]
    assert sorted(sizes) == [2, 5, 5]


def test_tokens_that_may_be_enqueued_bound_the_jobs(server: ModelServer, edge_of: Any) -> None:
    edge = edge_of(api=BatchAPI(poll=0.01, max_enqueued_tokens=500))
    assert edge.invoke({"xs": WORDS})["ys"] == [word.upper() for word in WORDS]
    assert posts(server) > 2


def test_two_models_are_two_jobs(server: ModelServer, edge_of: Any) -> None:
    ask, claude = dspy.Predict("item -> answer"), dspy.Predict("item -> answer")
    claude.lm = server.lm("anthropic/claude-haiku-4-5-20251001", max_tokens=100)

    async def either(state: Any) -> Any:
        predict = claude if state["item"].endswith("1") else ask
        return {"answer": (await predict.acall(item=state["item"])).answer}

    with mahsm.usage() as used:
        assert edge_of(either).invoke({"xs": WORDS})["ys"] == [word.upper() for word in WORDS]
    assert posts(server) == 2
    assert used.usd == pytest.approx(server.bill.usd)


def test_samples_are_answers_of_their_own(server: ModelServer, lm: Any) -> None:
    edge = vmap(
        dspy.Predict("item -> answer"),
        sample=4,
        item_to_state=lambda _: {},
        out_key="ys",
        result="answer",
        batch_api=BatchAPI(poll=0.01),
    )
    assert edge.invoke({"item": "same"})["ys"] == ["SAME"] * 4
    assert (posts(server), len(server.bill)) == (1, 4)


def test_answers_in_dspys_cache_are_not_asked_for(server: ModelServer, edge_of: Any) -> None:
    with dspy.context(lm=server.lm("openai/gpt-4o-mini", cache=True)), mahsm.usage() as used:
        edge = edge_of()
        unique = [f"{word} {id(server)}" for word in WORDS]
        first = edge.invoke({"xs": unique})["ys"]
        assert edge.invoke({"xs": unique})["ys"] == first
    assert posts(server) == 1
    assert (used.calls, used.cached) == (12, 12)


def test_an_edge_in_a_graph(server: ModelServer, edge_of: Any) -> None:
    from langgraph.graph import StateGraph

    from tests.helpers import DictState

    builder = StateGraph(DictState)
    connect(builder, "__start__", edge_of(), "__end__")
    assert builder.compile().invoke({"xs": WORDS})["ys"] == [word.upper() for word in WORDS]


def test_an_empty_batch_makes_no_job(server: ModelServer, edge_of: Any) -> None:
    assert edge_of().invoke({"xs": []})["ys"] == []
    assert posts(server) == 0


def test_threads_of_dspy_in_an_item(server: ModelServer, edge_of: Any) -> None:
    ask = dspy.Predict("item -> answer")

    def both(state: Any) -> Any:
        parallel = dspy.Parallel(num_threads=2, disable_progress_bar=True)
        found = parallel([(ask, {"item": state["item"] + end}) for end in "ab"])
        return {"answer": [one.answer for one in found]}

    ys = edge_of(both).invoke({"xs": WORDS[:4]})["ys"]
    assert ys == [[f"{word}{end}".upper() for end in "ab"] for word in WORDS[:4]]
    assert all(charge.job is not None for charge in server.bill)


@pytest.mark.parametrize("mode", MODES)
def test_a_timeout_of_httpx_is_one_for_its_requests(mode: str, server: ModelServer, edge_of: Any) -> None:
    with dspy.context(lm=server.lm("openai/gpt-4o-mini", timeout=httpx.Timeout(60.0))):
        assert run(edge_of(), {"xs": WORDS}, mode)["ys"] == [word.upper() for word in WORDS]
