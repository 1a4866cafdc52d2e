"""What a target sees: the item, and which part of the parent's state besides."""

import operator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NewType, TypeVar

import dspy
import pytest
from langchain_core.documents import Document
from langchain_core.messages import AnyMessage, BaseMessage, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Send
from pydantic import BaseModel
from typing_extensions import Protocol, TypedDict

from mahsm import Branch, connect, parallel, vmap
from mahsm.errors import EdgeError, NodeError
from mahsm.policies import is_item_error
from tests.helpers import MODES, run


class Child(TypedDict):
    topic: str
    notes: Annotated[list[str], operator.add]


class Parent(TypedDict):
    topics: list[str]
    question: str
    notes: Annotated[list[str], operator.add]


def child() -> Any:
    builder = StateGraph(Child)
    builder.add_node("note", lambda state: {"notes": [f"note on {state['topic']}"]})
    builder.add_edge(START, "note")
    return builder.compile(name="child")


START_STATE = {"topics": ["a", "b"], "notes": ["old note"]}


@pytest.mark.parametrize("mode", MODES)
def test_a_graph_gets_its_payload_and_no_more_as_by_a_send(mode: str) -> None:
    builder = StateGraph(Parent)
    builder.add_node("child", child())
    builder.add_conditional_edges(
        START, lambda state: [Send("child", {"topic": topic}) for topic in state["topics"]], ["child"]
    )
    sent = run(builder.compile(), START_STATE, mode)["notes"]
    edge = vmap(child(), batch_key="topics", out_key=["notes"], item_to_state=lambda topic: {"topic": topic})
    ported = run(connect(StateGraph(Parent), START, edge, END).compile(), START_STATE, mode)["notes"]
    assert ported == sent == ["old note", "note on a", "note on b"]


def sees(graph: Any, mode: str, state: Any, **options: Any) -> set[str]:
    """The keys that the target sees in its only item."""
    edge = vmap(
        graph, batch_key="topics", out_key="seen", item_to_state=lambda topic: {"topic": topic}, **options
    )
    return set(run(edge, state, mode)["seen"][0]["keys"])


class Wide(TypedDict):
    topic: str
    question: str
    other: str
    keys: list[str]


def wide() -> Any:
    builder = StateGraph(Wide)
    builder.add_node(
        "look", lambda state: {"keys": sorted(key for key, value in state.items() if value and key != "keys")}
    )
    builder.add_edge(START, "look")
    return builder.compile(name="wide")


WIDE = {"topics": ["a"], "question": "q", "other": "o"}


