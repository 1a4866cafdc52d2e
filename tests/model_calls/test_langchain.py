"""Agents, chains and functions that call LangChain's models several times: under limits, budgets and retries
of an edge."""

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any

import dspy
import pytest
from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AnyMessage
from langchain_core.prompt_values import StringPromptValue
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from typing_extensions import TypedDict

import mahsm
from mahsm import Budget, RateLimit, Retry, is_item_error, limits, vmap
from mahsm._model_calls import langchain
from mahsm.limits._registry import bucket
from mahsm.testing import Call, FakeChatModel, FakeLM, ModelServer, Reply, StatusError, ToolCall
from tests import helpers
from tests.helpers import MODES, chat_model


def look_up(word: str) -> str:
    """Look a word up."""
    return word.upper()


def asks_once(call: Call) -> Any:
    """One call of a tool, and then an answer."""
    return f"found {call.text}" if call.role == "tool" else ToolCall("look_up", {"word": call.text})


def message_of(item: str) -> dict[str, Any]:
    return {"messages": [("user", item)], "item": item}


def edge_of(target: Any, **options: Any) -> Any:
    return vmap(
        target, **{"batch_key": "xs", "out_key": "ys", "item_to_state": message_of, "name": "edge", **options}
    )


def run_edge(edge: Any, items: Iterable[str], mode: str) -> Any:
    return helpers.run_edge(edge, list(items), mode)


def last(state: Any) -> Any:
    return state["messages"][-1].content


# Every call inside of an item waits for a request of its own.


@pytest.mark.parametrize("mode", MODES)
def test_every_call_of_an_agent_takes_a_request(name: str, mode: str) -> None:
    agent = create_agent(FakeChatModel(asks_once), tools=[look_up])
    edge = edge_of(agent, result=last, rate_limit=RateLimit(name, rps=10_000))
    assert run_edge(edge, "abcdefghij", mode) == [f"found {letter}" for letter in "ABCDEFGHIJ"]
    stats = limits.stats()[name]
    assert (stats.admitted, stats.given_back) == (20, 0)


