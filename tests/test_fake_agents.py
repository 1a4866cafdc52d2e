"""Models in tests that call tools and stream: by HTTP, in LangChain, in DSPy; and agents that work with them."""

import asyncio
import json
from contextlib import nullcontext
from typing import Any

import pytest
from dspy import lm15
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from mahsm import is_item_error, vmap
from mahsm.policies import is_rate_limited, is_retryable
from mahsm.policies._retryable import retry_after
from mahsm.testing import Call, FakeChatModel, FakeLM, ModelError, ModelServer, Reply, ToolCall
from tests.helpers import MODES, run


@tool
def search(query: str) -> str:
    """Search for something."""
    return f"found {query}"


BOTH = Reply("Let me see.", tool_calls=[ToolCall("search", {"query": "a b"}), ToolCall("search", {"query": "c"}, id="mine")])
USAGE = Reply("one two three", usage=(7, 3))


def asked(answers: Any, kind: str) -> Any:
    """A model with these answers, and what it was asked; of a server the client."""
    if kind == "fake":
        model = FakeChatModel(answers)
        return model, model
    server = ModelServer(answers)
    client = ChatOpenAI(model="fake", base_url=server.base_url, api_key="x", max_retries=0, stream_usage=True)  # type: ignore[arg-type]
    return client, server


async def called(model: Any, text: str, mode: str, *, stream: bool) -> AIMessage:
    if not stream:
        return model.invoke(text) if mode == "sync" else await model.ainvoke(text)
    chunks = list(model.stream(text)) if mode == "sync" else [chunk async for chunk in model.astream(text)]
    assert len(chunks) > 3, "it comes in pieces"
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["fake", "server"])
@pytest.mark.parametrize("mode", MODES)
async def test_tool_calls_and_texts(mode: str, kind: str, stream: bool) -> None:
    model, log = asked([BOTH, USAGE], kind)
    with log if kind == "server" else nullcontext():
        first = await called(model.bind_tools([search]), "hi", mode, stream=stream)
        second = await called(model, "hi", mode, stream=stream)
    assert first.text == "Let me see."
    assert [(one["name"], one["args"], one["id"]) for one in first.tool_calls] == [
        ("search", {"query": "a b"}, "call_1"),
        ("search", {"query": "c"}, "mine"),
    ]
    assert first.response_metadata["finish_reason"] == "tool_calls"
    assert second.text == "one two three"
    assert second.tool_calls == []
    assert second.usage_metadata is not None
    assert (second.usage_metadata["input_tokens"], second.usage_metadata["output_tokens"]) == (7, 3)
    assert [call.tools for call in log.calls] == [["search"], []]
    assert [call.status for call in log.calls] == [200, 200]
    assert log.calls[0].text == "hi"


def researcher(model: BaseChatModel) -> Any:
    return create_agent(model, tools=[search], name="researcher")


def answers(call: Call) -> Any:
    """Searches once for what it is asked, and tells what was found."""
    if call.messages[-1]["role"] == "tool":
        return f"I {call.text}."
    return ToolCall("search", {"query": call.text})


@pytest.mark.parametrize("kind", ["fake", "server"])
@pytest.mark.parametrize("mode", MODES)
def test_an_agent_for_each_item(mode: str, kind: str) -> None:
    model, log = asked(answers, kind)
    edge = vmap(
        researcher(model),
        batch_key="topics",
        out_key="reports",
        item_to_state=lambda topic: {"messages": [HumanMessage(topic)]},
        result=lambda update: update["messages"][-1].text,
    )
    with log if kind == "server" else nullcontext():
        assert run(edge, {"topics": ["x", "y"]}, mode) == {"reports": ["I found x.", "I found y."]}
    assert len(log.calls) == 4


@pytest.mark.parametrize("kind", ["fake", "server"])
def test_structured_output(kind: str) -> None:
    class Grade(BaseModel):
        """A grade."""

        relevant: bool

    model, log = asked(ToolCall("Grade", {"relevant": True}), kind)
    with log if kind == "server" else nullcontext():
        graded = model.with_structured_output(Grade, method="function_calling") if kind == "server" else None
        graded = graded or model.with_structured_output(Grade)
        assert graded.invoke("relevant?") == Grade(relevant=True)


@pytest.mark.parametrize("mode", MODES)
def test_a_status_is_an_error_as_a_clients(mode: str) -> None:
    model = FakeChatModel([Reply.rate_limited(2.0), Reply.failed(400), Reply.failed(503), "fine"])
    with pytest.raises(ModelError, match="Error code: 429 - Rate limit reached") as limited:
        run(model, "x", mode)
    assert is_rate_limited(limited.value)
    assert retry_after(limited.value) == 2.0
    with pytest.raises(ModelError) as bad:
        run(model, "x", mode)
    assert not is_retryable(bad.value)
    with pytest.raises(ModelError) as down:
        run(model, "x", mode)
    assert is_retryable(down.value)
    assert run(model, "x", mode).text == "fine"
    assert [call.status for call in model.calls] == [429, 400, 503, 200]


async def test_a_cancelled_call_has_ended() -> None:
    begun = asyncio.Event()

    def late(call: Call) -> str:
        begun.set()
        return "late"

    model = FakeChatModel(late, latency=60.0)
    task = asyncio.ensure_future(model.ainvoke("x"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.calls[0].status == 499
    assert model.most_at_once == 1


def test_what_it_is_called_by_tracers() -> None:
    assert FakeChatModel(model="openai/gpt").get_name() == "FakeChatModel"
    assert FakeChatModel(model="openai/gpt")._get_ls_params()["ls_model_name"] == "gpt"
    with pytest.raises(ValueError, match="FakeChatModel: answers is empty"):
        FakeChatModel([])


@pytest.mark.parametrize("mode", MODES)
def test_items_of_a_bare_model_in_a_function(mode: str) -> None:
    model = FakeChatModel(lambda call: Reply.failed(400) if "bad" in call.text else call.text.upper())
    edge = vmap(lambda state: model.invoke(state["item"]).text, batch_key="xs", out_key="ys", on_error="collect")
    first, second = run(edge, {"xs": ["ok", "bad"]}, mode)["ys"]
    assert first == "OK"
    assert is_item_error(second)


def test_dspys_client_gets_tool_calls_too() -> None:
    request = lm15.Request(model="m", messages=(lm15.Message.user("hi"),))
    given = FakeLM(BOTH).engine.complete(request)
    assert [(part.name, part.input) for part in given.message.parts if isinstance(part, lm15.ToolCallPart)] == [
        ("search", {"query": "a b"}),
        ("search", {"query": "c"}),
    ]
    assert given.finish_reason == "tool_call"


def test_results_of_tools_are_in_the_log() -> None:
    model = FakeChatModel([ToolCall("search", {"query": "x"}), "done"])
    final = researcher(model).invoke({"messages": ["go"]})["messages"]
    assert [type(message) for message in final] == [HumanMessage, AIMessage, ToolMessage, AIMessage]
    assert json.dumps(model.calls[1].messages[-1]["content"]) == '"found x"'
    assert model.calls[1].messages[-1]["tool_call_id"] == "call_1"
