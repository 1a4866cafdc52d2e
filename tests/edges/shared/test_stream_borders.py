"""Borders of streams, inherited state, ports from `Send` and `as_completed`, each beside what LangGraph
itself does."""

import asyncio
import gc
import operator
import threading
import uuid
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Generic, TypeVar

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler, dispatch_custom_event
from langchain_core.globals import set_debug
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tracers.context import collect_runs, run_collector_var
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langgraph.channels import DeltaChannel, Topic
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.errors import NodeTimeoutError
from langgraph.func import entrypoint
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Send, TimeoutPolicy, interrupt
from pydantic import BaseModel, ConfigDict
from typing_extensions import TypeAliasType, TypedDict

from mahsm import Branch, connect, parallel, reduce_edge, vmap
from mahsm.errors import EdgeError, NodeError
from tests.helpers import MODES, run, thread
from tests.tracing.spans import recorded


class State(MessagesState):
    xs: list[Any]
    rows: list[Any]
    log: Annotated[list[Any], operator.add]
    text: Annotated[str, operator.add]
    out: Any


def graph_of(*steps: Any, state: Any = State, **options: Any) -> Any:
    return connect(StateGraph(state), START, *steps, END).compile(**options)


def graph_of_sends(target: Any, **options: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("work", target)
    builder.add_conditional_edges(
        START, lambda state: [Send("work", {"item": x}) for x in state["xs"]], ["work"]
    )
    return builder.compile(**options)


def work(target: Any, **options: Any) -> Any:
    given: dict[str, Any] = {"batch_key": "xs", "out_key": "out", "name": "work"}
    return vmap(target, **(given | options))


def model() -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage("one two")]))


# Several keys, where the edge is not a node of a graph that nobody has called.


def log(state: dict[str, Any]) -> dict[str, Any]:
    return {"log": [state["item"]], "text": str(state["item"])}


def logs(**options: Any) -> Any:
    return work(log, out_key=["log", "text"], **options)


@pytest.mark.parametrize("mode", MODES)
def test_several_keys_inside_a_node_function_are_lists(mode: str) -> None:
    def node(state: Any) -> Any:
        return {"out": logs().invoke({"xs": state["xs"]})["text"]}

    async def node_later(state: Any) -> Any:
        return {"out": (await logs().ainvoke({"xs": state["xs"]}))["text"]}

    assert run(graph_of(node if mode == "sync" else node_later), {"xs": [1, 2]}, mode)["out"] == ["1", "2"]


def test_several_keys_in_an_entrypoint_are_lists() -> None:
    @entrypoint()
    def flow(xs: list[int]) -> Any:
        return logs().invoke({"xs": xs})

    assert flow.invoke([1, 2]) == {"log": [[1], [2]], "text": ["1", "2"]}


@pytest.mark.parametrize("called_by", ["vmap", "function"])
@pytest.mark.parametrize("mode", MODES)
def test_several_keys_of_an_edge_in_a_graph_in_an_item(mode: str, called_by: str) -> None:
    """Alone the graph works; as an item, its node takes itself for a part of the item."""
    builder = StateGraph(State)
    builder.add_node("work", logs())
    builder.add_edge(START, "work")
    child = builder.compile(name="child")
    assert run(child, {"xs": [1, 2]}, mode)["text"] == "12"
    outer = vmap(child, batch_key="rows", out_key="out", item_to_state=lambda row: {"xs": row}, result="text")
    if called_by == "function":
        outer = vmap(
            lambda state: child.invoke({"xs": state["item"]})["text"], batch_key="rows", out_key="out"
        )
    assert run(outer, {"rows": [[1, 2]]}, mode) == {"out": ["12"]}


def test_several_keys_of_a_branch_are_refused_where_their_lists_would_be_reduced() -> None:
    both = parallel([Branch(logs(), name="logs")], name="both")
    with pytest.raises(
        EdgeError, match=r"both: the branch 'logs' is an edge with several keys.*Make the edge a node"
    ):
        graph_of(both)
    assert both.invoke({"xs": [1, 2]}) == {"log": [[1], [2]], "text": ["1", "2"]}


def last_ones(before: list[Any], writes: Any) -> list[Any]:
    return [*before, *(value for write in writes for value in write)]


class Channels(TypedDict):
    """Keys that LangGraph reduces by other channels than that of a function of two."""

    xs: list[Any]
    topic: Annotated[list[Any], Topic(int, accumulate=True)]
    delta: Annotated[list[Any], DeltaChannel(last_ones)]


