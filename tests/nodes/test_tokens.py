"""Tokens of DSPy modules through LangGraph's streams, from a real client over HTTP and from a fake one."""

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import dspy
import pytest
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from mahsm import connect, dspy_node, parallel, vmap
from mahsm.errors import NodeError
from mahsm.testing import Call, FakeLM, ModelServer
from tests.helpers import MODES

ANSWER = "It rains in Rome."


class State(TypedDict, total=False):
    question: str
    questions: list[str]
    reasoning: str
    answer: str
    answers: list[str]


class TwoSteps(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.draft = dspy.Predict("question -> answer")
        self.final = dspy.ChainOfThought("question, draft -> answer")

    def forward(self, question: str) -> Any:
        return self.final(question=question, draft=self.draft(question=question).answer)


def said(call: Call) -> dict[str, str]:
    return {name: ANSWER if name == "answer" else "I looked out." for name in call.outputs}


@pytest.fixture(params=["server", "fake"])
def lm(request: pytest.FixtureRequest) -> Iterator[dspy.LM]:
    with ModelServer(said) as server:
        yield server.lm() if request.param == "server" else FakeLM(said)


def streamed(graph: Any, inputs: Any, mode: str, stream_mode: str) -> list[Any]:
    async def collect() -> list[Any]:
        return [event async for event in graph.astream(inputs, stream_mode=stream_mode)]

    return asyncio.run(collect()) if mode == "async" else list(graph.stream(inputs, stream_mode=stream_mode))


def graph_of(node: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("node", node)
    return connect(builder, START, "node", END).compile()


def text_of(events: list[Any], field: str) -> str:
    return "".join(event["token"] for event in events if event["field"] == field)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sync_only", [False, True], ids=["awaitable", "sync only"])
def test_custom_events_for_each_token(mode: str, sync_only: bool, lm: dspy.LM) -> None:
    node = dspy_node(
        TwoSteps() if sync_only else dspy.ChainOfThought("question -> answer"), stream=["answer"], name="ask"
    )
    with dspy.context(lm=lm):
        events = streamed(graph_of(node), {"question": "rain?"}, mode, "custom")
    final = "final.predict" if sync_only else "predict"
    tokens = [event for event in events if event["predictor"] == final]
    assert text_of(tokens, "answer") == ANSWER
    assert len(tokens) > 2
    assert {(event["node"], event["field"], event["item"]) for event in tokens} == {("ask", "answer", ())}
    assert [event["last"] for event in tokens] == [False] * (len(tokens) - 1) + [True]
    assert {event["predictor"] for event in events} == (
        {"draft", "final.predict"} if sync_only else {"predict"}
    )


@pytest.mark.parametrize("mode", MODES)
def test_message_chunks_for_each_token(mode: str, lm: dspy.LM) -> None:
    node = dspy_node(dspy.ChainOfThought("question -> answer"), stream=True)
    with dspy.context(lm=lm):
        events = streamed(graph_of(node), {"question": "rain?"}, mode, "messages")
    fields: dict[str, str] = {}
    for message, metadata in events:
        assert metadata["langgraph_node"] == "node"
        field = message.additional_kwargs["field"]
        fields[field] = fields.get(field, "") + message.content
    assert fields == {"reasoning": "I looked out.", "answer": ANSWER}
    assert len({message.id for message, _ in events}) == 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stream_mode", ["custom", "messages"])
def test_tokens_from_inside_an_edge(mode: str, stream_mode: str) -> None:
    node = dspy_node(dspy.Predict("question -> answer"), stream=True, name="ask")
    inner = parallel({"a": node, "b": lambda state: {"reasoning": "r"}})
    builder = StateGraph(State)
    edge = vmap(
        inner,
        batch_key="questions",
        out_key="answers",
        item_to_state=lambda question: {"question": question},
        name="all",
    )
    connect(builder, START, edge, END)
    lm = FakeLM(lambda call: {"answer": f"it is {call.inputs['question']}"})
    with dspy.context(lm=lm):
        events = streamed(builder.compile(), {"questions": ["x", "y"]}, mode, stream_mode)
    if stream_mode == "messages":
        assert {metadata["langgraph_node"] for _, metadata in events} == {"all"}
        texts: dict[str, str] = {}
        for message, _ in events:
            texts[message.id] = texts.get(message.id, "") + message.content
        assert sorted(texts.values()) == ["it is x", "it is y"]
    else:
        tokens = [event for event in events if "token" in event]
        texts = [
            text_of([event for event in tokens if event["item"] == (item, 0)], "answer") for item in (0, 1)
        ]
        assert texts == ["it is x", "it is y"]


@pytest.mark.parametrize("mode", MODES)
def test_a_cached_answer_comes_as_one_token(mode: str) -> None:
    node = dspy_node(dspy.Predict("question -> answer"), stream=True)
    question = str(uuid4())
    with dspy.context(lm=FakeLM(said, cache=True)):
        first = streamed(graph_of(node), {"question": question}, mode, "custom")
        again = streamed(graph_of(node), {"question": question}, mode, "custom")
    assert text_of(first, "answer") == text_of(again, "answer") == ANSWER
    assert len(first) > 1
    assert [event["last"] for event in again] == [True]


@pytest.mark.parametrize("mode", MODES)
def test_the_update_is_the_same_and_alone_it_streams_to_nobody(mode: str, lm: dspy.LM) -> None:
    plain, streaming = (
        dspy_node(dspy.ChainOfThought("question -> answer"), stream=stream) for stream in (False, True)
    )
    with dspy.context(lm=lm):
        if mode == "async":
            assert asyncio.run(streaming.ainvoke({"question": "q"})) == asyncio.run(
                plain.ainvoke({"question": "q"})
            )
        else:
            assert streaming.invoke({"question": "q"}) == plain.invoke({"question": "q"})


def test_what_is_no_prediction_is_refused_as_without_streaming() -> None:
    class Lists(TwoSteps):
        def forward(self, question: str) -> Any:
            return [self.draft(question=question).answer]

    with (
        dspy.context(lm=FakeLM(said)),
        pytest.raises(NodeError, match=r"expected a dspy\.Prediction or a dict"),
    ):
        dspy_node(Lists(), input_fields=["question"], stream=True).invoke({"question": "q"})


@pytest.mark.parametrize("mode", MODES)
def test_an_error_in_the_middle_comes_out_as_it_is(mode: str) -> None:
    def broken(call: Call) -> Any:
        raise RuntimeError("no answer")

    node = dspy_node(dspy.Predict("question -> answer"), stream=True)
    with dspy.context(lm=FakeLM(broken)), pytest.raises(dspy.LMUnexpectedError, match="no answer"):
        streamed(graph_of(node), {"question": "q"}, mode, "messages")


def test_both_modes_at_once() -> None:
    async def collect() -> list[str]:
        graph = graph_of(dspy_node(dspy.Predict("question -> answer"), stream=True))
        found = graph.astream(({"question": "q"}), stream_mode=["messages", "custom"])
        return [mode async for mode, _ in found]

    with dspy.context(lm=FakeLM(said)):
        modes = asyncio.run(collect())
    assert modes.count("messages") > 1
    assert modes.count("custom") > 1
