"""What an edge writes to keys that the parent's state reduces: one value a key where that says the same, as
one node writes."""

import asyncio
import operator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.channels import BinaryOperatorAggregate
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Overwrite
from typing_extensions import TypedDict

from mahsm import connect, parallel, vmap
from mahsm.edges._shared.writes import update_of
from tests.helpers import MODES


def larger(left: int, right: int) -> int:
    return max(left, right)


@dataclass
class Joins:
    """A reducer that cannot be a key."""

    def __call__(self, left: list[Any], right: list[Any]) -> list[Any]:
        return left + right


class State(TypedDict):
    xs: list[Any]
    ys: Annotated[list[Any], operator.add]
    text: Annotated[str, operator.add]
    seen: Annotated[set[Any], operator.or_]
    messages: Annotated[list[Any], add_messages]
    best: Annotated[int, larger]


def write(state: Any) -> dict[str, Any]:
    item = state["item"]
    return {"ys": [item], "text": item, "seen": {item}, "messages": [HumanMessage(item, id=item)]}


def graph_of(edge: Any) -> Any:
    return connect(StateGraph(State), START, edge, END).compile()


def updates(graph: Any, state: Any, mode: str, **options: Any) -> list[Any]:
    if mode == "sync":
        return list(graph.stream(state, stream_mode="updates", **options))

    async def collect() -> list[Any]:
        return [chunk async for chunk in graph.astream(state, stream_mode="updates", **options)]

    return asyncio.run(collect())


@pytest.mark.parametrize("mode", MODES)
def test_the_update_of_a_vmap_is_one_dict(mode: str) -> None:
    keys = ["ys", "text", "seen", "messages"]
    graph = graph_of(vmap(write, batch_key="xs", out_key=keys, name="n"))
    for xs in (["a", "b", "c"], ["a"]):
        update = {
            "ys": xs,
            "text": "".join(xs),
            "seen": set(xs),
            "messages": [HumanMessage(x, id=x) for x in xs],
        }
        assert updates(graph, {"xs": xs}, mode) == [{"n": update}]


@pytest.mark.parametrize("mode", MODES)
def test_so_is_that_of_parallel(mode: str) -> None:
    branches = {"a": lambda _: {"ys": [1], "best": 1}, "b": lambda _: {"ys": [2], "xs": []}}
    assert updates(graph_of(parallel(branches, name="n")), {"xs": []}, mode) == [
        {"n": {"xs": [], "ys": [1, 2], "best": 1}}
    ]


@pytest.mark.parametrize("mode", MODES)
def test_values_that_only_the_reducer_can_put_together_are_shown_one_by_one(mode: str) -> None:
    graph = graph_of(
        vmap(
            lambda state: {"best": state["item"], "ys": [1]}, batch_key="xs", out_key=["ys", "best"], name="n"
        )
    )
    assert updates(graph, {"xs": [3, 5]}, mode) == [
        {"n": [{"ys": [1]}, {"best": 3}, {"ys": [1]}, {"best": 5}]}
    ]
    assert graph.invoke({"xs": [3, 5]})["best"] == 5


async def test_events_show_a_plain_update() -> None:
    graph = graph_of(vmap(write, batch_key="xs", out_key=["ys"], name="n"))
    events = [event async for event in graph.astream_events({"xs": ["a", "b"]}, version="v2")]
    ends = [
        event["data"]["output"]
        for event in events
        if event["event"] == "on_chain_end" and event["name"] == "n"
    ]
    assert {"ys": ["a", "b"]} in ends


def several(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=2, max_size=5)


numbers = st.integers(0, 4)
messages = st.lists(
    st.one_of(
        st.builds(HumanMessage, st.just("hi"), id=st.sampled_from("abcd")),
        st.builds(AIMessage, st.just("ho"), id=st.just("e")),
    ),
    max_size=3,
)
REDUCED = st.one_of(
    *(
        st.tuples(st.just(operator.add), several(values))
        for values in (
            st.lists(numbers),
            st.tuples(numbers),
            st.text(max_size=2),
            numbers,
            st.floats(allow_nan=False),
        )
    ),
    *(
        st.tuples(st.just(operator.or_), several(values))
        for values in (st.dictionaries(numbers, numbers), st.sets(numbers), numbers, st.frozensets(numbers))
    ),
    st.tuples(st.just(add_messages), several(messages)),
    st.tuples(st.just(max), several(numbers)),
)


@given(REDUCED)
def test_a_reducer_makes_the_same_of_what_is_written(given: tuple[Any, list[Any]]) -> None:
    reducer, [before, *values] = given
    one_by_one, written = BinaryOperatorAggregate(object, reducer), BinaryOperatorAggregate(object, reducer)
    one_by_one.value = written.value = before
    one_by_one.update(values)
    update: Any = update_of([("key", value) for value in values], {"key": reducer}, {"key": before})
    written.update([value for _, value in update.update] if isinstance(update, Command) else [update["key"]])
    assert written.value == one_by_one.value


@pytest.mark.parametrize(
    ("reducer", "before", "values"),
    [
        (add_messages, [HumanMessage("a", id="a")], [[RemoveMessage("a")], [HumanMessage("b", id="a")]]),
        (add_messages, [], [("user", "a"), ("user", "b")]),
        (operator.add, [], [[1], Overwrite([2])]),
        (operator.add, np.array([1, 2]), [[1, 2], [3, 4]]),
        (operator.add, 0.1, [1, 2]),
        (operator.add, [], [[1], (2,)]),
        (lambda left, right: [*left, *right], [], [[1], [2]]),
        (Joins(), [], [[1], [2]]),
        (None, [], [[1], [2]]),
    ],
)
def test_what_may_not_be_the_same_is_written_one_by_one(reducer: Any, before: Any, values: list[Any]) -> None:
    update = update_of(
        [("key", value) for value in values], {"key": reducer} if reducer else {}, {"key": before}
    )
    assert isinstance(update, Command)
    assert update.update == [("key", value) for value in values]