@pytest.mark.parametrize("key", ["topic", "delta"])
def test_several_keys_of_every_channel_that_takes_several_values(key: str) -> None:
    def target(state: Any) -> Any:
        return {key: [state["item"], 9]}

    sends = StateGraph(Channels)
    sends.add_node("work", target)
    sends.add_conditional_edges(
        START, lambda state: [Send("work", {"item": x}) for x in state["xs"]], ["work"]
    )
    sent = sends.compile().invoke({"xs": [1, 2]})[key]
    assert (
        graph_of(work(target, out_key=[key]), state=Channels).invoke({"xs": [1, 2]})[key]
        == sent
        == [1, 9, 2, 9]
    )


class Pydantic(BaseModel):
    log: list[Any] = []


@dataclass
class Data:
    log: list[Any]


@pytest.mark.parametrize("kind", [Pydantic, Data])
def test_several_keys_of_an_update_that_is_a_model(kind: Any) -> None:
    def target(state: Any) -> Any:
        return kind(log=[state["item"]])

    sent = graph_of_sends(target).invoke({"xs": [1, 2]})["log"]
    assert graph_of(work(target, out_key=["log"])).invoke({"xs": [1, 2]})["log"] == sent == [1, 2]


# What a target is called with.

LAZY = """
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from decimal import Decimal

def rate(review: str, config: RunnableConfig):
    return review

def price(review: str) -> Decimal:
    return review
"""


@pytest.mark.parametrize("name", ["rate", "price"])
def test_an_import_for_type_checkers_hides_only_its_own_annotation(name: str) -> None:
    """Ruff's TC rules move such imports there; the first parameter's `str` is known all the same."""
    module: dict[str, Any] = {"__name__": "lazy"}
    exec(LAZY, module)
    assert work(module[name]).invoke({"xs": ["a"]}) == {"out": ["a"]}


@dataclass
class Page:
    url: str


def url_of(page: Page) -> str:
    return page.url


@pytest.mark.parametrize("mode", MODES)
def test_a_model_is_made_of_the_items_keys_and_not_the_item_around(mode: str) -> None:
    inner = vmap(url_of, batch_key="links", out_key="urls", item_to_state=lambda link: {"url": link})
    outer = vmap(inner, batch_key="pages", out_key="all", result="urls")
    assert run(outer, {"pages": [Page("outer")], "links": ["a", "b"]}, mode) == {"all": [["a", "b"]]}


def test_a_model_is_made_of_the_items_keys_and_not_of_a_parents_key_item() -> None:
    edge = vmap(url_of, batch_key="links", out_key="urls", item_to_state=lambda link: {"url": link})
    assert edge.invoke({"links": ["a"], "item": Page("parent")}) == {"urls": ["a"]}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    url: str


def test_a_model_that_forbids_other_keys_gets_its_own() -> None:
    """As LangGraph gives a node with such an `input_schema` the keys that it has."""

    def target(page: Strict) -> str:
        return page.url

    assert work(target, item_to_state=lambda link: {"url": link}).invoke({"xs": ["a"]}) == {"out": ["a"]}


T = TypeVar("T")


@dataclass
class Generical(Generic[T]):
    url: T


def test_a_generic_dataclass_is_a_dataclass() -> None:
    def target(page: Generical[str]) -> Any:
        return page

    assert work(target, item_to_state=lambda link: {"url": link}).invoke({"xs": ["a"]}) == {
        "out": [Generical("a")]
    }


@pytest.mark.parametrize("annotation", [Pydantic | None, Pydantic | str])
def test_a_union_with_a_model_takes_an_item_that_is_one(annotation: Any) -> None:
    def target(page: Any) -> Any:
        return page

    target.__annotations__["page"] = annotation
    assert work(target).invoke({"xs": [Pydantic(log=[1])]}) == {"out": [Pydantic(log=[1])]}


Review = TypeAliasType("Review", str)


def test_a_type_alias_is_what_it_stands_for() -> None:
    def target(review: Review) -> Any:
        return review

    assert work(target).invoke({"xs": ["a"]}) == {"out": ["a"]}


def test_a_sample_has_no_item_for_a_text() -> None:
    """It is called on the same state; the number of the sample is nobody's question."""

    def answer(question: str) -> str:
        return question

    with pytest.raises(NodeError):
        vmap(answer, sample=2, out_key="out")


class Secret(TypedDict):
    secret: list[Any]


@dataclass
class DataState:
    xs: Any = None
    depth: int = 2
    out: Any = None


class ModelState(BaseModel):
    xs: Any = None
    depth: int = 2
    out: Any = None


@pytest.mark.parametrize("schema", [DataState, ModelState])
def test_an_edge_with_private_keys_sees_the_defaults_of_the_state(schema: Any) -> None:
    def load(state: Any) -> Secret:
        return {"secret": [1]}

    def depth(state: dict[str, Any]) -> Any:
        return state.get("depth")

    plain = graph_of(work(depth), state=schema).invoke({"xs": [1]})
    private = graph_of(load, work(depth, batch_key="secret"), state=schema).invoke({"xs": [1]})
    assert private["out"] == plain["out"] == [2]


