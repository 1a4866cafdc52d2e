"""What streams, events and run trees show of edges: the same as of a `Send`, with edge and item."""

import operator
from collections import Counter
from typing import Annotated, Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_config, get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.runtime import get_runtime
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from mahsm import Branch, connect, parallel, reduce_edge, vmap
from mahsm.edges._shared.streams import RUNTIME, STREAM, TASK
from tests.helpers import MODES, run, thread

CHUNKS = 5
"""Chunks that the model below streams: three words, and the spaces between."""


class State(TypedDict):
    topics: list[str]
    notes: Annotated[list[Any], operator.add]
    left: str
    right: str


def model() -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage("one two three")]))


def research(state: dict[str, Any]) -> Any:
    return model().invoke(state["item"]).content


async def research_later(state: dict[str, Any]) -> Any:
    return (await model().ainvoke(state["item"])).content


def as_configured(state: dict[str, Any], config: RunnableConfig) -> Any:
    return model().invoke(state["item"], config).content


class Chain:
    """A chain has one model, whose answers would run out."""

    def __call__(self, state: dict[str, Any]) -> Any:
        chain = ChatPromptTemplate.from_template("About {item}") | model()
        return chain.invoke(state).content


TARGETS = [research, research_later, as_configured, Chain()]


def graph_of_edge(edge: Any, **options: Any) -> Any:
    return connect(StateGraph(State), START, edge, END).compile(**options)


def graph_of_sends() -> Any:
    builder = StateGraph(State)
    builder.add_node("research", lambda state: {"notes": [research(state)]})
    builder.add_conditional_edges(
        START, lambda state: [Send("research", {"item": topic}) for topic in state["topics"]], ["research"]
    )
    return builder.compile()


def fan(target: Any, **options: Any) -> Any:
    return vmap(target, batch_key="topics", out_key="notes", name="research", **options)


INPUT = {"topics": ["a", "b"]}


async def streamed(graph: Any, mode: str, **options: Any) -> list[Any]:
    config = thread()
    if mode == "sync":
        return list(graph.stream(INPUT, config, **options))
    return [chunk async for chunk in graph.astream(INPUT, config, **options)]


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize("target", TARGETS, ids=["blocks", "awaits", "config", "chain"])
@pytest.mark.parametrize("saver", [True, False], ids=["saved", "not-saved"])
@pytest.mark.parametrize("mode", MODES)
async def test_tokens_come_out_as_under_a_send(
    mode: str, saver: bool, target: Any, chunk_size: int | None
) -> None:
    graph = graph_of_edge(fan(target, chunk_size=chunk_size), checkpointer=InMemorySaver() if saver else None)
    sent = await streamed(graph_of_sends(), mode, stream_mode="messages")
    chunks = await streamed(graph, mode, stream_mode="messages")
    assert len(chunks) == len(sent) == 2 * CHUNKS
    assert Counter(chunk.content for chunk, _ in chunks) == Counter(chunk.content for chunk, _ in sent)
    assert {metadata["langgraph_node"] for _, metadata in chunks} == {"research"}
    assert {metadata["mahsm_edge"] for _, metadata in chunks} == {"research"}
    assert Counter(metadata["mahsm_item"] for _, metadata in chunks) == {(0,): CHUNKS, (1,): CHUNKS}


@pytest.mark.parametrize("mode", MODES)
async def test_with_subgraphs_their_namespace_is_that_of_a_send(mode: str) -> None:
    sent = await streamed(graph_of_sends(), mode, stream_mode="messages", subgraphs=True)
    chunks = await streamed(graph_of_edge(fan(research)), mode, stream_mode="messages", subgraphs=True)
    assert {namespace for namespace, _ in chunks} == {namespace for namespace, _ in sent} == {()}
    assert len(chunks) == len(sent)


@pytest.mark.parametrize("mode", MODES)
async def test_tokens_of_branches_and_of_nested_edges(mode: str) -> None:
    both = parallel(
        [
            Branch(lambda state: {"left": research({"item": "x"})}, name="left"),
            Branch(
                vmap(research_later, batch_key="topics", out_key="ys", name="inner"),
                name="right",
                writes=["ys"],
            ),
        ],
        merge=lambda state, updates: {"left": updates["left"]["left"], "right": str(updates["right"]["ys"])},
        name="both",
    )
    chunks = await streamed(graph_of_edge(both), mode, stream_mode="messages")
    found = Counter(
        (metadata["langgraph_node"], metadata["mahsm_edge"], metadata["mahsm_item"]) for _, metadata in chunks
    )
    assert found == {
        ("both", "both", (0,)): CHUNKS,
        ("both", "inner", (1, 0)): CHUNKS,
        ("both", "inner", (1, 1)): CHUNKS,
    }