class Chat(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


# Ways to call a model twice in an item.


def blocking(model: Any, state: dict[str, Any]) -> Any:
    return [model.invoke(state["item"]) for _ in range(2)]


async def awaiting(model: Any, state: dict[str, Any]) -> Any:
    return [await model.ainvoke(state["item"]) for _ in range(2)]


def streaming(model: Any, state: dict[str, Any]) -> Any:
    return [list(model.stream(state["item"])) for _ in range(2)]


async def streaming_async(model: Any, state: dict[str, Any]) -> Any:
    return [[chunk async for chunk in model.astream(state["item"])] for _ in range(2)]


def batch(model: Any, state: dict[str, Any]) -> Any:
    return model.batch([state["item"]] * 2)


async def batch_async(model: Any, state: dict[str, Any]) -> Any:
    return await model.abatch([state["item"]] * 2)


def two_prompts(model: Any, state: dict[str, Any]) -> Any:
    return model.generate_prompt([StringPromptValue(text=state["item"])] * 2)


async def two_prompts_async(model: Any, state: dict[str, Any]) -> Any:
    return await model.agenerate_prompt([StringPromptValue(text=state["item"])] * 2)


def awaiting_in_a_thread(model: Any, state: dict[str, Any]) -> Any:
    return asyncio.run(awaiting(model, state))


async def blocking_on_a_loop(model: Any, state: dict[str, Any]) -> Any:
    await asyncio.sleep(0)
    return blocking(model, state)


def in_an_edge(model: Any, state: dict[str, Any]) -> Any:
    inner = vmap(lambda inner: model.invoke(inner["item"]), batch_key="zs", out_key="o", name="inner")
    return inner.invoke({"zs": [state["item"]] * 2})


def in_branches(model: Any, state: dict[str, Any]) -> Any:
    return RunnableParallel({"a": model, "b": model}).invoke(state["item"])


FUNCTIONS = [
    *(blocking, awaiting, streaming, streaming_async, batch, batch_async, two_prompts, two_prompts_async),
    *(awaiting_in_a_thread, blocking_on_a_loop, in_an_edge, in_branches),
]


def chain_of(model: Any) -> Any:
    return RunnableLambda(lambda state: state["item"]) | model | RunnableLambda(lambda _: "?") | model


def graph_of(model: Any) -> Any:
    def call(state: Any) -> Any:
        return {"messages": [("assistant", str(model.invoke("?")))]}

    async def call_async(state: Any) -> Any:
        return {"messages": [("assistant", str(await model.ainvoke("?")))]}

    builder = StateGraph(Chat)
    for step in ("first", "second"):
        builder.add_node(step, RunnableLambda(call, call_async))
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    builder.add_edge("second", END)
    return builder.compile()


TARGETS: dict[str, Callable[[Any], Any]] = {
    **{one.__name__: lambda model, one=one: partial(one, model) for one in FUNCTIONS},
    "chain": chain_of,
    "graph": graph_of,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["chat", "llm"])
@pytest.mark.parametrize("way", TARGETS)
def test_each_call_counts_however_it_is_made(name: str, mode: str, kind: str, way: str) -> None:
    model = FakeChatModel("yes") if kind == "chat" else FakeListLLM(responses=["yes"])
    limit = RateLimit(name, rps=10_000)
    edge = edge_of(TARGETS[way](model), result=lambda _: "yes", rate_limit=limit, max_concurrency=2)
    with mahsm.usage() as used:
        assert run_edge(edge, "abc", mode) == ["yes"] * 3
    assert limits.stats()[name].admitted == used.calls == 6
    assert used.failed == 0


@pytest.mark.parametrize("mode", MODES)
def test_calls_in_the_tools_of_an_agent_count(name: str, mode: str) -> None:
    """Three tools at once, each in a thread or a task of its own, ask a model, and a graph with a model."""
    helper = FakeChatModel("yes")
    inner = create_agent(helper, tools=[])

    def ask(word: str) -> str:
        """Ask about a word."""
        return str(helper.invoke(word).content)

    async def ask_awaiting(word: str) -> str:
        """Ask about a word."""
        return str((await helper.ainvoke(word)).content)

    def ask_an_agent(word: str) -> str:
        """Ask about a word."""
        return str(inner.invoke({"messages": [("user", word)]})["messages"][-1].content)

    tools = [ask if mode == "sync" else ask_awaiting, ask_an_agent]
    asked = [ToolCall(tool.__name__, {"word": "x"}) for tool in [tools[0], *tools]]
    agent = create_agent(FakeChatModel(lambda call: "done" if call.role == "tool" else asked), tools=tools)
    edge = edge_of(agent, result=last, rate_limit=RateLimit(name, rps=10_000), max_concurrency=2)
    assert run_edge(edge, "abc", mode) == ["done"] * 3
    assert len(helper.calls) == 9
    assert limits.stats()[name].admitted == 15


@pytest.mark.parametrize("mode", MODES)
def test_a_tool_node_as_a_target(name: str, mode: str) -> None:
    helper = FakeChatModel("yes")

    def ask(word: str) -> str:
        """Ask about a word."""
        return str(helper.invoke(word).content)

    call = {"name": "ask", "args": {"word": "x"}, "type": "tool_call"}
    state = {
        "messages": [
            {"role": "assistant", "content": "", "tool_calls": [{**call, "id": "1"}, {**call, "id": "2"}]}
        ]
    }
    graph = StateGraph(Chat).add_node("tools", ToolNode([ask])).add_edge(START, "tools").compile()
    edge = edge_of(graph, item_to_state=lambda _: state, result=last, rate_limit=RateLimit(name, rps=10_000))
    assert run_edge(edge, "ab", mode) == ["yes"] * 2
    assert limits.stats()[name].admitted == len(helper.calls) == 4


async def test_tokens_that_are_streamed_count_once(name: str) -> None:
    edge = edge_of(
        create_agent(FakeChatModel(asks_once), tools=[look_up]), rate_limit=RateLimit(name, rps=10_000)
    )
    graph = edge.compile()
    parts = [part async for part in graph.astream({"xs": ["a", "b"]}, stream_mode="messages", subgraphs=True)]
    assert len(parts) > 4
    assert limits.stats()[name].admitted == 4


# What waits holds nothing, and can be stopped.


def twice(model: Any, mode: str) -> Any:
    """A target that calls a model twice."""
    return partial(blocking if mode == "sync" else awaiting, model)


def waiting(name: str) -> int:
    found = limits.stats().get(name)
    return 0 if found is None else found.waiting


@pytest.mark.parametrize("target", MODES)
@pytest.mark.parametrize("mode", MODES)
def test_the_slot_is_free_while_a_further_call_waits(name: str, mode: str, target: str) -> None:
    """There is one slot, and one token for each item: both make their first call, and the second of these
    ends the run."""
    model = FakeChatModel(["yes", Reply.failed(400)])
    edge = edge_of(
        twice(model, target), rate_limit=RateLimit(name, rps=0.001, burst=1, key="item"), max_concurrency=1
    )
    with pytest.raises(StatusError):
        run_edge(edge, "ab", mode)
    assert sorted(call.text for call in model.calls) == ["a", "b"]
    assert waiting(f"{name}/a") == waiting(f"{name}/b") == 0


@pytest.mark.parametrize("kind", [*MODES, "agent"])
@pytest.mark.parametrize("mode", MODES)
def test_a_call_that_waits_is_stopped_quietly(
    name: str, mode: str, kind: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """One item fails when others wait for a token for their second call, which would take a thousand
    seconds."""

    def fail(word: str) -> str:
        """Fail when all others wait."""
        while len(model.calls) < 3 or sum(waiting(f"{name}/{item}") for item in "abc") < 3:
            time.sleep(0.001)
        raise ValueError("over")

    model = FakeChatModel(
        lambda call: ToolCall("fail" if call.text == "d" else "look_up", {"word": call.text})
    )
    targets = {
        "sync": lambda state: fail("d") if state["item"] == "d" else blocking(model, state),
        "async": partial(fails_or, partial(asyncio.to_thread, fail, "d"), partial(awaiting, model)),
        "agent": create_agent(model, tools=[look_up, fail]),
    }
    with pytest.raises(ValueError, match="over"):
        run_edge(
            edge_of(targets[kind], rate_limit=RateLimit(name, rps=0.001, burst=1, key="item")), "abcd", mode
        )
    assert sorted(call.text for call in model.calls) == list("abcd" if kind == "agent" else "abc")
    assert sum(waiting(f"{name}/{item}") for item in "abc") == 0
    assert [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"] == []
    assert capfd.readouterr().err == ""


async def fails_or(fail: Any, target: Any, state: dict[str, Any]) -> Any:
    return await fail() if state["item"] == "d" else await target(state)


async def test_a_cancelled_run_leaves_the_line(name: str) -> None:
    model = FakeChatModel("yes")
    edge = edge_of(twice(model, "async"), rate_limit=RateLimit(name, rps=0.001, burst=2))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(edge.ainvoke({"xs": ["a", "b"]}))
        while len(model.calls) < 2 or waiting(name) < 2:  # noqa: ASYNC110  the limiter's loop is another one
            await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()
    assert (len(model.calls), waiting(name)) == (2, 0)


@pytest.mark.parametrize("mode", MODES)
def test_a_timeout_ends_the_wait(name: str, mode: str) -> None:
    model = FakeChatModel("yes")
    edge = edge_of(
        twice(model, mode), rate_limit=RateLimit(name, rps=0.001, burst=1), timeout=0.05, on_error="collect"
    )
    assert [entry["type"] for entry in run_edge(edge, "a", mode)] == ["TimeoutError"]
    deadline = time.monotonic() + 10
    while waiting(name) and time.monotonic() < deadline:  # a thread hears of it a little later
        time.sleep(0.001)
    assert len(model.calls) <= 1
    assert waiting(name) == 0


@pytest.mark.parametrize("kind", ["dspy", "langchain"])
@pytest.mark.parametrize("mode", MODES)
def test_a_blocking_call_on_an_event_loop_lends_no_slot(name: str, mode: str, kind: str) -> None:
    """What else waits for the slot runs on that loop, which the call blocks: it would get the slot, and never
    give it back."""
    model, ask = FakeChatModel("yes"), dspy.Predict("item -> answer")

    async def target(state: dict[str, Any]) -> Any:
        await asyncio.sleep(0.01)  # others find the slot taken, and wait for it
        for _ in range(2):
            ask(item=state["item"]) if kind == "dspy" else model.invoke(state["item"])
        return "done"

    edge = edge_of(
        target, rate_limit=RateLimit(name, rps=200, burst=2), retry=Retry(attempts=2), max_concurrency=1
    )
    with dspy.context(lm=FakeLM({"answer": "yes"})):
        assert run_edge(edge, "abcd", mode) == ["done"] * 4
    assert limits.stats()[name].admitted == 8


# Nothing counts twice.


@pytest.mark.parametrize("target", MODES)
@pytest.mark.parametrize("mode", MODES)
def test_a_models_own_limiter_of_the_same_provider_waits_no_second_time(
    name: str, mode: str, target: str
) -> None:
    limiter = limits.langchain(RateLimit(name, rps=10_000))
    agent = create_agent(FakeChatModel(asks_once, rate_limiter=limiter), tools=[look_up])
    run_edge(edge_of(agent, rate_limit=name), "abc", mode)
    assert limits.stats()[name].admitted == 6
    run_edge(edge_of(twice(FakeChatModel("yes", rate_limiter=limiter), target), rate_limit=name), "abc", mode)
    assert limits.stats()[name].admitted == 12


@pytest.mark.parametrize("mode", MODES)
def test_a_limiter_that_somebody_else_asks_is_paid_by_the_item_once(name: str, mode: str) -> None:
    limiter = limits.langchain(RateLimit(name, rps=10_000))

    def target(state: dict[str, Any]) -> Any:
        return [limiter.acquire() for _ in range(2)]

    run_edge(edge_of(target, rate_limit=name), "abc", mode)
    assert limits.stats()[name].admitted == 6


@pytest.mark.parametrize("mode", MODES)
def test_calls_that_go_through_admit_count_there(name: str, mode: str) -> None:
    model = FakeChatModel("yes")

    def blocking(state: dict[str, Any]) -> Any:
        with limits.admit(name):
            return [model.invoke("?").content for _ in range(2)]

    async def awaiting(state: dict[str, Any]) -> Any:
        async with limits.admit(name):
            return [(await model.ainvoke("?")).content for _ in range(2)]

    for target in (blocking, awaiting):
        run_edge(edge_of(target, rate_limit=RateLimit(name, rps=10_000)), "abc", mode)
    assert limits.stats()[name].admitted == len(model.calls) == 12


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_from_langchains_cache_gives_its_request_back(name: str, mode: str) -> None:
    model = FakeChatModel("yes", cache=InMemoryCache())
    run_edge(edge_of(twice(model, mode), rate_limit=RateLimit(name, rps=10_000)), "a", mode)
    run_edge(edge_of(twice(model, mode), rate_limit=name), "a", mode)
    stats = limits.stats()[name]
    assert (len(model.calls), stats.admitted, stats.given_back) == (1, 1, 3)


# Tokens.


@pytest.mark.parametrize("mode", MODES)
def test_each_call_settles_its_own_tokens(name: str, mode: str) -> None:
    model = FakeChatModel(
        lambda call: Reply("done", usage=(300, 20)) if call.role == "tool" else asks_usage(call)
    )
    agent = create_agent(model, tools=[look_up])
    run_edge(edge_of(agent, rate_limit=RateLimit(name, tpm=6_000_000)), "abc", mode)
    assert limits.stats()[name].settled_tokens == 3 * (110 + 320)
    assert bucket(name).estimates.mean == 215, "of a call, and not of an item"


def asks_usage(call: Call) -> Reply:
    return Reply(tool_calls=[ToolCall("look_up", {"word": call.text})], usage=(100, 10))


async def test_a_call_that_is_cancelled_keeps_its_estimate(name: str) -> None:
    model = FakeChatModel("yes", latency=60)

    async def target(state: dict[str, Any]) -> str:
        call = asyncio.ensure_future(model.ainvoke("?"))
        while not model.calls:  # noqa: ASYNC110  what begins there is the call itself
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        return "done"

    edge = edge_of(target, rate_limit=RateLimit(name, tpm=6_000_000, tokens=50))
    assert (await edge.ainvoke({"xs": ["a"]}))["ys"] == ["done"]
    stats = limits.stats()[name]
    assert (stats.admitted, stats.settled_tokens) == (1, 100), (
        "an estimate counts twice before one has been settled"
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_429_inside_of_an_agent_pauses_the_bucket(name: str, mode: str) -> None:
    refused = Reply.rate_limited(0.01)
    model = FakeChatModel(
        lambda call: refused if call.role == "tool" and not call.repeats else asks_once(call)
    )
    edge = edge_of(
        create_agent(model, tools=[look_up]),
        result=last,
        rate_limit=RateLimit(name, rps=10_000),
        retry=Retry(base=0),
    )
    assert run_edge(edge, "a", mode) == ["found A"]
    stats = limits.stats()[name]
    assert (stats.admitted, stats.pauses) == (4, 1)


# Retries, budgets and prices.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["agent", "function", "made inside"])
def test_clients_do_not_try_again_where_an_edge_does(kind: str, mode: str) -> None:
    with ModelServer(Reply("down", status=503, retry_after=0.01)) as server:
        options: dict[str, Any] = {"base_url": server.base_url, "api_key": "k", "max_retries": 1}
        model = chat_model(server.base_url, max_retries=1)
        target = {
            "agent": create_agent(model, tools=[]),
            "function": RunnableLambda(lambda state: model.invoke("?"), lambda state: model.ainvoke("?")),
            "made inside": lambda state: init_chat_model("openai:gpt-4o-mini", **options).invoke("?"),
        }[kind]
        assert is_item_error(
            run_edge(edge_of(target, retry=Retry(attempts=2, base=0), on_error="collect"), "a", mode)[0]
        )
        assert len(server.calls) == 2
        assert is_item_error(run_edge(edge_of(target, on_error="collect"), "a", mode)[0])
        assert len(server.calls) == 4, "an edge that does not retry leaves that to the client"
    assert model.root_client.max_retries == 1


@pytest.mark.parametrize("mode", MODES)
def test_prices_of_langchains_models_come_from_the_table(mode: str) -> None:
    """And are those of DSPy's."""
    asked = [ToolCall("look_up", {"word": "x"})]

    def answer(call: Call) -> Reply:
        return (
            Reply("done", usage=(300, 20))
            if call.role == "tool"
            else Reply(tool_calls=asked, usage=(100, 10))
        )

    with ModelServer(answer) as server, mahsm.usage() as used:
        agent = create_agent(chat_model(server.base_url), tools=[look_up])
        run_edge(edge_of(agent), "ab", mode)
    with ModelServer(Reply({"answer": "x"}, usage=(800, 60))) as server, mahsm.usage() as of_dspy:
        dspy.LM("openai/gpt-4o-mini", api_base=server.base_url, api_key="k", cache=False)("?")
    assert used.usd == pytest.approx((800 * 0.15 + 60 * 0.6) / 1e6)
    assert of_dspy.usd == pytest.approx(used.usd)
    assert (used.calls, used.unpriced, used.by_model["gpt-4o-mini"].usd) == (4, 0, pytest.approx(used.usd))


@pytest.mark.parametrize("mode", MODES)
def test_a_budget_in_dollars_holds_agents_back(mode: str) -> None:
    model = FakeChatModel(Reply("yes", usage=(1_000_000, 0)), model="openai/gpt-4o-mini")
    edge = edge_of(
        create_agent(model, tools=[]), budget=Budget(usd=0.3), on_error="collect", max_concurrency=1
    )
    entries = run_edge(edge, "abcd", mode)
    assert [is_item_error(entry) for entry in entries] == [False, False, True, True]
    assert "0.3 of 0.3 USD are spent" in entries[-1]["message"]


@pytest.mark.parametrize("mode", MODES)
def test_a_budget_of_calls_holds_agents_back(mode: str) -> None:
    agent = create_agent(FakeChatModel(asks_once), tools=[look_up])
    edge = edge_of(agent, budget=Budget(calls=3), on_error="collect", max_concurrency=1)
    with mahsm.usage() as used:
        entries = run_edge(edge, "abcd", mode)
    assert [is_item_error(entry) for entry in entries] == [False, False, True, True]
    assert "4 of 3 calls are made" in entries[-1]["message"]
    assert used.calls == 4


@pytest.mark.parametrize("mode", MODES)
def test_a_user_gives_the_price_of_a_model_that_nobody_knows(mode: str) -> None:
    model = FakeChatModel(Reply("yes", usage=(10, 10)))
    with mahsm.usage({"model": (1.0, 2.0)}) as used:
        run_edge(edge_of(create_agent(model, tools=[])), "a", mode)
    assert used.usd == pytest.approx(3e-5)


def test_calls_of_whose_end_nobody_is_told_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(langchain, "_MOST_OPEN", 2)

    async def cancelled(model: Any) -> None:
        call = asyncio.ensure_future(model.ainvoke("?"))
        while not model.calls:  # noqa: ASYNC110  what begins there is the call itself
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])

    with mahsm.usage() as used:
        for _ in range(5):
            asyncio.run(cancelled(FakeChatModel("yes", latency=60)))
    assert used.calls == 5
    assert len(langchain._SEES._asked) <= 2