class Unresolved(TypedDict):
    other: "Nowhere"  # noqa: F821  # pyright: ignore


def test_connect_passes_over_a_schema_that_cannot_be_resolved() -> None:
    """LangGraph does not look into what a function returns; `connect` must not fail on another function's
    annotation."""

    def first(state: Any) -> Unresolved:
        return {"out": 1}  # pyright: ignore

    def load(state: Any) -> Secret:
        return {"secret": [1]}

    edge = work(lambda state: state["item"], batch_key="secret")
    assert graph_of(first, load, edge).invoke({})["out"] == [1]


# Streams.


@pytest.mark.parametrize("subgraphs", [False, True])
def test_writers_write_where_a_send_writes(subgraphs: bool) -> None:
    def target(state: Any) -> Any:
        get_stream_writer()({"mine": state["item"]})
        return {"out": 1}

    found: list[set[Any]] = []
    for graph in (graph_of_sends(target), graph_of(work(target))):
        chunks = graph.stream({"xs": [1]}, stream_mode="custom", subgraphs=subgraphs, version="v2")
        found.append({chunk["ns"] for chunk in chunks if "mine" in chunk["data"]})
    assert found[1] == found[0] == {()}


def test_progress_of_one_edge_is_in_one_namespace() -> None:
    chunks = graph_of(work(lambda state: 1)).stream({"xs": [1, 2, 3]}, stream_mode="custom", subgraphs=True)
    assert len({namespace for namespace, _ in chunks}) == 1


def test_a_reducer_writes_where_a_node_writes() -> None:
    def count(values: Any) -> int:
        get_stream_writer()({"mine": 1})
        return len(values)

    graph = graph_of(reduce_edge(input_key="xs", output_key="out", reducer=count))
    assert list(graph.stream({"xs": [1]}, stream_mode="custom", subgraphs=True)) == [((), {"mine": 1})]


def answer(state: Any) -> Any:
    return {"messages": [AIMessage(str(state["item"]), id=str(state["item"]))]}


def agent() -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda state: {"messages": [model().invoke("x")]})
    builder.add_edge(START, "model")
    return builder.compile(name="agent")


@pytest.mark.parametrize(
    "target", [answer, RunnableLambda(answer), agent()], ids=["function", "runnable", "graph"]
)
def test_messages_that_items_write_to_several_keys_are_streamed(target: Any) -> None:
    sent = [
        chunk.content for chunk, _ in graph_of_sends(target).stream({"xs": [1, 2]}, stream_mode="messages")
    ]
    options: dict[str, Any] = (
        {} if hasattr(target, "func") or target is answer else {"item_to_state": lambda x: {"messages": []}}
    )
    graph = graph_of(work(target, out_key=["messages"], **options))
    chunks = [chunk.content for chunk, _ in graph.stream({"xs": [1, 2]}, stream_mode="messages")]
    assert sorted(chunks) == sorted(sent)
    assert len(sent) == 2


def message(state: Any) -> Any:
    return AIMessage(str(state["item"]))


async def message_later(state: Any) -> Any:
    return message(state)


async def chunks_of(runnable: Any, given: Any, mode: str, *config: Any, **options: Any) -> list[Any]:
    if mode == "sync":
        return list(runnable.stream(given, *config, **options))
    return [chunk async for chunk in runnable.astream(given, *config, **options)]


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 2])
@pytest.mark.parametrize(
    "target", [message, message_later, RunnableLambda(message)], ids=["blocks", "awaits", "runnable"]
)
@pytest.mark.parametrize("mode", MODES)
async def test_messages_that_items_give_say_which_item(
    mode: str, target: Any, chunk_size: int, traced: bool
) -> None:
    graph = graph_of(work(target, out_key="messages", chunk_size=chunk_size))
    with recorded() if traced else nullcontext():
        chunks = await chunks_of(graph, {"xs": [1, 2]}, mode, stream_mode="messages")
    found = sorted(
        (chunk.content, metadata.get("mahsm_item"), metadata["mahsm_edge"]) for chunk, metadata in chunks
    )
    assert found == [("1", (0,), "work"), ("2", (1,), "work")]


@pytest.mark.parametrize("traced", [False, True])
def test_a_message_that_was_streamed_is_not_given_again(traced: bool) -> None:
    graph = graph_of(work(lambda state: model().invoke("x"), out_key="messages"))
    with recorded() if traced else nullcontext():
        chunks = list(graph.stream({"xs": [1]}, stream_mode="messages"))
    assert [(chunk.content, metadata["mahsm_item"]) for chunk, metadata in chunks] == [
        ("one", (0,)),
        (" ", (0,)),
        ("two", (0,)),
    ]