@pytest.mark.parametrize("mode", MODES)
async def test_tokens_of_a_reducer(mode: str) -> None:
    edge = reduce_edge(
        input_key="topics",
        output_key="left",
        reducer=lambda values: model().invoke(str(values)).content,
        name="merge",
    )
    chunks = await streamed(graph_of_edge(edge), mode, stream_mode="messages")
    assert [metadata["langgraph_node"] for _, metadata in chunks] == ["merge"] * CHUNKS


@pytest.mark.parametrize("mode", MODES)
async def test_tokens_from_an_edge_in_a_subgraph_are_those_of_the_subgraph(mode: str) -> None:
    builder = StateGraph(State)
    builder.add_node("child", graph_of_edge(fan(research)))
    builder.add_edge(START, "child")
    graph = builder.compile()
    assert await streamed(graph, mode, stream_mode="messages") == []
    chunks = await streamed(graph, mode, stream_mode="messages", subgraphs=True)
    assert {namespace[0].partition(":")[0] for namespace, _ in chunks if namespace} == {"child"}
    assert sum(bool(namespace) for namespace, _ in chunks) == 2 * CHUNKS


def agent() -> Any:
    """A graph that calls a model in a node, as `create_agent` makes one."""
    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda state: {"messages": [model().invoke(state["messages"])]})
    builder.add_edge(START, "model")
    return builder.compile(name="agent")


@pytest.mark.parametrize("mode", MODES)
async def test_tokens_of_graphs_are_seen_with_subgraphs(mode: str) -> None:
    """As LangGraph has it for a graph in a node: without `subgraphs=True` its tokens are hidden."""
    edge = fan(agent(), item_to_state=lambda topic: {"messages": [topic]})
    whole = await streamed(graph_of_edge(edge), mode, stream_mode="messages")
    assert not any(isinstance(message, AIMessageChunk) for message, _ in whole), (
        "messages when they have ended, and no tokens"
    )
    assert Counter(metadata["mahsm_item"] for message, metadata in whole if message.type == "ai") == {
        (0,): 1,
        (1,): 1,
    }
    chunks = await streamed(graph_of_edge(edge), mode, stream_mode="messages", subgraphs=True)
    tokens = [
        (namespace, metadata)
        for namespace, (_, metadata) in chunks
        if metadata.get("langgraph_node") == "model"
    ]
    assert len({namespace for namespace, _ in tokens}) == 2, "each item has a namespace of its own"


@pytest.mark.parametrize("mode", MODES)
async def test_messages_that_items_give_come_when_each_has_ended(mode: str) -> None:
    edge = fan(lambda state: AIMessage(state["item"], id=state["item"]), max_concurrency=1)
    chunks = await streamed(graph_of_edge(edge), mode, stream_mode="messages")
    assert [(chunk.content, metadata.get("mahsm_item")) for chunk, metadata in chunks] == [
        ("a", (0,)),
        ("b", (1,)),
    ]


# The custom stream.


def writes(state: dict[str, Any]) -> int:
    get_stream_writer()({"mine": state["item"]})
    return 1


async def writes_later(state: dict[str, Any]) -> int:
    get_stream_writer()({"mine": state["item"]})
    return 1


def writes_by_runtime(state: dict[str, Any]) -> int:
    get_runtime().stream_writer({"mine": state["item"]})
    return 1


def writes_by_parameter(state: dict[str, Any], writer: Any) -> int:
    writer({"mine": state["item"]})
    return 1


@pytest.mark.parametrize("chunk_size", [1, 2])
@pytest.mark.parametrize("target", [writes, writes_later, writes_by_runtime, writes_by_parameter])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("mode", MODES)
async def test_all_writers_are_one(mode: str, nested: bool, target: Any, chunk_size: int) -> None:
    edge = fan(target, chunk_size=chunk_size)
    if nested:
        edge = vmap(edge, sample=1, out_key="left", result=lambda update: "", name="outer")
    graph = graph_of_edge(edge)
    events = await streamed(graph, mode, stream_mode="custom")
    assert sorted(event["mine"] for event in events if "mine" in event) == ["a", "b"]
    assert {event["edge"] for event in events if "edge" in event} == {"outer" if nested else "research"}
    with_subgraphs = await streamed(graph, mode, stream_mode="custom", subgraphs=True)
    assert sorted(event["mine"] for _, event in with_subgraphs if "mine" in event) == ["a", "b"]


