"""`FakeChatModel`: everything but the provider is LangChain's own."""

import asyncio
import copy
import functools
import operator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel

from mahsm.testing import Call, FakeChatModel, Reply, StatusError, ToolCall
from tests.helpers import MODES, run


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


PARALLEL = [ToolCall("add", {"a": 1, "b": 2}), ToolCall("add", {"a": 30, "b": 40}, id="mine")]


def whole(model: Any, prompt: Any, mode: str) -> Any:
    """All chunks of a stream in one."""

    async def chunks() -> list[Any]:
        return [chunk async for chunk in model.astream(prompt)]

    found = list(model.stream(prompt)) if mode == "sync" else asyncio.run(chunks())
    assert len(found) > 2
    return functools.reduce(operator.add, found)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["at once", "streamed"])
def test_an_answer_with_all_that_it_can_have(mode: str, way: str) -> None:
    model = FakeChatModel(Reply("let me see", tool_calls=PARALLEL, usage=(20, 5)), model="openai/gpt-4o-mini")
    message = run(model, "?", mode) if way == "at once" else whole(model, "?", mode)
    assert message.text == "let me see"
    assert [(call["name"], call["args"], call["id"]) for call in message.tool_calls] == [
        ("add", {"a": 1, "b": 2}, "call_0"),
        ("add", {"a": 30, "b": 40}, "mine"),
    ]
    assert {**message.usage_metadata} == {"input_tokens": 20, "output_tokens": 5, "total_tokens": 25}
    assert message.response_metadata["model_name"] == "gpt-4o-mini"
    assert message.response_metadata["model_provider"] == "openai"


@pytest.mark.parametrize("mode", MODES)
def test_an_agent_calls_its_tools(mode: str) -> None:
    """The answers are those of a server: a function of the conversation as OpenAI's API has it."""

    def answer(call: Call) -> Any:
        return f"{call.messages[-2]['content']} and {call.text}" if call.role == "tool" else PARALLEL

    model = FakeChatModel(answer)
    agent = create_agent(model, tools=[add], system_prompt="Add.")
    state = run(agent, {"messages": [("user", "?")]}, mode)
    assert state["messages"][-1].content == "3 and 70"
    assert [call.tools for call in model.calls] == [["add"], ["add"]]
    assert [message["role"] for message in model.calls[1].messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
    ]
    assert model.calls[1].messages[2]["tool_calls"][1]["id"] == "mine"
    assert model.calls[0].body["tools"][0]["function"]["description"] == "Add two numbers."


@pytest.mark.parametrize("mode", MODES)
def test_errors_by_their_status(mode: str) -> None:
    model = FakeChatModel([Reply.rate_limited(2), Reply.failed(503), "yes"])
    with pytest.raises(StatusError, match="Rate limit reached") as caught:
        run(model, "?", mode)
    assert (caught.value.status_code, caught.value.retry_after) == (429, 2)
    with pytest.raises(StatusError, match="Status 503"):
        whole(model, "?", mode)
    assert run(model, "?", mode).content == "yes"
    assert [call.status for call in model.calls] == [429, 503, 200]
    with pytest.raises(ValueError, match="FakeChatModel: answers is empty"):
        FakeChatModel([])


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_in_a_form(mode: str) -> None:
    class Sum(BaseModel):
        total: int

    model = FakeChatModel(ToolCall("Sum", {"total": 3}))
    assert run(model.with_structured_output(Sum), "1 + 2", mode) == Sum(total=3)
    assert model.calls[0].body["tool_choice"] == "any"


@pytest.mark.parametrize("mode", MODES)
def test_copies_have_the_same_provider(mode: str) -> None:
    model = FakeChatModel(["1", "2", "3", "4"])
    others = [
        copy.deepcopy(model),
        model.model_copy(update={"latency": 0.001}),
        model.with_config(tags=["x"]),
    ]
    assert [run(one, "?", mode).content for one in [model, *others]] == ["1", "2", "3", "4"]
    assert [call.repeats for call in model.calls] == [0, 1, 2, 3]
    assert model.most_at_once == 1


def test_what_it_is_asked() -> None:
    model = FakeChatModel(lambda call: f"{call.model}: {call.text}")
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{question}")])
    assert (prompt | model).invoke({"question": "why?"}).content == "model: why?"
    parts = HumanMessage([{"type": "text", "text": "what is"}, {"type": "text", "text": "this?"}])
    assert model.invoke([SystemMessage("s"), parts]).content == "model: what is\nthis?"
    assert model.calls[0].messages[0] == {"role": "system", "content": "Be brief."}


def test_what_traces_are_told() -> None:
    from langchain_core.tracers.context import collect_runs

    with collect_runs() as seen:
        FakeChatModel("yes", model="openai/gpt-4o-mini").bind_tools([add], tool_choice="any").invoke("?")
    told = seen.traced_runs[0].extra
    assert told is not None
    assert (told["metadata"]["ls_provider"], told["metadata"]["ls_model_name"]) == ("openai", "gpt-4o-mini")
    assert told["invocation_params"]["tools"][0]["function"]["name"] == "add"


@pytest.mark.parametrize("mode", MODES)
def test_what_answers_raise_comes_out(mode: str) -> None:
    """A failed assertion of a test is no error of a provider, which would be tried again."""

    def answers(call: Call) -> Any:
        assert call.text == "expected", call.text
        return "x"

    model = FakeChatModel(answers)
    with pytest.raises(AssertionError, match="other"):
        run(model, "other", mode)
    assert run(model, "expected", mode).content == "x"
    assert model.most_at_once == 1