CONFIGS: dict[str, Any] = {
    "callbacks": {"callbacks": [BaseCallbackHandler()]},
    "configurable": {"configurable": {"a": 1}},
    "metadata": {"metadata": {"a": 1}},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_chain_with_a_config_of_its_own_is_heard_as_in_a_node(config: Any) -> None:
    """LangGraph calls a Runnable with the node's config, which is merged with its own; ambient config is
    replaced by that."""

    def chain() -> Any:
        chain = (
            ChatPromptTemplate.from_template("On {item}")
            | model()
            | RunnableLambda(lambda message: {"out": message.content})
        )
        return chain.with_config(**config)

    sent = list(graph_of_sends(chain()).stream({"xs": [1]}, stream_mode="messages"))
    chunks = list(graph_of(work(chain())).stream({"xs": [1]}, stream_mode="messages"))
    assert (
        [chunk.content for chunk, _ in chunks] == [chunk.content for chunk, _ in sent] == ["one", " ", "two"]
    )
    assert {metadata.get("mahsm_item") for _, metadata in chunks} == {(0,)}


@pytest.mark.parametrize("what", ["writer", "interrupt"])
def test_a_runnable_with_a_configurable_of_its_own_is_in_its_graph(what: str) -> None:
    def target(state: Any) -> Any:
        return {"out": interrupt(1) if what == "interrupt" else get_stream_writer()(1)}

    chosen = RunnableLambda(target).with_config(configurable={"a": 1})
    for graph in (
        graph_of_sends(chosen, checkpointer=InMemorySaver()),
        graph_of(work(chosen), checkpointer=InMemorySaver()),
    ):
        graph.invoke({"xs": [1]}, thread())


EDGES: dict[str, Any] = {
    "vmap": vmap(lambda state: state["item"], batch_key="xs", out_key="ys", name="inner"),
    "parallel": parallel({"one": lambda state: {"ys": state["xs"]}}, name="inner"),
    "reduce": reduce_edge(input_key="xs", output_key="ys", reducer=list, name="inner"),
}


async def streamed_in_a_node(runnable: Any, mode: str, **options: Any) -> tuple[list[Any], list[Any]]:
    """What it streams when it is called in a node: without the node's config, and with it."""
    found: list[list[Any]] = []

    def node(state: Any, config: RunnableConfig) -> None:
        found.extend(
            list(runnable.stream({"xs": state["xs"]}, *given, **options)) for given in ([], [config])
        )

    async def node_later(state: Any, config: RunnableConfig) -> None:
        found.extend(
            [
                await chunks_of(runnable, {"xs": state["xs"]}, mode, *given, **options)
                for given in ([], [config])
            ]
        )

    graph = graph_of(node if mode == "sync" else node_later)
    await asyncio.to_thread(graph.invoke, {"xs": [1]}) if mode == "sync" else await graph.ainvoke({"xs": [1]})
    return found[0], found[1]


@pytest.mark.parametrize("stream_mode", ["updates", "values", ["updates", "custom"]])
@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES)
@pytest.mark.parametrize("mode", MODES)
async def test_an_edge_streams_in_a_node_that_hands_on_its_config(
    mode: str, edge: Any, stream_mode: Any
) -> None:
    without, given = await streamed_in_a_node(edge, mode, stream_mode=stream_mode)
    assert len(given) == len(without) > 0
    assert [without_times(chunk) for chunk in given] == [without_times(chunk) for chunk in without]


def without_times(chunk: Any) -> Any:
    """A chunk of several modes without what progress says of time."""
    kind, event = chunk if isinstance(chunk, tuple) else ("", chunk)
    return kind, {key: event[key] for key in event if key != "seconds"}


def hands_on(state: Any) -> Any:
    return {"out": state["xs"]}


@pytest.mark.parametrize("mode", MODES)
async def test_without_a_mode_the_config_of_a_node_gives_what_a_node_gives(mode: str) -> None:
    """So LangGraph itself calls a node that is an edge. Of a graph it wants the values then, which are what a
    graph gives."""
    assert (await streamed_in_a_node(EDGES["vmap"], mode))[1] == [{"ys": [1]}]
    graph = graph_of(hands_on)
    _, values = await streamed_in_a_node(graph, mode)
    assert (values[-1]["xs"], values[-1]["out"]) == ([1], [1])


def writes_in_a_graph(state: Any) -> Any:
    get_stream_writer()({"written": state["item"]})
    return {"log": [state["item"]]}


class Inner(TypedDict, total=False):
    item: Any
    log: Annotated[list[Any], operator.add]


def inner_graph() -> Any:
    return (
        StateGraph(Inner)
        .add_node(writes_in_a_graph)
        .add_edge(START, "writes_in_a_graph")
        .compile(name="inner")
    )


def calls_a_graph(state: Any) -> Any:
    return inner_graph().invoke({"item": state["item"]})


