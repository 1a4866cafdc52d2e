"""Budgets: what is counted, when nothing new begins, and what becomes of the open items."""

import asyncio
import threading
from contextvars import copy_context
from typing import Any

import dspy
import pytest
from langchain_core.caches import InMemoryCache as AnswerCache
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from mahsm import Branch, Budget, RateLimit, Retry, budget, dspy_node, is_item_error, limits, parallel, vmap
from mahsm.errors import BudgetExceeded, EdgeError
from mahsm.policies._budgets import begin_attempt
from mahsm.testing import FakeChatModel, ModelServer, Reply
from tests.helpers import MODES, chat_model, graph_of, run, run_edge, thread

ASK = dspy.Predict("item -> answer")
YES = Reply({"answer": "yes"}, usage=(70, 30))
GPT = "openai/gpt-4o-mini"  # 0.15 and 0.6 US dollars per million tokens, as DSPy knows
PRICE = (70 * 0.15 + 30 * 0.6) / 1e6


def edge_of(target: Any = ASK, **options: Any) -> Any:
    entry = "answer" if target is ASK else None
    if options.get("max_concurrency") == 1:
        # Items in tasks of their own would begin in the order in which their threads do.
        options = {"chunk_size": 64, **options}
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", "name": "edge", "result": entry, **options})


def fine(ys: list[Any]) -> int:
    return sum(not is_item_error(y) for y in ys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"Budget\(\) has no limit; pass at least one of usd="),
        ({"usd": 0}, r"usd=0; expected a number > 0"),
        ({"tokens": -1}, r"tokens=-1"),
        ({"seconds": float("inf")}, r"seconds=inf"),
        ({"calls": True}, r"calls=True"),
        (
            {"usd": 1, "prices": {"gpt": (1,)}},
            r"prices\['gpt'\]=\(1,\); expected US dollars per million input and output tokens",
        ),
        ({"usd": 1, "prices": {"gpt": (1, -1)}}, r"prices\['gpt'\]=\(1, -1\)"),
    ],
)
def test_what_cannot_be_kept_is_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        Budget(**arguments)
    with pytest.raises(EdgeError, match=message), budget(**arguments):
        raise AssertionError


def test_an_edge_takes_a_budget_only() -> None:
    with pytest.raises(EdgeError, match=r"budget=5; expected Budget\(usd=1.0\)"):
        edge_of(budget=5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("bounds", "most"),
    [(Budget(calls=10), 10), (Budget(tokens=1000), 10 + 3), (Budget(usd=9.5 * PRICE), 10 + 3)],
    ids=["calls", "tokens", "usd"],
)
def test_nothing_new_begins_when_it_is_spent(bounds: Budget, most: int, mode: str) -> None:
    with ModelServer(YES) as server, dspy.context(lm=server.lm(GPT)):
        ys = run_edge(edge_of(budget=bounds, on_error="collect", max_concurrency=4), range(40), mode)
    assert len(ys) == 40
    assert 10 <= fine(ys) <= most, "at most what was in flight beyond it"
    assert fine(ys) == len(server.calls), "nothing that was answered is lost"
    open_item = next(y for y in ys if is_item_error(y))
    assert open_item["type"] == "mahsm.errors.BudgetExceeded"
    assert open_item["attempts"] == 0
    assert "Nothing new begins; raise the budget to go on." in open_item["message"]


@pytest.mark.parametrize("mode", MODES)
def test_each_run_has_the_whole_budget(mode: str) -> None:
    edge = edge_of(lambda state: state["item"], budget=Budget(calls=2), on_error="drop", max_concurrency=1)
    # Threads of a busy machine may reach the line in another order.
    for _ in range(2):
        assert len(run_edge(edge, range(5), mode)) == 2


@pytest.mark.parametrize("mode", MODES)
def test_raise(mode: str) -> None:
    edge = edge_of(lambda state: state["item"], budget=Budget(calls=2))
    with pytest.raises(BudgetExceeded, match=r"edge: 2 of 2 calls are made"):
        run_edge(edge, range(50), mode)
    assert run_edge(edge, range(2), mode) == [0, 1], "just enough"