@pytest.mark.parametrize("mode", MODES)
async def test_branches_write_too(mode: str) -> None:
    both = parallel([Branch(lambda state: {"left": str(writes({"item": "x"}))}, name="left")], name="both")
    assert await streamed(graph_of_edge(both), mode, stream_mode="custom") == [{"mine": "x"}]


# Updates.


@pytest.mark.parametrize("mode", MODES)
async def test_updates_of_subgraphs_show_items_by_index(mode: str) -> None:
    def shout(state: dict[str, Any]) -> str:
        if state["item"] == "b":
            raise ValueError("no")
        return state["item"].upper()

    chunks = await streamed(
        graph_of_edge(fan(shout, on_error="collect")), mode, stream_mode="updates", subgraphs=True
    )
    items: dict[int, Any] = {}
    for namespace, chunk in chunks:
        if namespace:
            assert [*chunk] == ["shout"]
            assert [*chunk["shout"]] == ["items"]
            items |= chunk["shout"]["items"]
    assert items[0] == "A"
    assert items[1]["message"] == "no"
    assert chunks[-1] == ((), {"research": {"notes": ["A", items[1]]}})


@pytest.mark.parametrize("mode", MODES)
async def test_equal_items_are_shown_each(mode: str) -> None:
    edge = fan(lambda state: state["item"], dedupe_key=len)
    chunks = await streamed(graph_of_edge(edge), mode, stream_mode="updates", subgraphs=True)
    assert [chunk for namespace, chunk in chunks if namespace] == [{"lambda": {"items": {0: "a", 1: "a"}}}]


@pytest.mark.parametrize("mode", MODES)
async def test_updates_of_branches_are_their_own(mode: str) -> None:
    def fails(state: Any) -> dict[str, Any]:
        raise ValueError("no")

    both = parallel(
        {"one": lambda state: {"left": "x"}, "two": fails},
        on_error="isolate",
        name="both",
        errors_key="notes",
    )
    chunks = await streamed(graph_of_edge(both), mode, stream_mode="updates", subgraphs=True)
    shown = {name: update for namespace, chunk in chunks if namespace for name, update in chunk.items()}
    assert shown["one"] == {"left": "x"}
    assert shown["two"]["error"]["message"] == "no"


@pytest.mark.parametrize("stream_mode", ["values", "tasks", "debug", "checkpoints"])
@pytest.mark.parametrize("mode", MODES)
async def test_other_modes_work_as_well(mode: str, stream_mode: str) -> None:
    graph = graph_of_edge(fan(research), checkpointer=InMemorySaver())
    chunks = await streamed(graph, mode, stream_mode=stream_mode, subgraphs=True)
    assert any(namespace for namespace, _ in chunks)
    if stream_mode == "values":
        assert chunks[-1][1]["notes"] == ["one two three"] * 2
        assert [*chunks[-2][1]] == ["items"]


@pytest.mark.parametrize("mode", MODES)
def test_interrupts_are_shown_as_they_are(mode: str) -> None:
    graph, config = (
        graph_of_edge(fan(lambda state: interrupt(state["item"])), checkpointer=InMemorySaver()),
        thread(),
    )
    chunks = list(graph.stream(INPUT, config, stream_mode="updates", subgraphs=True))
    asked = [
        chunk["__interrupt__"][0].value
        for namespace, chunk in chunks
        if namespace and "__interrupt__" in chunk
    ]
    assert sorted(asked) == ["a", "b"]
    questions = {question.id: question.value.upper() for question in graph.get_state(config).interrupts}
    assert run(graph, Command(resume=questions), mode, config)["notes"] == ["A", "B"]


# Run trees and events.