def branch_with_a_graph(item: int, state: Any) -> Any:
    return {"log": inner_graph().invoke({"item": item})["log"]}


WRITING: dict[str, Any] = {
    "graph": lambda: work(inner_graph(), out_key=["log"]),
    "function": lambda: work(calls_a_graph, out_key=["log"]),
    "many": lambda: work(calls_a_graph, out_key=["log"], chunk_size=2),
    "branch": lambda: parallel(
        {"one": partial(branch_with_a_graph, 1), "two": partial(branch_with_a_graph, 2)}
    ),
    "nested": lambda: work(
        vmap(
            calls_a_graph,
            batch_key="ys",
            out_key=["log"],
            item_to_state=lambda item: {"item": item},
            name="deeper",
        ),
        out_key=["log"],
        item_to_state=lambda x: {"ys": [x]},
    ),
}


@pytest.mark.parametrize("make", WRITING.values(), ids=WRITING)
@pytest.mark.parametrize("mode", MODES)
async def test_what_graphs_in_items_write_has_their_namespace(mode: str, make: Any) -> None:
    """Who streams subgraphs can tell items apart by it; who does not sees what a `Send` to a graph shows."""

    async def written(graph: Any, **options: Any) -> list[Any]:
        chunks = await chunks_of(graph, {"xs": [1, 2]}, mode, stream_mode="custom", **options)
        return [chunk for chunk in chunks if "written" in (chunk[1] if isinstance(chunk, tuple) else chunk)]

    sent, graph = graph_of_sends(inner_graph()), graph_of(make())
    for one in (sent, graph):
        found = await written(one, subgraphs=True)
        assert sorted(event["written"] for _, event in found) == [1, 2]
        assert len({namespace for namespace, _ in found if namespace}) == 2
    assert await written(graph) == await written(sent) == []


# Run trees.


class Runs(BaseCallbackHandler):
    """Runs with their parents, and how each has ended."""

    def __init__(self) -> None:
        self.names: dict[Any, str] = {}
        self.parents: dict[Any, Any] = {}
        self.ends: dict[Any, list[Any]] = {}

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: Any, parent_run_id: Any = None, **kwargs: Any
    ) -> None:
        self.names[run_id], self.parents[run_id], self.ends[run_id] = kwargs["name"], parent_run_id, []

    def on_chain_end(self, outputs: Any, *, run_id: Any, **kwargs: Any) -> None:
        self.ends[run_id].append(outputs)

    def on_chain_error(self, error: BaseException, *, run_id: Any, **kwargs: Any) -> None:
        self.ends[run_id].append(error)


@pytest.mark.parametrize("mode", MODES)
def test_a_run_of_an_edge_alone_has_its_update_as_output(mode: str) -> None:
    runs = Runs()
    update = run(work(lambda state: state["item"]), {"xs": [1]}, mode, {"callbacks": [runs]})
    assert next(iter(runs.ends.values())) == [update]


def test_a_run_of_an_edge_alone_has_the_name_and_id_of_the_config() -> None:
    for runnable in (RunnableLambda(lambda state: 1), work(lambda state: 1)):
        runs, number = Runs(), uuid.uuid4()
        runnable.invoke({"xs": [1]}, {"callbacks": [runs], "run_id": number, "run_name": "mine"})
        assert runs.names.get(number) == "mine"


@pytest.mark.parametrize("mode", MODES)
def test_a_run_ends_once_also_if_a_handler_raises(mode: str) -> None:
    class Raises(Runs):
        raise_error = True

        def on_chain_end(self, outputs: Any, *, run_id: Any, **kwargs: Any) -> None:
            super().on_chain_end(outputs, run_id=run_id)
            if self.names[run_id] == "work":
                raise RuntimeError("no")

    runs = Raises()
    with pytest.raises(RuntimeError, match="no"):
        run(graph_of(work(lambda state: 1)), {"xs": [1]}, mode, {"callbacks": [runs]})
    assert [len(ends) for ends in runs.ends.values()] == [1, 1, 1]


def talks(state: Any) -> Any:
    return {"log": [model().invoke("x").content]}