@pytest.mark.parametrize(
    ("inherit", "keys"),
    [
        (None, {"topic"}),
        (False, {"topic"}),
        ([], {"topic"}),
        (["question"], {"topic", "question"}),
        (["question", "missing"], {"topic", "question"}),
        (True, {"topic", "question", "other"}),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_what_a_graph_sees(mode: str, inherit: Any, keys: set[str]) -> None:
    assert sees(wide(), mode, WIDE, inherit=inherit) == keys


@pytest.mark.parametrize(
    ("inherit", "keys"),
    [(None, {"topics", "topic", "question", "other"}), (False, {"topic"}), (["other"], {"topic", "other"})],
)
@pytest.mark.parametrize("chunk_size", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_what_a_function_sees(mode: str, chunk_size: int, inherit: Any, keys: set[str]) -> None:
    assert sees(lambda state: {"keys": [*state]}, mode, WIDE, inherit=inherit, chunk_size=chunk_size) == keys


@pytest.mark.parametrize("mode", MODES)
def test_an_edge_is_no_graph_to_its_user(mode: str) -> None:
    inner = vmap(lambda state: state["bias"] + state["item"], batch_key="row", out_key="cells")
    outer = vmap(
        inner, batch_key="rows", out_key="table", item_to_state=lambda row: {"row": row}, result="cells"
    )
    assert run(outer, {"rows": [[1], [2, 3]], "bias": 10}, mode) == {"table": [[11], [12, 13]]}


@pytest.mark.parametrize("inherit", ["question", 3, [3], [""], ["a", "a"]])
def test_inherit_is_checked(inherit: Any) -> None:
    with pytest.raises(EdgeError, match=r"inherit="):
        vmap(wide(), batch_key="topics", out_key="seen", inherit=inherit)
    with pytest.raises(EdgeError, match=r"branch 'wide': inherit="):
        parallel([Branch(wide(), inherit=inherit)])


def test_connect_knows_the_keys_that_are_inherited() -> None:
    edge = vmap(wide(), batch_key="topics", out_key="notes", inherit=["qestion"])
    with pytest.raises(EdgeError, match="uses 'qestion', but the state schema Parent has only"):
        connect(StateGraph(Parent), START, edge, END)


@pytest.mark.parametrize(
    ("branch", "keys"),
    [
        ({}, {"question", "other"}),
        ({"inherit": ["other"]}, {"other"}),
        ({"inherit": False, "reads": ["question"]}, {"question"}),
        ({"inherit": ["other"], "reads": ["question"]}, {"question", "other"}),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_what_a_branch_sees(mode: str, branch: Any, keys: set[str]) -> None:
    edge = parallel([Branch(lambda state: {"seen": {*state}}, name="look", **branch)])
    assert run(edge, {"question": "q", "other": "o"}, mode) == {"seen": keys}


def test_a_branch_that_would_see_nothing() -> None:
    with pytest.raises(
        EdgeError, match=r"branch 'look': inherit=False without reads=, so the target would see no keys"
    ):
        parallel([Branch(lambda state: {}, name="look", inherit=False)])


# Items that do not reach a graph.


@pytest.mark.parametrize("on_error", ["raise", "collect", "drop"])
@pytest.mark.parametrize("inherit", [None, True])
@pytest.mark.parametrize("item_to_state", [None, lambda topic: {"topik": topic}])
@pytest.mark.parametrize("mode", MODES)
def test_an_item_that_does_not_reach_the_graph(
    mode: str, item_to_state: Any, inherit: Any, on_error: Any
) -> None:
    edge = vmap(
        wide(),
        batch_key="topics",
        out_key="seen",
        item_to_state=item_to_state,
        inherit=inherit,
        on_error=on_error,
    )
    key = "item" if item_to_state is None else "topik"
    message = (
        f"vmap_wide: an item has the keys '{key}', but the input of the graph 'wide' has only "
        r"'keys', 'other', 'question', 'topic'. Pass item_to_state="
    )
    with pytest.raises(EdgeError, match=message):
        run(edge, WIDE, mode)
    assert run(edge, {"topics": []}, mode) == {"seen": []}


@pytest.mark.parametrize("mode", MODES)
def test_an_item_whose_state_cannot_be_made_fails_alone(mode: str) -> None:
    made: list[str] = []

    def item_to_state(topic: str) -> dict[str, Any]:
        made.append(topic)
        return {"topic": topic[0]}

    edge = vmap(wide(), batch_key="topics", out_key="seen", item_to_state=item_to_state, on_error="collect")
    first, second = run(edge, {"topics": ["", "b"]}, mode)["seen"]
    assert is_item_error(first)
    assert second["keys"] == ["topic"]
    assert made.count("b") == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_graph_of_any_input_takes_any_item(mode: str) -> None:
    builder = StateGraph(dict)
    builder.add_node("look", lambda state: {"keys": [*state]})
    builder.add_edge(START, "look")
    assert run(vmap(builder.compile(name="any"), batch_key="xs", out_key="ys"), {"xs": [1]}, mode)["ys"][
        0
    ] == {"keys": ["item"]}


# Functions of an item.

Score = NewType("Score", int)
T = TypeVar("T")


class Page(BaseModel):
    text: str


@dataclass
class Card:
    text: str


class Plain:
    def __init__(self, text: str) -> None:
        self.text = text


def takes(annotation: Any) -> Any:
    def target(given: Any) -> Any:
        return given

    target.__annotations__["given"] = annotation
    return target


ITEMS = [
    (str, "a"),
    (int, 1),
    (float, 1.5),
    (bool, True),
    (bytes, b"x"),
    (list, [1]),
    (list[str], ["a"]),
    (tuple[int, str], (1, "a")),
    (str | None, "a"),
    (Literal["a", "b"], "a"),
    (Score, 3),
    (HumanMessage, HumanMessage("hi")),
    (BaseMessage, HumanMessage("hi")),
    (AnyMessage, HumanMessage("hi")),
    (Document, Document("text")),
    (Page, Page(text="x")),
    (Card, Card("x")),
    (Plain, Plain("x")),
    (dspy.Example, dspy.Example(q="x")),
]


@pytest.mark.parametrize(("annotation", "item"), ITEMS, ids=range(len(ITEMS)))
@pytest.mark.parametrize("chunk_size", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_a_function_of_an_item_gets_the_item(mode: str, chunk_size: int, annotation: Any, item: Any) -> None:
    edge = vmap(takes(annotation), batch_key="xs", out_key="ys", chunk_size=chunk_size)
    got = run(edge, {"xs": [item], "question": "q"}, mode)["ys"][0]
    assert got is item or got == item


@pytest.mark.parametrize("mode", MODES)
def test_so_does_an_async_function_a_method_and_a_partial(mode: str) -> None:
    from functools import partial

    async def length(review: str) -> int:
        return len(review)

    class Rater:
        def rate(self, review: str, factor: int = 1) -> int:
            return factor * len(review)

    for target in (length, Rater().rate, partial(Rater().rate, factor=1)):
        assert run(vmap(target, batch_key="xs", out_key="ys"), {"xs": ["good", "bad!!"]}, mode) == {
            "ys": [4, 5]
        }


class Quacks(Protocol):
    def quack(self) -> None: ...


@pytest.mark.parametrize(
    "annotation", [Any, object, dict, dict[str, Any], MessagesState, Parent, Quacks, T, dict | None, None]
)
def test_a_function_of_a_state_gets_the_state(annotation: Any) -> None:
    edge = vmap(takes(annotation), batch_key="xs", out_key="ys")
    assert edge.invoke({"xs": ["a"], "topic": "t"})["ys"] == [{"xs": ["a"], "topic": "t", "item": "a"}]


def test_a_model_is_made_of_a_state_that_is_none() -> None:
    edge = vmap(takes(Page), batch_key="xs", out_key="ys", item_to_state=lambda text: {"text": text})
    assert edge.invoke({"xs": ["a"]}) == {"ys": [Page(text="a")]}
    edge = vmap(takes(Card), batch_key="xs", out_key="ys", item_to_state=lambda text: {"text": text})
    assert edge.invoke({"xs": ["a"]}) == {"ys": [Card("a")]}


def test_a_function_of_an_item_needs_an_item() -> None:
    def rate(review: str) -> int:
        return len(review)

    with pytest.raises(
        NodeError, match=r"the target rate takes one str, an item, but item_to_state= maps each item"
    ):
        vmap(rate, batch_key="xs", out_key="ys", item_to_state=lambda review: {"review": review})
    with pytest.raises(
        NodeError, match=r"the target rate takes one str, and a branch is called with the state"
    ):
        parallel([rate])
    assert vmap(takes(int), sample=3, out_key="ys").invoke({}) == {"ys": [0, 1, 2]}
