"""What can be the target of an edge, and what it gets."""

import functools
from dataclasses import dataclass
from typing import Any, TypedDict

import dspy
import pytest
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnablePassthrough
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, StreamWriter
from pydantic import BaseModel

from mahsm import Retry, parallel, vmap
from mahsm.errors import EdgeError, NodeError
from mahsm.reducers import tree_reduce
from mahsm.testing import ModelServer
from tests.helpers import MODES, DictState, graph_of, run, run_edge


def edge_of(target: Any, **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", **options})


class Adder:
    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, state: dict[str, Any]) -> int:
        return state["item"] + self.by

    def method(self, state: dict[str, Any]) -> int:
        return state["item"] + self.by

    async def async_method(self, state: dict[str, Any]) -> int:
        return state["item"] + self.by


class AsyncAdder(Adder):
    async def __call__(self, state: dict[str, Any]) -> int:  # type: ignore[override]
        return state["item"] + self.by


def add(by: int, state: dict[str, Any]) -> int:
    return state["item"] + by


async def add_async(state: dict[str, Any], by: int = 1) -> int:
    return state["item"] + by


class SyncRunnable(Runnable[Any, Any]):
    """A Runnable without an asynchronous side of its own."""

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return input["item"] + 1


def compiled() -> Any:
    class State(TypedDict, total=False):
        item: int
        y: int

    builder = StateGraph(State)
    builder.add_node("add", lambda state: {"y": state["item"] + 1})
    builder.add_edge(START, "add")
    return builder.compile(name="adder")