@pytest.mark.parametrize("mode", MODES)
def test_seconds(mode: str) -> None:
    """What waits in line when time is up does not wait any longer; what runs finishes."""
    limits.forget("budget-seconds")
    limit = RateLimit("budget-seconds", rps=0.001, burst=3)
    edge = edge_of(
        lambda state: state["item"], rate_limit=limit, budget=Budget(seconds=0.3), on_error="collect"
    )
    ys = run_edge(edge, range(20), mode)
    assert fine(ys) == 3
    assert "0.3 s are over" in ys[-1]["message"]
    assert limits.stats()["budget-seconds"].waiting == 0


@pytest.mark.parametrize("mode", MODES)
def test_what_runs_when_time_is_up_finishes(mode: str) -> None:
    began: list[int] = []
    for seconds in (0.05, 0.5, 5, 50):  # on a busy machine time may be up before anything runs
        over = threading.Event()
        with budget(seconds=seconds) as spent:

            def slow(state: dict[str, Any], over: threading.Event = over) -> int:
                began.append(state["item"])
                over.wait(60)
                return state["item"]

            edge = edge_of(slow, on_error="drop", max_concurrency=2)
            with spent.on_stop(lambda _, over=over: over.set()):
                assert run_edge(edge, range(10), mode) == sorted(began)
        assert isinstance(spent.exceeded, BudgetExceeded)
        if began:
            break
    assert len(began) in (1, 2)


@pytest.mark.parametrize("mode", MODES)
def test_budgets_nest_and_count_upwards(mode: str) -> None:
    edge = edge_of(lambda state: state["item"], budget=Budget(calls=3), on_error="drop", max_concurrency=1)
    with budget(calls=8) as outer:
        with budget(calls=4) as inner:
            assert [len(run_edge(edge, range(5), mode)) for _ in range(2)] == [3, 1]
        assert inner.calls == 4
        assert [len(run_edge(edge, range(5), mode)) for _ in range(3)] == [3, 1, 0]
    assert (outer.calls, str(outer.exceeded)) == (
        8,
        "budget: 8 of 8 calls are made. Nothing new begins; raise the budget to go on.",
    )


@pytest.mark.parametrize("mode", MODES)
def test_nested_edges_count_their_own_calls(mode: str) -> None:
    inner = vmap(
        lambda state: state["item"],
        batch_key="items",
        out_key="ys",
        on_error="drop",
        name="inner",
        max_concurrency=1,
    )
    outer = edge_of(
        inner,
        chunk_size=None,
        item_to_state=lambda x: {"items": x},
        budget=Budget(calls=4),
        on_error="drop",
        max_concurrency=1,
        result="ys",
    )
    assert run_edge(outer, [[1, 2, 3], [4, 5, 6], [7]], mode) == [[1, 2, 3], [4]]


@pytest.mark.parametrize("mode", MODES)
def test_what_was_spent(mode: str) -> None:
    edge = edge_of()
    with ModelServer(YES) as server, dspy.context(lm=server.lm(GPT)), budget(usd=1) as spent:
        run_edge(edge, range(5), mode)
    assert (spent.calls, spent.answers, spent.input_tokens, spent.output_tokens) == (5, 5, 350, 150)
    assert spent.tokens == 500
    assert spent.usd == pytest.approx(5 * PRICE)
    assert spent.exceeded is None


@pytest.mark.parametrize("mode", MODES)
def test_cached_answers_cost_nothing(mode: str) -> None:
    with ModelServer(YES) as server, dspy.context(lm=server.lm(GPT, cache=True)), budget(usd=1) as spent:
        for _ in range(3):
            run_edge(edge_of(), [f"budget {mode} {server.base_url} {id(server)}"], mode)
    assert (spent.calls, spent.cached, spent.tokens) == (1, 2, 100)
    assert spent.usd == pytest.approx(PRICE)


def chat(server: ModelServer, **options: Any) -> Any:
    return RunnableLambda(lambda state: str(state["item"])) | chat_model(server.base_url, **options)