class Everyone(RunCollectorCallbackHandler):
    """Comes by context, and is not handed on to what runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def on_chain_start(self, *args: Any, **kwargs: Any) -> Any:
        self.names.append(kwargs["name"])
        return super().on_chain_start(*args, **kwargs)

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> Any:
        self.names.append("model")
        return super().on_chat_model_start(*args, **kwargs)


def heard_by_context(runnable: Any, mode: str, *others: Any) -> list[str]:
    everyone = Everyone()
    token = run_collector_var.set(everyone)
    try:
        run(runnable, {"xs": [1]}, mode, {"callbacks": [*others]})
    finally:
        run_collector_var.reset(token)
    return everyone.names


@pytest.mark.parametrize("others", [[], [Runs()]], ids=["alone", "with-others"])
@pytest.mark.parametrize("mode", MODES)
def test_who_listens_by_context_hears_what_it_hears_of_a_send(mode: str, others: list[Any]) -> None:
    """As that of `collect_runs`: LangChain adds it to each callback manager, also to one that is empty."""
    sent = heard_by_context(graph_of_sends(talks), mode, *others)
    edges = [
        work(talks),
        work(talks, chunk_size=2),
        parallel({"one": talks}, name="work"),
        reduce_edge(input_key="xs", output_key="out", reducer=talks, name="work"),
    ]
    assert [heard_by_context(graph_of(edge), mode, *others) for edge in edges] == [sent] * len(edges)
    assert sent == ["LangGraph", "model"]
    assert heard_by_context(work(talks), mode, *others) == ["work", "model"]


def test_collected_runs_are_of_the_graph() -> None:
    with collect_runs() as collected:
        graph_of(work(talks)).invoke({"xs": [1]})
    assert [one.name for one in collected.traced_runs if one.run_type == "chain"] == ["LangGraph"]


@pytest.mark.parametrize("mode", MODES)
def test_debugging_shows_no_internal_tasks(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_debug(True)
    try:
        run(graph_of(work(lambda state: 1)), {"xs": [1]}, mode)
    finally:
        set_debug(False)
    starts = [line for line in capsys.readouterr().out.splitlines() if "chain/start" in line]
    assert [line[line.index("chain:") :].split("]")[0] for line in starts] == [
        "chain:LangGraph",
        "chain:LangGraph > chain:work",
        "chain:LangGraph > chain:work > chain:work",
    ]


@pytest.mark.parametrize("kind", ["vmap", "reduce"])
def test_custom_events_in_an_edge_alone(kind: str) -> None:
    """Any Runnable alone is a run, from which events can be sent."""

    def target(given: Any) -> int:
        dispatch_custom_event("event", 1)
        return 1

    assert RunnableLambda(target).invoke({"xs": [1]}) == 1
    edge = work(target) if kind == "vmap" else reduce_edge(input_key="xs", output_key="out", reducer=target)
    assert edge.invoke({"xs": [1]}) == {"out": [1] if kind == "vmap" else 1}


class Loops(AsyncCallbackHandler):
    """On which event loops it hears of what."""

    def __init__(self) -> None:
        self.names: dict[Any, str] = {}
        self.elsewhere: set[str] = set()
        self.ended: list[str] = []
        self._loop = asyncio.get_running_loop()

    def _hears(self, run_id: Any) -> None:
        if asyncio.get_running_loop() is not self._loop:
            self.elsewhere.add(self.names[run_id])

    async def on_chain_start(self, *args: Any, run_id: Any, **kwargs: Any) -> None:
        self.names[run_id] = str(kwargs["name"])
        self._hears(run_id)

    async def on_chain_end(self, *args: Any, run_id: Any, **kwargs: Any) -> None:
        self._hears(run_id)
        self.ended.append(self.names[run_id])

    async def on_chain_error(self, *args: Any, run_id: Any, **kwargs: Any) -> None:
        self._hears(run_id)
        self.ended.append(f"{self.names[run_id]} failed")


def blocks(state: Any) -> Any:
    return {"log": [1]}


async def awaits(state: Any) -> Any:
    return {"log": [1]}


def fails(state: Any) -> Any:
    raise ValueError("no")


async def fails_later(state: Any) -> Any:
    raise ValueError("no")


LISTENED: dict[str, Any] = {
    "vmap": work,
    "chunks": lambda target: work(target, chunk_size=2),
    "parallel": lambda target: parallel({"work": target}, name="work"),
    "reduce": lambda target: reduce_edge(input_key="xs", output_key="out", reducer=target, name="work"),
}


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("target", [blocks, awaits, fails, fails_later])
@pytest.mark.parametrize("make", LISTENED.values(), ids=LISTENED)
async def test_async_handlers_run_on_the_loop_of_the_graph(make: Any, target: Any, alone: bool) -> None:
    """Else what they hold, an HTTP session or a queue, is of another loop."""
    for runnable in (graph_of_sends(target), make(target) if alone else graph_of(make(target))):
        loops = Loops()
        with pytest.raises(ValueError, match="no") if target in (fails, fails_later) else nullcontext():
            await runnable.ainvoke({"xs": [1]}, {"callbacks": [loops]})
        assert loops.elsewhere == set()
        failed = " failed" if target in (fails, fails_later) else ""
        assert {name for name in loops.ended if name.startswith("work")} == {f"work{failed}"}
        assert len(loops.ended) == len(loops.names)


async def test_async_handlers_hear_of_spans_on_another_loop() -> None:
    """What makes spans does not await; LangGraph's own runs, and those of a `Send`, are heard on the loop of
    the graph."""
    for runnable, elsewhere in (
        (graph_of_sends(awaits), set[str]()),
        (graph_of(work(awaits)), {"vmap:work", "awaits"}),
    ):
        loops = Loops()
        with recorded():
            await runnable.ainvoke({"xs": [1]}, {"callbacks": [loops]})
        assert loops.elsewhere == elsewhere


# The runs of calls that nobody waits for any more.


class Hangs:
    """Blocks until it is released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.ended = threading.Semaphore(0)

    def __call__(self, state: Any) -> Any:
        try:
            assert self.release.wait(30)
            return {"log": [1]}
        finally:
            self.ended.release()


