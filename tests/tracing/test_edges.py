"""What edges say in traces, as it arrives at Langfuse."""

import asyncio
from contextlib import nullcontext
from typing import Any

import dspy
import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from mahsm import Budget, jit_edge, parallel, reduce_edge, usage, vmap
from mahsm.policies import Hedge, Retry
from mahsm.reducers import llm_judge_select
from mahsm.testing import FakeLM, ModelServer, Reply
from tests.helpers import MODES, DictState, graph_of, run, thread
from tests.tracing.observations import observed

HANDLERS = (False, True)


def model() -> Any:
    return GenericFakeChatModel(messages=iter([AIMessage("hi") for _ in range(100)]), name="asked")


# B3: a target that passes its config on.


def passes(state: Any, config: RunnableConfig) -> Any:
    return {"ys": model().invoke("x", config).content}


async def passes_later(state: Any, config: RunnableConfig) -> Any:
    return {"ys": (await model().ainvoke("x", config)).content}


def passes_to_a_chain(state: Any, config: RunnableConfig) -> Any:
    return {"ys": (RunnableLambda(lambda x: x) | model()).invoke("x", config).content}


async def passes_to_a_chain_later(state: Any, config: RunnableConfig) -> Any:
    return {"ys": (await (RunnableLambda(lambda x: x) | model()).ainvoke("x", config)).content}


def subgraph() -> Any:
    builder = StateGraph(DictState)
    builder.add_node("ask", passes)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    return builder.compile(name="inner")


def passes_to_a_graph(state: Any, config: RunnableConfig) -> Any:
    return subgraph().invoke({"xs": 1}, config)


async def passes_to_a_graph_later(state: Any, config: RunnableConfig) -> Any:
    return await subgraph().ainvoke({"xs": 1}, config)


def square(state: Any) -> int:
    return state["item"] ** 2


PASSING = [
    passes,
    passes_later,
    passes_to_a_chain,
    passes_to_a_chain_later,
    passes_to_a_graph,
    passes_to_a_graph_later,
]
HOW: list[dict[str, Any]] = [
    {},
    {"chunk_size": 1},
    {"timeout": 50.0},
    {"retry": Retry(attempts=2, base=0)},
    {"hedge": Hedge(after=10)},
    {"max_concurrency": 1},
]


@pytest.mark.parametrize("target", PASSING)
@pytest.mark.parametrize("mode", MODES)
def test_what_an_item_calls_with_its_config_stands_in_the_item(mode: str, target: Any) -> None:
    edge = vmap(target, batch_key="xs", out_key="ys", name="fan")
    with observed() as seen:
        run(graph_of(edge), {"xs": [1, 2, 3]}, mode, seen.config(True))
        assert sorted(each.item for each in seen.typed("GENERATION")) == [0, 1, 2]
        assert all("vmap:fan" in each.path for each in seen.typed("GENERATION"))


@pytest.mark.parametrize("options", HOW, ids=str)
@pytest.mark.parametrize("target", [passes, passes_later])
@pytest.mark.parametrize("mode", MODES)
def test_that_holds_however_the_item_is_tried(mode: str, target: Any, options: Any) -> None:
    edge = vmap(target, batch_key="xs", out_key="ys", name="fan", **options)
    with observed() as seen:
        run(
            graph_of(edge, checkpointer=InMemorySaver()),
            {"xs": list(range(20))},
            mode,
            thread() | seen.config(True),
        )
        items = [each.item for each in seen.typed("GENERATION")]
        assert sorted(set(items) if "hedge" in options else items) == list(range(20)), (
            "a slow item may have a second call"
        )


@pytest.mark.parametrize("target", PASSING)
@pytest.mark.parametrize("mode", MODES)
def test_what_a_branch_calls_with_its_config_stands_in_the_branch(mode: str, target: Any) -> None:
    edge = parallel(
        {"one": target, "two": target}, name="both", merge=lambda state, updates: {"ys": len(updates)}
    )
    with observed() as seen:
        run(graph_of(edge), {"xs": 1}, mode, seen.config(True))
        assert sorted(each.item for each in seen.typed("GENERATION")) == [0, 1]
        branches = [each.path[-4] for each in seen.typed("GENERATION")]
        assert sorted(branches) == ["one", "two"], [each.path for each in seen.typed("GENERATION")]