class Runs(BaseCallbackHandler):
    """Who listens to runs: their names, and whose child each is."""

    def __init__(self) -> None:
        self.names: dict[Any, str] = {}
        self.parents: list[tuple[str, str]] = []
        self.ended: list[str] = []

    def _begin(self, run_id: Any, parent_run_id: Any, name: str) -> None:
        self.names[run_id] = name
        self.parents.append((self.names.get(parent_run_id, ""), name))

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: Any, parent_run_id: Any = None, **kwargs: Any
    ) -> None:
        self._begin(run_id, parent_run_id, kwargs["name"])

    def on_chat_model_start(
        self, serialized: Any, messages: Any, *, run_id: Any, parent_run_id: Any = None, **kwargs: Any
    ) -> None:
        self._begin(run_id, parent_run_id, "model")

    def on_chain_end(self, outputs: Any, *, run_id: Any, **kwargs: Any) -> None:
        self.ended.append(self.names[run_id])

    def on_chain_error(self, error: BaseException, *, run_id: Any, **kwargs: Any) -> None:
        self.ended.append(f"{self.names[run_id]}: {type(error).__name__}")


@pytest.mark.parametrize("chunk_size", [1, 2])
@pytest.mark.parametrize("target", TARGETS, ids=["blocks", "awaits", "config", "chain"])
@pytest.mark.parametrize("mode", MODES)
def test_a_run_tree_has_no_internal_tasks(mode: str, target: Any, chunk_size: int) -> None:
    runs = Runs()
    run(graph_of_edge(fan(target, chunk_size=chunk_size)), INPUT, mode, {"callbacks": [runs]})
    tree = Counter(runs.parents)
    assert tree["", "LangGraph"] == tree["LangGraph", "research"] == 1
    assert tree["research", "research"] == 2
    assert sum(name == "model" for _, name in runs.parents) == 2
    assert {name for _, name in runs.parents} <= {
        "LangGraph",
        "research",
        "model",
        "RunnableSequence",
        "ChatPromptTemplate",
    }
    assert sorted(runs.ended) == sorted(name for name in runs.names.values() if name != "model")


@pytest.mark.parametrize("mode", MODES)
def test_a_run_tree_of_an_edge_alone(mode: str) -> None:
    runs = Runs()
    edge = parallel({"one": lambda state: {"left": research({"item": "x"})}}, name="both")
    run(edge, {}, mode, {"callbacks": [runs]})
    assert runs.parents == [("", "both"), ("both", "one"), ("one", "model")]


@pytest.mark.parametrize("mode", MODES)
def test_graphs_are_runs_already(mode: str) -> None:
    runs = Runs()
    run(
        graph_of_edge(fan(agent(), item_to_state=lambda topic: {"messages": [topic]})),
        INPUT,
        mode,
        {"callbacks": [runs]},
    )
    assert Counter(runs.parents)["research", "agent"] == 2


@pytest.mark.parametrize("mode", MODES)
def test_items_that_fail_are_failed_runs(mode: str) -> None:
    def fails(state: Any) -> None:
        raise ValueError(state["item"])

    runs = Runs()
    with pytest.raises(ValueError, match="a"):
        run(graph_of_edge(fan(fails, max_concurrency=1)), INPUT, mode, {"callbacks": [runs]})
    assert runs.ended == ["research: ValueError", "research: ValueError", "LangGraph: ValueError"]


@pytest.mark.parametrize("version", ["v2"])
async def test_events(version: Any) -> None:
    events = [event async for event in graph_of_edge(fan(research)).astream_events(INPUT, version=version)]
    count = Counter((event["event"], event["name"]) for event in events)
    assert count["on_chain_start", "research"] == count["on_chain_end", "research"] == 3
    assert count["on_chat_model_stream", "GenericFakeChatModel"] == 2 * CHUNKS
    assert {name for _, name in count} == {"LangGraph", "research", "GenericFakeChatModel"}
    items = {
        event["metadata"].get("mahsm_item") for event in events if event["event"] == "on_chat_model_stream"
    }
    assert items == {(0,), (1,)}


async def test_events_change_no_update() -> None:
    """LangGraph streams its nodes then; an edge that streamed its whole state would write what it has read,
    too."""
    graph = graph_of_edge(fan(research))
    events = [event async for event in graph.astream_events(INPUT | {"notes": ["old"]}, version="v2")]
    assert events[-1]["data"]["output"]["notes"] == ["old", "one two three", "one two three"]


def test_langgraph_keeps_its_things_where_they_are_looked_for() -> None:
    """The names are LangGraph's own, and may change."""
    found: list[Any] = []

    def look(state: Any) -> int:
        found.append(get_config()["configurable"])
        return 1

    list(graph_of_edge(fan(look)).stream(INPUT, stream_mode="updates", subgraphs=True))
    assert all(name in configurable for configurable in found for name in (RUNTIME, STREAM, TASK))