LEFT: dict[str, Any] = {
    "timeout": lambda target: work(target, timeout=0.3, on_error="collect"),
    "chunks": lambda target: work(target, timeout=0.3, on_error="collect", chunk_size=2),
    "deadline": lambda target: work(target, deadline=0.3, on_error="collect"),
    "branch": lambda target: parallel(
        [Branch(target, name="branch", timeout=0.3)], on_error="isolate", errors_key="log", name="work"
    ),
    "nested": lambda target: vmap(
        vmap(target, batch_key="ys", out_key="out", item_to_state=lambda y: {"y": y}, name="inner"),
        batch_key="xs",
        out_key="out",
        item_to_state=lambda x: {"ys": [x]},
        timeout=0.3,
        on_error="collect",
        name="work",
    ),
}


@pytest.mark.parametrize("make", LEFT.values(), ids=LEFT)
@pytest.mark.parametrize("mode", MODES)
def test_an_item_that_timed_out_is_a_failed_run_when_the_edge_is_over(mode: str, make: Any) -> None:
    """A blocking call runs on in its thread, and its end is no other end of the run."""
    hangs, runs = Hangs(), Runs()
    try:
        run(graph_of(make(hangs)), {"xs": [1]}, mode, {"callbacks": [runs]})
        assert all(len(ends) == 1 for ends in runs.ends.values())
        items = [
            ends[0] for run_id, ends in runs.ends.items() if runs.names.get(runs.parents[run_id]) == "work"
        ]
        assert {type(error) for error in items} == {
            TimeoutError if mode == "sync" else asyncio.CancelledError
        }
        if mode == "sync":
            assert str(items[0]).startswith("took longer than 0.")
    finally:
        hangs.release.set()
        assert hangs.ended.acquire(timeout=30)
    assert all(len(ends) == 1 for ends in runs.ends.values())


async def test_an_awaited_item_that_timed_out_is_a_run_like_that_of_a_node() -> None:
    async def hangs(state: Any) -> None:
        await asyncio.Event().wait()

    async def last_ends(graph: Any) -> list[Any]:
        runs = Runs()
        with pytest.raises((NodeTimeoutError, TimeoutError)):
            await graph.ainvoke({"xs": [1]}, {"callbacks": [runs]})
        return [type(error) for error in list(runs.ends.values())[-1]]

    def as_node(seconds: float) -> Any:
        builder = StateGraph(State)
        builder.add_node("work", hangs, timeout=TimeoutPolicy(run_timeout=seconds))
        return builder.add_edge(START, "work").compile()

    for make in (as_node, lambda seconds: graph_of(work(hangs, timeout=seconds))):
        # On a busy machine a short timeout may be over before the target is called.
        found = [await last_ends(make(seconds)) for seconds in (0.01, 0.5)]
        assert [asyncio.CancelledError] in found


def test_items_of_an_edge_in_a_node_function_are_called_by_the_edge() -> None:
    """They are no outputs of the node: two edges in it could not be told apart, and LangGraph would stream
    their messages."""

    def node(state: Any) -> Any:
        vmap(lambda state: AIMessage("between"), batch_key="xs", out_key="ys", name="inner").invoke(
            {"xs": state["xs"]}
        )
        return {"out": 1}

    assert list(graph_of(node).stream({"xs": [1]}, stream_mode="messages")) == []


async def asks(state: Any) -> Any:
    return {"out": (await model().ainvoke("x")).content}


@pytest.mark.parametrize("kind", ["vmap", "parallel"])
@pytest.mark.parametrize("mode", MODES)
async def test_tokens_of_a_function_that_returns_an_awaitable_are_those_of_its_item(
    mode: str, kind: str
) -> None:
    """As `lambda state: agent.ainvoke(...)`: what is awaited is as much of the item as what is called."""

    class Models(Runs):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[Any] = []

        def on_chat_model_start(
            self, *args: Any, parent_run_id: Any = None, metadata: Any = None, **kwargs: Any
        ) -> None:
            self.found.append((metadata.get("mahsm_item"), self.names[self.parents[parent_run_id]]))

    runs = Models()
    edge = (
        work(lambda state: asks(state))
        if kind == "vmap"
        else parallel({"one": lambda state: asks(state)}, name="work")
    )
    config: Any = {"callbacks": [runs]}
    graph = graph_of(edge)
    if mode == "sync":
        await asyncio.to_thread(graph.invoke, {"xs": [1]}, config)
    else:
        await graph.ainvoke({"xs": [1]}, config)
    assert runs.found == [((0,), "work")]


