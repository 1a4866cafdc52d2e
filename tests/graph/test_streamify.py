"""`dspy.streamify` of a `GraphModule`, over HTTP: parts of what each item's predictor says, and say whose
they are."""

import asyncio
import operator
from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, Any

import dspy
import pytest
from dspy.streaming import StatusMessage, StatusMessageProvider, StreamListener, StreamResponse
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from mahsm import GraphModule, connect, dspy_node, vmap
from mahsm.testing import Call, ModelServer, Reply


class State(TypedDict, total=False):
    words: list[str]
    word: str
    said: Annotated[list[Any], operator.add]
    shout: str


def shout(call: Call) -> Any:
    if call.inputs["word"] == "bad":
        return Reply.failed(400)
    return {"shout": " ".join([call.inputs["word"].upper()] * 20)}


@pytest.fixture(autouse=True)
def server() -> Iterator[ModelServer]:
    with ModelServer(shout) as server, dspy.context(lm=server.lm(cache=False)):
        yield server


def predict() -> Any:
    return dspy.Predict("word -> shout")


class Blocks(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = predict()

    def forward(self, word: str) -> Any:
        return self.ask(word=word)


def over_words(target: Any, **options: Any) -> Any:
    return vmap(
        target,
        batch_key="words",
        out_key="said",
        item_to_state=lambda word: {"word": word},
        result="shout",
        **options,
    )


def sends() -> Any:
    builder = StateGraph(State)
    builder.add_node("ask", dspy_node(predict(), output_transform=lambda got: {"said": [got.shout]}))
    builder.add_conditional_edges(
        START, lambda state: [Send("ask", {"word": word}) for word in state["words"]], ["ask"]
    )
    return builder.compile()


def edge_stream(edge: Any) -> Any:
    return connect(StateGraph(State), START, edge, END).compile()


GRAPHS: dict[str, Any] = {
    "awaits": lambda: edge_stream(over_words(predict())),
    "blocks": lambda: edge_stream(over_words(Blocks())),
    "one-by-one": lambda: edge_stream(over_words(predict(), max_concurrency=1)),
    "nested": lambda: edge_stream(over_words(dspy_node(GraphModule(of_node(), outputs=["shout"])))),
    "sends": sends,
}


def of_node() -> Any:
    builder = StateGraph(State)
    builder.add_node("ask", dspy_node(predict()))
    return connect(builder, START, "ask", END).compile(name="inner")


async def collected(program: Any, inputs: dict[str, Any], **options: Any) -> tuple[Any, list[Any]]:
    parts = [part async for part in dspy.streamify(program, **options)(**inputs)]
    return parts.pop(), parts


async def gathered(program: Any, inputs: dict[str, Any], **options: Any) -> tuple[Any, list[Any]]:
    """The same in a plain loop over the stream, blocking."""

    def collect() -> list[Any]:
        return list(dspy.streamify(program, async_streaming=False, **options)(**inputs))

    parts = await asyncio.to_thread(collect)
    return parts.pop(), parts


def listener() -> StreamListener:
    return StreamListener("shout")


@pytest.mark.parametrize("collect", [collected, gathered])
@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("kind", GRAPHS)
async def test_each_item_is_heard_by_a_listener_of_its_own(kind: str, awaited: bool, collect: Any) -> None:
    program = GraphModule(GRAPHS[kind](), outputs=["said"])
    words = [f"w{number}" for number in range(5)]
    options: dict[str, Any] = {"stream_listeners": [listener()], "is_async_program": awaited}
    prediction, parts = await collect(program, {"words": words}, **options)
    expected = [" ".join([word.upper()] * 20) for word in words]
    assert prediction.said == expected
    said: defaultdict[Any, str] = defaultdict(str)
    for part in parts:
        said[part.item] += part.chunk
        assert isinstance(part, StreamResponse)
        assert (part.signature_field_name, part.predict_name) == ("shout", program.named_predictors()[0][0])
    assert said == {(number,): text for number, text in enumerate(expected)}
    assert len(parts) > 5 * 10
    assert sorted(part.item for part in parts if part.is_last_chunk) == [(number,) for number in range(5)]


@pytest.mark.parametrize("awaited", [False, True])
async def test_without_items_it_is_as_without_a_graph(awaited: bool) -> None:
    options: dict[str, Any] = {
        "is_async_program": awaited,
        "include_final_prediction_in_output_stream": False,
    }

    async def heard(program: Any) -> list[Any]:
        found = dspy.streamify(program, stream_listeners=[listener()], **options)(word="a")
        return [(type(part), part.chunk, part.is_last_chunk) async for part in found]

    assert await heard(GraphModule(of_node(), outputs=["shout"])) == await heard(predict())


@pytest.mark.parametrize("awaited", [False, True])
async def test_without_listeners_raw_parts_say_their_item(awaited: bool) -> None:
    program = GraphModule(GRAPHS["awaits"](), outputs=["said"])
    prediction, parts = await collected(program, {"words": ["a", "b"]}, is_async_program=awaited)
    assert len(prediction.said) == 2
    assert {part.item for part in parts} == {(0,), (1,)}
    said = "".join(part.choices[0].delta.content or "" for part in parts if part.item == (1,))
    assert said.count("B") == 20


class Status(StatusMessageProvider):
    def lm_start_status_message(self, instance: Any, inputs: dict[str, Any]) -> str:
        return "asks"


@pytest.mark.parametrize("awaited", [False, True])
async def test_messages_of_status(awaited: bool) -> None:
    program = GraphModule(GRAPHS["awaits"](), outputs=["said"])
    options: dict[str, Any] = {"status_message_provider": Status(), "stream_listeners": [listener()]}
    async with asyncio.timeout(60):
        _, parts = await collected(program, {"words": ["a", "b", "c"]}, is_async_program=awaited, **options)
    assert [part.message for part in parts if isinstance(part, StatusMessage)] == ["asks"] * 3


@pytest.mark.parametrize("awaited", [False, True])
async def test_an_error_comes_out_as_it_is(awaited: bool) -> None:
    program = GraphModule(GRAPHS["awaits"](), outputs=["said"])
    with pytest.raises(dspy.LMError):
        await collected(
            program, {"words": ["a", "bad"]}, stream_listeners=[listener()], is_async_program=awaited
        )


async def test_who_stops_to_listen_stops_the_run() -> None:
    program = GraphModule(GRAPHS["awaits"](), outputs=["said"])
    stream = dspy.streamify(program, stream_listeners=[listener()], is_async_program=True)(words=["a", "b"])
    first = await anext(stream)
    assert first.item in {(0,), (1,)}
    await stream.aclose()


async def test_functions_that_call_modules_are_heard_too() -> None:
    def ask(state: Any) -> Any:
        return {"shout": predictor(word=state["word"]).shout}

    predictor = predict()
    node = dspy_node(predict(), name="ask")
    program = GraphModule(
        connect(StateGraph(State), START, node, over_words(ask, name="hidden"), END).compile(),
        frozen=["hidden"],
    )
    prediction, parts = await collected(program, {"word": "x", "words": ["a", "b"]})
    assert prediction.said == [" ".join(["A"] * 20), " ".join(["B"] * 20)]
    assert {getattr(part, "item", ()) for part in parts} == {(), (0,), (1,)}
