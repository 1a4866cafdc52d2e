"""What nodes are given besides the state, and the kinds of state that there are: as under a `Send`."""

import asyncio
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_store
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime, get_runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import Send
from pydantic import BaseModel
from typing_extensions import TypedDict

from mahsm import connect, vmap
from tests.helpers import MODES, run


class Page(BaseModel):
    title: str
    words: int = 0


class DictLibrary(TypedDict):
    pages: list[Page]
    lengths: Annotated[list[Any], operator.add]


@dataclass
class DataLibrary:
    pages: list[Page]
    lengths: Annotated[list[Any], operator.add] = field(default_factory=list[Any])


class ModelLibrary(BaseModel):
    pages: list[Page]
    lengths: Annotated[list[Any], operator.add] = []


class PagesIn(TypedDict):
    pages: list[Page]


class LengthsOut(TypedDict):
    lengths: list[Any]


PAGES = [Page(title="one", words=3), Page(title="two", words=5)]


def by_send(
    node: Callable[..., Any], state: type[Any] = DictLibrary, **options: Any
) -> StateGraph[Any, Any, Any, Any]:
    """A graph that sends each page to the node, which gives a value."""
    builder = StateGraph(state, **options)
    builder.add_node("measure", node)

    def send(state: Any) -> list[Send]:
        pages = state["pages"] if isinstance(state, dict) else state.pages
        return [Send("measure", {"item": page}) for page in pages]

    builder.add_conditional_edges(START, send, ["measure"])
    return builder


def by_edge(
    node: Callable[..., Any], state: type[Any] = DictLibrary, **options: Any
) -> StateGraph[Any, Any, Any, Any]:
    edge = vmap(node, batch_key="pages", out_key=["lengths"], name="measure")
    return connect(StateGraph(state, **options), START, edge, END)


def both(
    node: Callable[..., Any], mode: str, config: Any = None, compiled: Any = None, **options: Any
) -> list[Any]:
    """The ends of both graphs."""
    compiled = compiled or {}
    return [
        run(build(node, **options).compile(**compiled), {"pages": PAGES}, mode, config)
        for build in (by_send, by_edge)
    ]


def measure(state: Any) -> dict[str, Any]:
    return {"lengths": [(state["item"].title, state["item"].words)]}


@pytest.mark.parametrize("state", [DictLibrary, DataLibrary, ModelLibrary])
@pytest.mark.parametrize("mode", MODES)
def test_a_state_of_each_kind_with_pydantic_items(mode: str, state: type[Any]) -> None:
    sent, fanned = both(measure, mode, state=state)
    assert fanned == sent
    assert sent["lengths"] == [("one", 3), ("two", 5)]


@pytest.mark.parametrize("mode", MODES)
def test_input_and_output_schemas(mode: str) -> None:
    sent, fanned = both(measure, mode, input_schema=PagesIn, output_schema=LengthsOut)
    assert fanned == sent == {"lengths": [("one", 3), ("two", 5)]}


@dataclass
class Reader:
    name: str


def by_runtime(state: Any, runtime: Runtime[Reader]) -> dict[str, Any]:
    return {"lengths": [f"{runtime.context.name} {state['item'].title}"]}


async def by_accessor(state: Any) -> dict[str, Any]:
    return {"lengths": [f"{get_runtime(Reader).context.name} {state['item'].title}"]}


@pytest.mark.parametrize("node", [by_runtime, by_accessor])
def test_the_context_of_the_run(node: Any) -> None:
    for build in (by_send, by_edge):
        graph = build(node, context_schema=Reader).compile()
        state = asyncio.run(graph.ainvoke({"pages": PAGES}, context=Reader("ann")))
        assert state["lengths"] == ["ann one", "ann two"]


@pytest.mark.parametrize("mode", MODES)
def test_tags_metadata_and_limits_of_the_config(mode: str) -> None:
    def look(state: Any, config: RunnableConfig) -> dict[str, Any]:
        metadata = {
            key: value for key, value in config.get("metadata", {}).items() if key in ("user", "team")
        }
        free = {key: value for key, value in config["configurable"].items() if key in ("tone", "thread_id")}
        return {"lengths": [(config.get("tags"), metadata, config["recursion_limit"], free)]}

    config = {
        "tags": ["mine"],
        "metadata": {"user": "ann", "team": 3},
        "recursion_limit": 77,
        "configurable": {"tone": "dry", "thread_id": "7"},
    }
    sent, fanned = both(look, mode, config)
    assert fanned == sent
    assert fanned["lengths"] == [(["mine"], config["metadata"], 77, config["configurable"])] * 2


def in_store(state: Any, store: BaseStore) -> dict[str, Any]:
    store.put(("pages",), state["item"].title, {"words": state["item"].words})
    return {"lengths": [state["item"].title]}


def in_found_store(state: Any) -> dict[str, Any]:
    return in_store(state, get_store())


def in_store_of_runtime(state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
    assert runtime.store is not None
    return in_store(state, runtime.store)


@pytest.mark.parametrize("node", [in_store, in_found_store, in_store_of_runtime])
@pytest.mark.parametrize("mode", MODES)
def test_the_store_of_the_graph(mode: str, node: Any) -> None:
    kept: list[Any] = []
    for build in (by_send, by_edge):
        store = InMemoryStore()
        assert run(build(node).compile(store=store), {"pages": PAGES}, mode)["lengths"] == ["one", "two"]
        kept.append({item.key: item.value for item in store.search(("pages",))})
    assert kept[0] == kept[1] == {"one": {"words": 3}, "two": {"words": 5}}