TARGETS: dict[str, tuple[Any, Any]] = {
    "object": (Adder(1), None),
    "async object": (AsyncAdder(1), None),
    "method": (Adder(1).method, None),
    "async method": (Adder(1).async_method, None),
    "partial": (functools.partial(add, 1), None),
    "async partial": (functools.partial(add_async, by=1), None),
    "function that gives an awaitable": (lambda state: add_async(state), None),
    "runnable": (RunnableLambda(lambda state: state["item"] + 1), None),
    "async runnable": (RunnableLambda(add_async), None),
    "runnable of both": (RunnableLambda(lambda state: state["item"] + 1, add_async), None),
    "sequence": (RunnablePassthrough() | (lambda state: state["item"] + 1), None),
    "runnable of an own class": (SyncRunnable(), None),
    "graph": (compiled(), "y"),
    "function with a graph": (compiled().invoke, "y"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("target", "result"), TARGETS.values(), ids=TARGETS.keys())
def test_targets_of_every_kind(target: Any, result: Any, mode: str) -> None:
    assert run(graph_of(edge_of(target, result=result)), {"xs": [1, 2, 3]}, mode)["ys"] == [2, 3, 4]


@pytest.mark.parametrize("timeout", [None, 30])
@pytest.mark.parametrize("mode", MODES)
def test_a_function_that_gives_an_awaitable_under_a_timeout(mode: str, timeout: float | None) -> None:
    assert run_edge(edge_of(lambda state: add_async(state), timeout=timeout), [1], mode) == [2]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_functions_get_what_langgraph_injects(mode: str, asynchronous: bool) -> None:
    def look(
        state: dict[str, Any],
        *,
        config: RunnableConfig,
        runtime: Runtime[Any],
        store: BaseStore,
        writer: StreamWriter,
    ) -> Any:
        writer({"seen": state["item"]})
        store.put(("items",), str(state["item"]), {"x": state["item"]})
        return [config["configurable"]["thread_id"], runtime.context["who"], runtime.store is store]

    async def look_async(
        state: dict[str, Any],
        config: RunnableConfig,
        runtime: Runtime[Any],
        store: BaseStore,
        writer: StreamWriter,
    ) -> Any:
        return look(state, config=config, runtime=runtime, store=store, writer=writer)

    store = InMemoryStore()
    graph = graph_of(edge_of(look_async if asynchronous else look), store=store)
    config: Any = {"configurable": {"thread_id": "t"}}

    async def chunks() -> list[Any]:
        return [
            chunk
            async for chunk in graph.astream({"xs": [1]}, config, context={"who": "me"}, stream_mode=modes)
        ]

    import asyncio

    modes = ["custom", "values"]
    if mode == "sync":
        got = list(graph.stream({"xs": [1]}, config, context={"who": "me"}, stream_mode=modes))
    else:
        got = asyncio.run(chunks())
    assert ("custom", {"seen": 1}) in got, "the writer reaches the stream of the parent"
    assert got[-1][1]["ys"] == [["t", "me", True]]
    assert store.get(("items",), "1") is not None


def test_a_parameter_that_only_shares_a_name_keeps_its_default() -> None:
    def target(state: dict[str, Any], store: str = "mine") -> str:
        return store

    assert run_edge(edge_of(target), [1], "sync") == ["mine"]


async def test_langgraphs_own_accessors_work_in_items() -> None:
    def target(state: dict[str, Any]) -> None:
        get_stream_writer()({"item": state["item"]})

    events = [
        event
        async for event in graph_of(edge_of(target)).astream(
            {"xs": [5]}, stream_mode="custom", subgraphs=True
        )
    ]
    assert {"item": 5} in [event for _, event in events]


@dataclass
class Item:
    item: int
    bias: int = 0


class Model(BaseModel):
    item: int
    bias: int = 0


@pytest.mark.parametrize("mode", MODES)
def test_state_comes_as_what_the_first_parameter_is_annotated_with(mode: str) -> None:
    def of_dataclass(state: Item) -> int:
        return state.item + state.bias

    async def of_model(state: Model) -> int:
        return state.item + state.bias

    for target in (of_dataclass, of_model):
        assert run(edge_of(target), {"xs": [1, 2], "bias": 10, "more": 1}, mode)["ys"] == [11, 12]


def test_a_partial_gets_the_state_where_it_is_left_open() -> None:
    def scaled(by: Model, state: Item) -> int:
        return by.item * state.item

    assert run_edge(edge_of(functools.partial(scaled, Model(item=10))), [1, 2], "sync") == [10, 20]


def test_annotations_that_cannot_be_read_are_left_alone() -> None:
    def target(state: "NowhereDefined") -> int:  # type: ignore[name-defined]  # noqa: F821
        return state["item"]

    assert run_edge(edge_of(target), [1], "sync") == [1]


@pytest.mark.parametrize("mode", MODES)
def test_an_update_in_a_command_counts_as_the_update(mode: str) -> None:
    assert run_edge(edge_of(lambda s: Command(update={"y": s["item"]}), result="y"), [1], mode) == [1]


def test_a_command_that_goes_somewhere_is_an_error() -> None:
    with pytest.raises(NodeError, match="an item can return only an update"):
        run_edge(edge_of(lambda _: Command(goto="elsewhere")), [1], "sync")


@pytest.mark.parametrize("mode", MODES)
def test_a_dspy_module_over_http(mode: str) -> None:
    edge = edge_of(dspy.Predict("item -> length: int"), result="length")
    with (
        ModelServer(lambda call: {"length": len(call.field("item"))}) as server,
        dspy.context(lm=server.lm()),
    ):
        assert run_edge(edge, ["a", "bbb"], mode) == [1, 3]
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, r"the target is 3; expected a function of the state"),
        (Adder, r"the target is <class '.*Adder'>; expected .* not a class: create an instance"),
        (lambda: 1, r"cannot be called with a state: too many positional arguments"),
        (
            lambda state, docs: 1,
            r"cannot be called with a state: missing a required argument: 'docs'.*functools\.partial",
        ),
        (StateGraph(DictState), r"is a StateGraph that is not compiled\. Pass graph\.compile"),
    ],
)
def test_what_cannot_be_a_target_is_refused_when_built(target: Any, message: str) -> None:
    with pytest.raises(NodeError, match=message):
        edge_of(target)


def yields(state: Any) -> Any:
    yield state["item"]


async def yields_async(state: Any) -> Any:
    yield state["item"]


class Yields:
    def __call__(self, state: Any) -> Any:
        yield state["item"]

    async def method(self, state: Any) -> Any:
        yield state["item"]


@pytest.mark.parametrize(
    "build",
    [edge_of, lambda target: parallel([target]), lambda target: tree_reduce(merge=target)],
    ids=["vmap", "parallel", "tree_reduce"],
)
@pytest.mark.parametrize(
    "target",
    [yields, yields_async, Yields(), Yields().method, functools.partial(yields)],
    ids=["sync", "async", "object", "async method", "partial"],
)
def test_generators_are_refused_when_built(target: Any, build: Any) -> None:
    with pytest.raises(
        NodeError, match=r"is a generator function, whose call returns a generator\. Return its values"
    ):
        build(target)


def model() -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage("four")]))


@pytest.mark.parametrize(
    "target",
    [
        model(),
        FakeListLLM(responses=["four"]),
        model().bind(stop=["."]),
        model().with_config(tags=["a"]),
        model().with_retry(),
        model() | StrOutputParser(),
        model().with_fallbacks([model()]).with_config(tags=["a"]) | StrOutputParser(),
    ],
    ids=lambda target: type(target).__name__,
)
@pytest.mark.parametrize("options", [{}, {"retry": Retry()}], ids=["plain", "retry"])
def test_a_bare_model_is_refused_when_built(target: Any, options: Any) -> None:
    with pytest.raises(
        NodeError, match=r"the language model \w+, which takes messages or a string\. Pass prompt \| model"
    ):
        edge_of(target, **options)