@pytest.mark.parametrize("mode", MODES)
def test_langchain_models_count_too(mode: str) -> None:
    prices = {"gpt-4o-mini": (0.15, 0.6)}
    with ModelServer(Reply("yes", usage=(70, 30))) as server, budget(usd=1, prices=prices) as spent:
        run_edge(edge_of(chat(server)), range(3), mode)
    assert (spent.calls, spent.tokens) == (3, 300)
    assert spent.usd == pytest.approx(3 * PRICE)


@pytest.mark.parametrize("mode", MODES)
def test_langchains_cache_costs_nothing(mode: str) -> None:
    with ModelServer(Reply("yes", usage=(70, 30))) as server:
        edge = edge_of(chat(server, cache=AnswerCache()))
        with budget(tokens=1000) as spent:
            run_edge(edge, ["?"], mode)
            run_edge(edge, ["?"], mode)
    assert (len(server.calls), spent.calls, spent.cached, spent.tokens) == (1, 1, 1, 100)


@pytest.mark.parametrize("mode", MODES)
def test_a_price_that_nobody_knows_ends_the_budget(mode: str) -> None:
    with ModelServer(YES) as server, dspy.context(lm=server.lm("openai/homemade")):
        ys = run_edge(edge_of(budget=Budget(usd=1), on_error="collect", max_concurrency=1), range(5), mode)
        assert fine(ys) == 1
        assert "the price of the model 'homemade' is unknown" in ys[-1]["message"]
        priced = Budget(usd=1, prices={"homemade": (1, 2)})
        assert fine(run_edge(edge_of(budget=priced, on_error="collect"), range(5), mode)) == 5


@pytest.mark.parametrize("mode", MODES)
def test_no_further_attempt_when_it_is_spent(mode: str) -> None:
    """The item fails with its own error."""
    with ModelServer(Reply.failed(503)) as server, dspy.context(lm=server.lm()):
        edge = edge_of(
            budget=Budget(calls=3), retry=Retry(attempts=10, base=0), on_error="collect", max_concurrency=1
        )
        ys = run_edge(edge, ["?"], mode)
    assert len(server.calls) == 3
    assert ys[0]["type"].endswith("LMServerError")
    assert ys[0]["attempts"] == 3


@pytest.mark.parametrize("mode", MODES)
def test_an_item_that_waits_for_its_next_attempt_fails_with_its_own_error(mode: str) -> None:
    """Nobody waits an hour for a budget that has been spent meanwhile."""

    def target(state: dict[str, Any]) -> int:
        if state["item"] == 0:
            raise ConnectionError("try again in an hour")
        return state["item"]

    edge = edge_of(
        target,
        retry=Retry(base=3600, cap=3600, jitter=False),
        budget=Budget(calls=4),
        on_error="collect",
        max_concurrency=1,
    )
    ys = run_edge(edge, range(9), mode)
    assert (ys[0]["message"], ys[0]["attempts"]) == ("try again in an hour", 1)
    assert fine(ys) == 3


@pytest.mark.parametrize("mode", MODES)
def test_dspy_nodes_begin_nothing_either(mode: str) -> None:
    node = dspy_node(dspy.Predict("xs -> ys"))
    with ModelServer(Reply({"ys": "yes"})) as server, dspy.context(lm=server.lm()), budget(calls=2) as spent:
        for _ in range(2):
            assert run(node, {"xs": "?"}, mode) == {"ys": "yes"}
        with pytest.raises(BudgetExceeded, match="2 of 2 calls are made"):
            run(node, {"xs": "?"}, mode)
    assert spent.calls == 2


@pytest.mark.parametrize("mode", MODES)
def test_finished_chunks_are_saved_when_a_budget_raises(mode: str) -> None:
    calls: list[int] = []

    def target(state: dict[str, Any]) -> int:
        calls.append(state["item"])
        return state["item"]

    graph = graph_of(edge_of(target, max_concurrency=1, chunk_size=1), checkpointer=InMemorySaver())
    with budget(calls=4), pytest.raises(BudgetExceeded):
        run(graph, {"xs": list(range(10))}, mode, thread())
    assert run(graph, None, mode, thread())["ys"] == list(range(10))
    assert len(calls) == 10, "nothing twice"