@pytest.mark.parametrize("target", [passes, passes_later])
@pytest.mark.parametrize("handed_on", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_nested_edges_whose_config_is_handed_on(mode: str, handed_on: bool, target: Any) -> None:
    inner = vmap(target, batch_key="row", out_key="ys", name="inner", item_to_state=lambda x: {"item": x})

    def calls(state: Any, config: RunnableConfig) -> Any:
        return inner.invoke({"row": state["item"]}, config)["ys"]

    edge = vmap(
        calls if handed_on else inner,
        batch_key="xs",
        out_key="ys",
        name="outer",
        item_to_state=lambda row: {"item": row, "row": row},
    )
    with observed() as seen:
        run(graph_of(edge), {"xs": [[1], [2, 3]]}, mode, seen.config(True))
        generations = seen.typed("GENERATION")
        paths = sorted((each.parent.item, each.parent.parent.parent.item) for each in generations)
        assert paths == [(0, 0), (0, 1), (1, 1)]


# B4: runs that end with an error.


def counts(facts: dict[str, Any], *names: str) -> dict[str, Any]:
    return {
        name: facts.get(name)
        for name in names or ("fan_out", "begun", "finished", "errors", "fan_in", "concurrency")
    }


def odd_fails(state: Any) -> Any:
    if state["item"] % 2:
        raise ValueError("odd")
    return state["item"]


async def odd_fails_later(state: Any) -> Any:
    await asyncio.sleep(0)
    return odd_fails(state)


@pytest.mark.parametrize("target", [odd_fails, odd_fails_later])
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_an_item_ends_says_how_many_failed(mode: str, handler: bool, target: Any) -> None:
    edge = vmap(target, batch_key="xs", out_key="ys", name="fan", max_concurrency=1)
    with observed(scores=True) as seen:
        with pytest.raises(ValueError, match="odd"):
            run(graph_of(edge), {"xs": [0, 2, 4, 1, 6, 8]}, mode, seen.config(handler))
        span = seen.one("vmap:fan")
        assert span.level == "ERROR"
        assert counts(span.facts) == {
            "fan_out": 6,
            "begun": 4,
            "finished": 4,
            "errors": 1,
            "fan_in": 3,
            "concurrency": 1,
        }
        assert seen.scores == [("mahsm.error_rate", 0.25)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [1, 1000])
def test_a_run_of_which_nothing_is_left_has_an_error_rate_of_one(mode: str, count: int) -> None:
    edge = vmap(odd_fails, batch_key="xs", out_key="ys", name="fan", max_concurrency=1)
    with observed(scores=True) as seen:
        with pytest.raises(ValueError, match="odd"):
            run(edge, {"xs": [1] * count}, mode)
        assert counts(seen.one("vmap:fan").facts, "fan_out", "begun", "errors") == {
            "fan_out": count,
            "begun": 1,
            "errors": 1,
        }
        assert seen.scores == [("mahsm.error_rate", 1.0)]


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_too_few_items_survive_says_how_many_failed(mode: str) -> None:
    edge = vmap(
        odd_fails, batch_key="xs", out_key="ys", name="fan", max_concurrency=1, on_error="drop", min_success=5
    )
    with observed() as seen:
        with pytest.raises(Exception, match="min_success"):
            run(edge, {"xs": [0, 1, 3, 2, 4, 6]}, mode)
        assert counts(seen.one("vmap:fan").facts, "begun", "finished", "errors") == {
            "begun": 3,
            "finished": 3,
            "errors": 2,
        }


@pytest.mark.parametrize("mode", MODES)
def test_a_failed_branch_is_counted(mode: str) -> None:
    edge = parallel(
        {"good": lambda state: {"ys": 1}, "bad": lambda state: {"errors": 1 // 0}, "late": lambda state: {}},
        name="three",
        scheduler="sequential",
    )
    with observed(scores=True) as seen:
        with pytest.raises(ZeroDivisionError):
            run(graph_of(edge), {"xs": 1}, mode)
        facts = seen.one("parallel:three").facts
        assert counts(facts) == {
            "fan_out": 3,
            "begun": 2,
            "finished": 2,
            "errors": 1,
            "fan_in": 1,
            "concurrency": 3,
        }
        assert seen.scores == [("mahsm.error_rate", 0.5)]


@pytest.mark.parametrize("mode", MODES)
def test_a_reducer_that_refuses_failed_inputs_says_how_many(mode: str) -> None:
    fan = vmap(odd_fails, batch_key="xs", out_key="ys", name="fan", on_error="collect")
    total = reduce_edge(input_key="ys", output_key="errors", reducer=sum, errors="raise", name="total")
    with observed() as seen:
        with pytest.raises(Exception, match="2 of 3 inputs failed"):
            run(graph_of(fan, total), {"xs": [1, 2, 3]}, mode)
        span = seen.one("reduce:total")
        assert (span.level, counts(span.facts, "fan_in", "errors")) == ("ERROR", {"fan_in": 3, "errors": 2})
        collected = seen.one("vmap:fan").facts
        assert counts(collected, "begun", "finished", "errors", "fan_in") == {
            "begun": 3,
            "finished": 3,
            "errors": 2,
            "fan_in": 3,
        }


@pytest.mark.parametrize("on_error", ["raise", "drop", "collect"])
def test_a_compiled_fan_out_counts_as_others_do(on_error: Any) -> None:
    def state_of(item: Any) -> Any:
        return {"item": float(10 / item)}

    double = jit_edge(lambda item: item * 2, in_keys=["item"], out_key="y")
    edge = vmap(double, batch_key="xs", out_key="ys", name="fan", item_to_state=state_of, on_error=on_error)
    with observed() as seen, pytest.raises(ZeroDivisionError) if on_error == "raise" else nullcontext():
        edge.invoke({"xs": [1, 2, 0]})
    facts = seen.one("vmap:fan").facts
    assert counts(facts, "fan_out", "begun", "finished", "errors") == {
        "fan_out": 3,
        "begun": 2,
        "finished": 3,
        "errors": 1,
    }
    assert facts["fan_in"] == (3 if on_error == "collect" else 2)


@pytest.mark.parametrize("mode", MODES)
def test_equal_items_count_as_often_as_there_are(mode: str) -> None:
    edge = vmap(
        odd_fails,
        batch_key="xs",
        out_key="ys",
        name="fan",
        dedupe_key=lambda x: x,
        on_error="drop",
        max_concurrency=1,
    )
    with observed() as seen:
        assert run(edge, {"xs": [1, 1, 2, 2, 2]}, mode)["ys"] == [2, 2, 2]
        facts = seen.one("vmap:fan").facts
        assert counts(facts, "begun", "finished", "errors", "fan_in") == {
            "begun": 2,
            "finished": 5,
            "errors": 2,
            "fan_in": 3,
        }


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_is_resumed_counts_what_was_done_before(mode: str) -> None:
    broken = [True]

    def sometimes(state: Any) -> Any:
        if state["item"] == 3 and broken:
            raise ValueError("broken")
        return state["item"]

    edge = vmap(sometimes, batch_key="xs", out_key="ys", name="fan", max_concurrency=1)
    graph = graph_of(edge, checkpointer=InMemorySaver())
    with observed() as seen:
        with pytest.raises(ValueError, match="broken"):
            run(graph, {"xs": [0, 1, 2, 3, 4]}, mode, thread())
        broken.clear()
        assert run(graph, None, mode, thread())["ys"] == [0, 1, 2, 3, 4]
        first, second = (counts(span.facts, "begun", "finished", "errors") for span in seen.named("vmap:fan"))
        assert first == {"begun": 4, "finished": 4, "errors": 1}
        assert second == {"begun": 2, "finished": 5, "errors": 0}


@pytest.mark.parametrize(
    ("options", "ended"),
    [
        ({"budget": Budget(calls=2)}, "budget"),
        ({"stop_when": lambda entries: len(entries) >= 2}, "stop_when"),
        ({}, None),
        ({"budget": Budget(calls=5)}, None),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_an_option_ends_says_which(mode: str, options: Any, ended: str | None) -> None:
    edge = vmap(
        square, batch_key="xs", out_key="ys", name="fan", max_concurrency=1, on_error="drop", **options
    )
    with observed() as seen:
        ys = run(edge, {"xs": [1, 2, 3, 4, 5]}, mode)["ys"]
        facts = seen.one("vmap:fan").facts
        assert (facts.get("ended"), facts["fan_in"]) == (ended, len(ys))
        assert facts["begun"] == (2 if ended else 5)


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_a_deadline_ends_says_so(mode: str) -> None:
    async def waits(state: Any) -> Any:
        await asyncio.Event().wait()

    edge = vmap(
        waits, batch_key="xs", out_key="ys", name="fan", max_concurrency=1, on_error="drop", deadline=0.05
    )
    with observed() as seen:
        assert run(edge, {"xs": [1, 2, 3]}, mode)["ys"] == []
        facts = seen.one("vmap:fan").facts
        assert (facts["ended"], facts["finished"], facts["errors"]) == ("deadline", 3, 3)


# B8: items from a cache, hedged calls, refused ones.


@pytest.mark.parametrize("mode", MODES)
def test_items_from_a_cache_are_counted(mode: str) -> None:
    edge = vmap(
        square, batch_key="xs", out_key="ys", name="fan", cache=InMemoryCache(), dedupe_key=lambda x: x
    )
    with observed() as seen:
        run(edge, {"xs": [1, 2]}, mode)
        run(edge, {"xs": [2, 2, 3]}, mode)
        found = [counts(span.facts, "begun", "finished", "cached_items") for span in seen.named("vmap:fan")]
    assert found == [
        {"begun": 2, "finished": 2, "cached_items": 0},
        {"begun": 1, "finished": 3, "cached_items": 2},
    ]


class Straggler:
    """The first call of item 15 never ends."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    async def __call__(self, state: Any) -> int:
        self.calls.append(state["item"])
        if state["item"] == 15 and self.calls.count(15) == 1:
            await asyncio.Event().wait()
        await asyncio.sleep(0.001)
        return state["item"]


@pytest.mark.parametrize("mode", MODES)
def test_hedged_calls_are_counted(mode: str) -> None:
    with observed() as seen:
        straggler = Straggler()
        edge = vmap(
            straggler, batch_key="xs", out_key="ys", name="fan", hedge=Hedge(after=5), max_concurrency=2
        )
        assert run(edge, {"xs": list(range(20))}, mode)["ys"] == list(range(20))
        facts = seen.one("vmap:fan").facts
        assert (facts["begun"], facts["finished"]) == (20, 20)
        assert 1 <= len(straggler.calls) - 20 <= facts["hedges"] < 20, (
            "one may be called off before it has done anything"
        )


@pytest.mark.parametrize("retry", [None, Retry(attempts=3, base=0)])
@pytest.mark.parametrize("mode", MODES)
def test_refused_attempts_are_counted(mode: str, retry: Any) -> None:
    replies = [Reply.rate_limited(retry_after=0), Reply.rate_limited(retry_after=0), {"y": "v"}]
    with ModelServer(replies) as server, observed() as seen, dspy.context(lm=server.lm()):
        edge = vmap(
            dspy.Predict("item -> y"), batch_key="xs", out_key="ys", name="fan", retry=retry, on_error="drop"
        )
        run(edge, {"xs": [1]}, mode)
        found = counts(seen.one("vmap:fan").facts, "retries", "rate_limited", "begun", "errors")
    again = retry is not None
    assert found == {"retries": 2 * again, "rate_limited": 1 + again, "begun": 1, "errors": int(not again)}


# B6, B7: calls are calls of models, and a price that nobody knows is none.


def answering(**options: Any) -> FakeLM:
    return FakeLM(lambda call: Reply(dict.fromkeys(call.outputs, "1"), usage=(10, 1)), **options)


def asks_for_one(state: Any) -> Any:
    return dspy.Predict("item -> y")(item=str(state["item"])).y if state["item"] == 1 else None


def asks_twice(state: Any) -> Any:
    return [dspy.Predict("item -> y")(item=str(state["item"])).y for _ in range(2)]


@pytest.mark.parametrize(("target", "calls"), [(asks_for_one, 1), (asks_twice, 6), (square, None)])
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_calls_are_calls_of_models(mode: str, handler: bool, target: Any, calls: int | None) -> None:
    inner = vmap(target, batch_key="xs", out_key="ys", name="fan")
    with observed() as seen, dspy.context(lm=answering()), usage() as used:
        run(graph_of(inner), {"xs": [0, 1, 2]}, mode, seen.config(handler))
        assert seen.one("vmap:fan").facts.get("calls") == calls
        assert used.calls == len(seen.typed("GENERATION")) == (calls or 0)


@pytest.mark.parametrize("mode", MODES)
def test_calls_of_branches_nested_edges_and_judges_are_those_of_usage(mode: str) -> None:
    inner = vmap(
        asks_for_one,
        batch_key="xs",
        out_key="ys",
        name="inner",
        budget=Budget(calls=100),
        retry=Retry(base=0),
    )
    both = parallel({"left": inner, "right": lambda state: {"a": square({"item": 2})}}, name="both")
    best = reduce_edge(input_key="xs", output_key="best", reducer=llm_judge_select(), name="best")
    with observed() as seen, dspy.context(lm=answering()), usage() as used:
        run(both, {"xs": [0, 1, 2]}, mode)
        run(best, {"xs": ["a", "b"]}, mode)
        found = {
            each.name.partition(":")[2]: each.facts["calls"] for each in seen.all if "calls" in each.facts
        }
        assert found == {run.edge: run.usage.calls for run in used.runs}
        assert found | {"judge": 2} == {"inner": 1, "both": 1, "best": 2, "judge": 2}


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_calls_of_langchains_models_are_counted(mode: str, handler: bool) -> None:
    edge = vmap(passes, batch_key="xs", out_key="ys", name="fan")
    with observed() as seen, usage() as used:
        run(graph_of(edge), {"xs": [1, 2, 3]}, mode, seen.config(handler))
        facts = seen.one("vmap:fan").facts
        assert (
            (facts["calls"], facts["unpriced"], "cost_usd" in facts)
            == (used.calls, used.unpriced, False)
            == (3, 3, False)
        )


@pytest.mark.parametrize("mode", MODES)
def test_failed_calls_are_calls(mode: str) -> None:
    with (
        ModelServer([Reply.failed(503), {"y": "v"}]) as server,
        observed() as seen,
        dspy.context(lm=server.lm()),
    ):
        retry = Retry(attempts=2, base=0)
        run(
            vmap(dspy.Predict("item -> y"), batch_key="xs", out_key="ys", name="fan", retry=retry),
            {"xs": [1]},
            mode,
        )
        facts = seen.one("vmap:fan").facts
        assert counts(facts, "calls", "failed_calls", "retries") == {
            "calls": 2,
            "failed_calls": 1,
            "retries": 1,
        }


@pytest.mark.parametrize("mode", MODES)
def test_a_price_that_nobody_knows_is_none(mode: str) -> None:
    edge = vmap(dspy.Predict("item -> y"), batch_key="xs", out_key="ys", name="fan")
    with observed(scores=True) as seen:
        with dspy.context(lm=answering()):
            run(edge, {"xs": [1, 2]}, mode)
        with dspy.context(lm=answering(price=(1.0, 3.0))):
            run(edge, {"xs": [1, 2]}, mode)
        with dspy.context(lm=answering()), usage(prices={"fake/model": (1.0, 3.0)}):
            run(edge, {"xs": [1, 2]}, mode)
        unpriced, priced, others = (span.facts for span in seen.named("vmap:fan"))
        assert ("cost_usd" in unpriced, unpriced["unpriced"]) == (False, 2)
        assert (priced["cost_usd"], priced["unpriced"]) == (26e-6, 0)
        assert (others["cost_usd"], others["unpriced"]) == (26e-6, 0)
        assert [value for name, value in seen.scores if name == "mahsm.cost_usd"] == [26e-6, 26e-6]


def test_a_sum_with_a_price_that_nobody_knows_says_how_many_there_are() -> None:
    def some(state: Any) -> Any:
        with dspy.context(lm=answering(price=(1.0, 3.0)) if state["item"] else answering()):
            return asks_twice(state)

    with observed() as seen:
        vmap(some, batch_key="xs", out_key="ys", name="fan").invoke({"xs": [0, 1]})
        assert counts(seen.one("vmap:fan").facts, "cost_usd", "unpriced", "calls") == {
            "cost_usd": 26e-6,
            "unpriced": 2,
            "calls": 4,
        }


def test_what_comes_from_a_cache_costs_nothing_and_that_is_known() -> None:
    with ModelServer({"y": "v"}) as server, observed() as seen, dspy.context(lm=server.lm(cache=True)):
        edge = vmap(dspy.Predict("item -> y"), batch_key="xs", out_key="ys", name="fan", max_concurrency=1)
        for _ in range(2):
            edge.invoke({"xs": [f"cached {id(server)}"]})
        facts = seen.named("vmap:fan")[1].facts
        assert counts(facts, "calls", "cache_hits", "unpriced", "cost_usd") == {
            "calls": 0,
            "cache_hits": 1,
            "unpriced": 0,
            "cost_usd": 0.0,
        }