@pytest.mark.parametrize("mode", MODES)
def test_a_prompt_before_a_model_is_a_target(mode: str) -> None:
    chain = ChatPromptTemplate.from_template("How much is {item}?") | model() | StrOutputParser()
    assert run_edge(edge_of(chain), ["2 + 2"], mode) == ["four"]


def test_builtins_without_a_signature_are_taken_as_they_are() -> None:
    assert run_edge(edge_of(max), [1], "sync") == ["xs"]


def test_names() -> None:
    def fetch(state: Any) -> None: ...

    assert edge_of(fetch).name == "vmap_fetch"
    assert edge_of(lambda _: 1).name == "vmap_lambda"
    assert edge_of(functools.partial(add, 1)).name == "vmap_add"
    assert edge_of(RunnableLambda(fetch, name="a:b|c")).name == "vmap_a_b_c"
    assert edge_of(fetch, name="mine").name == "mine"


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "batch_key": ({"batch_key": 3}, r"batch_key=3; expected the name of a state key"),
    "empty out_key": ({"out_key": ""}, r"out_key=''; expected the name"),
    "on_error": (
        {"on_error": "colect"},
        r"on_error='colect'; expected one of 'raise', 'collect', 'drop'\. Did you mean 'collect'",
    ),
    "on_error far off": ({"on_error": "x"}, r"expected one of 'raise', 'collect', 'drop'\.$"),
    "item_to_state": (
        {"item_to_state": "doc"},
        r"item_to_state='doc' cannot be called; expected a function from an item",
    ),
    "timeout": ({"timeout": 0}, r"timeout=0; expected seconds > 0"),
    "timeout text": ({"timeout": "1"}, r"timeout='1'; expected seconds > 0"),
    "result": ({"result": 3}, r"result=3 cannot be called; expected a key of the target's update"),
    "chunk_size": ({"chunk_size": 0}, r"chunk_size=0; expected an integer >= 1"),
    "name": ({"name": "a:b"}, r"name='a:b'; expected a node name"),
    "errors_key alone": (
        {"errors_key": "errors"},
        r"errors_key='errors' has no effect with on_error='raise'",
    ),
    "errors_key odd": ({"errors_key": 1, "on_error": "drop"}, r"errors_key=1; expected the name"),
    "errors_key twice": ({"errors_key": "ys", "on_error": "drop"}, r"errors_key and out_key are both 'ys'"),
    "min_success alone": ({"min_success": 1}, r"min_success=1 has no effect with on_error='raise'"),
    "min_success": (
        {"min_success": 1.5, "on_error": "drop"},
        r"min_success=1\.5; expected a count >= 1, or a share",
    ),
    "preserve_order": ({"preserve_order": "yes"}, r"preserve_order='yes'; expected True or False"),
    "progress": ({"progress": 1}, r"progress=1; expected True or False"),
    "adaptive": (
        {"adaptive": "yes", "retry": Retry()},
        r"adaptive='yes'; expected True, or the fewest and the most",
    ),
    "min_success bool": ({"min_success": True, "on_error": "drop"}, r"min_success=True; expected"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_refused_when_built(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        edge_of(lambda _: None, **options)


def test_chunks_of_graphs_are_refused_when_built() -> None:
    with pytest.raises(EdgeError, match=r"chunk_size=4, but the target 'adder' holds a graph"):
        edge_of(compiled(), chunk_size=4)


def test_graphs_are_found_in_functions_and_looked_for_only_where_they_can_be() -> None:
    from mahsm.nodes._target import _holds_nothing, as_target

    builder = StateGraph(dict)
    builder.add_node("inner", lambda state: state)
    builder.add_edge(START, "inner")
    graph, number = builder.compile(), 3
    holder = type("Holder", (), {"graph": graph})

    def later() -> Any:
        return filled

    for plain in (lambda state: state["item"] * number, lambda state: [each for each in state if each], len):
        assert as_target(plain, reader="test").graph is None
    assert _holds_nothing(lambda state: number)
    for function in (lambda state: graph.invoke(state), lambda state: holder.graph.invoke(state)):
        assert not _holds_nothing(function)
        assert as_target(function, reader="test").graph is graph
    assert not _holds_nothing(later)
    filled = 1
    assert _holds_nothing(later)
    assert not _holds_nothing(len)