async def test_events_of_a_compiled_edge_are_its_runs() -> None:
    """Under `astream_events` the node is streamed, and must be no second run below itself."""
    graph = work(lambda state: state["item"]).compile()
    runs = Runs()
    graph.invoke({"xs": [1]}, {"callbacks": [runs]})
    events = [event async for event in graph.astream_events({"xs": [1]}, version="v2")]
    assert sum(event["event"] == "on_chain_start" for event in events) == len(runs.names)


# as_completed.


@pytest.mark.parametrize("config", [None, {}])
@pytest.mark.parametrize(
    "options", [{}, {"max_concurrency": 1}, {"on_error": "drop"}, {"chunk_size": 2}], ids=str
)
@pytest.mark.parametrize("out_key", ["a", ["a"], ["a", "b"]], ids=str)
async def test_items_that_write_several_keys_are_given_as_they_finish(
    out_key: Any, options: Any, config: Any
) -> None:
    edge = work(lambda state: {"a": state["item"], "b": 2}, out_key=out_key, **options)
    items = [index async for index, _ in edge.as_completed({"xs": [1, 2, 3]}, config)]
    assert sorted(items) == [0, 1, 2]


def problems() -> list[Any]:
    found: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: found.append(context.get("exception") or context["message"])
    )
    return found


async def test_leaving_the_loop_makes_no_noise() -> None:
    found = problems()

    async def target(state: Any) -> int:
        await asyncio.sleep(state["item"])
        return 1

    async for _ in work(target).as_completed({"xs": [0, 3600]}):
        break
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)
    del others
    gc.collect()
    assert found == []


async def test_items_can_be_taken_from_several_tasks() -> None:
    """Such as by a web framework, which asks for the first part in one task and for the rest in another."""
    items = work(lambda state: state["item"], max_concurrency=1).as_completed({"xs": [1, 2]})

    async def taken() -> list[Any]:
        return [item async for item in items]

    async def first() -> Any:
        return await anext(items)

    assert await asyncio.ensure_future(first()) == (0, 1)
    assert await asyncio.ensure_future(taken()) == [(1, 2)]


async def test_items_of_a_run_inside_are_not_those_of_the_run() -> None:
    async def target(state: Any) -> Any:
        item = state["item"]
        return (await edge.ainvoke({"xs": item}))["out"] if isinstance(item, list) else item

    edge = work(target, max_concurrency=1)
    assert [item async for item in edge.as_completed({"xs": [1, [2, 3]]})] == [(0, 1), (1, [2, 3])]


async def test_a_run_in_the_loops_body_is_another_run() -> None:
    goes_on = asyncio.Event()

    async def target(state: Any) -> Any:
        if state["item"] == "waits":
            await goes_on.wait()
        return state["item"]

    edge, found = work(target, max_concurrency=1), list[Any]()
    async for item in edge.as_completed({"xs": ["a", "waits"]}):
        found.append(item)
        if len(found) == 1:
            await edge.ainvoke({"xs": ["other"]})
            goes_on.set()
    assert found == [(0, "a"), (1, "waits")]


async def test_two_loops_at_once_leave_nobody_listening() -> None:
    from mahsm.nodes._internal import position

    edge = work(lambda state: state["item"], max_concurrency=1)
    one, two = edge.as_completed({"xs": [1, 2]}), edge.as_completed({"xs": [3, 4]})
    await anext(one)
    await anext(two)
    assert [item async for item in one] == [(1, 2)]
    assert [item async for item in two] == [(1, 4)]
    assert not position.get().finished


# Items that write nothing.


@pytest.mark.parametrize("nothing", [None, {}])
@pytest.mark.parametrize("reduced", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_an_item_may_write_nothing(mode: str, reduced: bool, nothing: Any) -> None:
    def odd(state: Any) -> Any:
        return {"log": [state["item"]]} if state["item"] % 2 else nothing

    sent = run(graph_of_sends(odd), {"xs": [1, 2, 3]}, mode)["log"]
    if reduced:
        assert run(graph_of(work(odd, out_key=["log"])), {"xs": [1, 2, 3]}, mode)["log"] == sent == [1, 3]
    else:
        assert run(work(odd, out_key=["log"]), {"xs": [1, 2, 3]}, mode) == {"log": [[1], [3]]}