@pytest.mark.parametrize("mode", MODES)
def test_usage_that_is_reported_by_hand(mode: str) -> None:
    def call(state: dict[str, Any]) -> int:
        limits.report(input_tokens=60, output_tokens=40, usd=0.5, model="mine")
        return state["item"]

    edge = edge_of(call, on_error="drop", max_concurrency=1)
    assert run_edge(
        edge_of(call, on_error="drop", max_concurrency=1, budget=Budget(usd=1)), range(5), mode
    ) == [0, 1]
    with budget(tokens=300) as spent:
        assert run_edge(edge, range(5), mode) == [0, 1, 2]
    assert (spent.calls, spent.tokens, spent.usd) == (3, 300, 1.5)


def test_concurrent_budgets_do_not_mix() -> None:
    async def one(calls: int) -> int:
        with budget(calls=calls) as spent:
            await edge_of(lambda state: state["item"], on_error="drop").ainvoke({"xs": list(range(30))})
        return spent.calls

    async def main() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(calls)) for calls in (3, 7, 40)]
        return [task.result() for task in tasks]

    assert asyncio.run(main()) == [3, 7, 30]


def test_the_last_call_goes_to_one_of_those_who_want_it() -> None:
    """Eight threads begin attempts in two budgets at once; the inner one has five calls, the outer one has
    three left."""
    with budget(calls=7) as outer:
        with budget(calls=4) as before:
            for _ in range(4):
                begin_attempt()
        with budget(calls=5) as inner:
            refused: list[BudgetExceeded] = []

            def attempt() -> None:
                try:
                    begin_attempt()
                except BudgetExceeded as error:
                    refused.append(error)

            threads = [threading.Thread(target=copy_context().run, args=(attempt,)) for _ in range(8)]
            for one in threads:
                one.start()
            for one in threads:
                one.join()
    assert (before.calls, inner.calls, outer.calls, len(refused)) == (4, 3, 7, 5)
    assert {str(error).split(":")[1] for error in refused} == {
        " 7 of 7 calls are made. Nothing new begins; raise the budget to go on."
    }


def two_calls(state: Any) -> Any:
    return {"answers": [MODEL.invoke(state["item"]).text for _ in range(2)]}


MODEL = FakeChatModel("yes")


class Asked(TypedDict, total=False):
    item: str
    answers: list[str]


ASKED = StateGraph(Asked).add_node(two_calls).add_edge(START, "two_calls").compile(name="asked")


async def asks_later(state: Any) -> Any:
    return await ASKED.ainvoke({"item": state["item"]})


GRAPHS: dict[str, Any] = {
    "graph": ASKED,
    "function": lambda state: ASKED.invoke({"item": state["item"]}),
    "later": asks_later,
}


@pytest.mark.parametrize("where", ["edge", "block"])
@pytest.mark.parametrize(
    "options", [{}, {"retry": Retry()}, {"rate_limit": RateLimit("graph-budget", rps=1000)}], ids=str
)
@pytest.mark.parametrize("target", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("mode", MODES)
def test_calls_of_graphs_in_items_count(mode: str, target: Any, options: Any, where: str) -> None:
    """An item that has begun makes all its calls, and no item begins when they are spent."""
    given = options | ({"budget": Budget(calls=3)} if where == "edge" else {})
    edge = vmap(
        target, batch_key="xs", out_key="ys", max_concurrency=1, on_error="drop", result="answers", **given
    )
    with budget(calls=3 if where == "block" else 1000) as spent:
        assert len(run(edge, {"xs": ["a"] * 10}, mode)["ys"]) == 2
    assert spent.calls == 4
    assert (spent.exceeded is not None) == (where == "block")


@pytest.mark.parametrize("mode", MODES)
def test_calls_of_graphs_in_branches_count(mode: str) -> None:
    def branch(number: int) -> Branch:
        return Branch(
            lambda state: {f"answers{number}": ASKED.invoke(state)["answers"]}, name=f"branch{number}"
        )

    branches = [branch(number) for number in range(4)]
    edge = parallel(branches, on_error="isolate", errors_key="errors", max_concurrency=1)
    with budget(calls=3) as spent:
        errors = run(edge, {"item": "a"}, mode)["errors"]
    assert spent.calls == 4
    assert len(errors) == 2
