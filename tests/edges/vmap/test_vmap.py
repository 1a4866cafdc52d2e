"""What `vmap` gives for what batch."""

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import HumanMessage
from langgraph.graph import END, START, StateGraph

from mahsm import connect, vmap
from mahsm.errors import MissingKeyError, StateError
from tests.helpers import MODES, STATES, DictState, MessagesState, SummedState, graph_of, run, run_edge


def double(state: dict[str, Any]) -> int:
    return state["item"] * 2


async def double_async(state: dict[str, Any]) -> int:
    await asyncio.sleep(0)
    return state["item"] * 2


TARGETS = (double, double_async)


def edge_of(target: Any = double, **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", **options})


@pytest.mark.parametrize("size", [1, 5, 300])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", TARGETS)
def test_calls_the_target_for_each_item(target: Any, mode: str, state: Any, size: int) -> None:
    result = run(graph_of(edge_of(target), state=state), {"xs": list(range(size))}, mode)
    assert result["ys"] == [x * 2 for x in range(size)]


@pytest.mark.parametrize("mode", MODES)
def test_returns_only_its_update(mode: str) -> None:
    assert run(edge_of(), {"xs": [1], "other": "kept out"}, mode) == {"ys": [2]}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("mode", MODES)
def test_lays_the_item_over_the_parents_state(mode: str, state: Any) -> None:
    edge = edge_of(lambda s: s["x"] + s["bias"], item_to_state=lambda x: {"x": x})
    assert run(graph_of(edge, state=state), {"xs": [1, 2], "bias": 10}, mode)["ys"] == [11, 12]


def test_messages_of_the_parent_are_neither_lost_nor_doubled() -> None:
    edge = edge_of(lambda s: f"{s['messages'][-1].content} {s['item']}")
    result = graph_of(edge, state=MessagesState).invoke(
        {"messages": [HumanMessage("read")], "xs": ["a", "b"]}
    )
    assert result["ys"] == ["read a", "read b"]
    assert [message.content for message in result["messages"]] == ["read"]


@pytest.mark.parametrize("result", ["y", lambda update: update["y"]])
def test_result_takes_a_part_of_the_update(result: Any) -> None:
    assert run_edge(edge_of(lambda s: {"y": s["item"], "z": 0}, result=result), [1, 2], "sync") == [1, 2]


def test_result_names_the_keys_there_are() -> None:
    with pytest.raises(
        MissingKeyError, match=r"result='why', but the update has no key 'why'; it has 'y', 'z'"
    ):
        run_edge(edge_of(lambda _: {"y": 1, "z": 2}, result="why"), [1], "sync")


def test_result_of_what_is_no_update_says_what_there_was() -> None:
    with pytest.raises(MissingKeyError, match=r"result='y', but the target returned 3\."):
        run_edge(edge_of(lambda _: 3, result="y"), [1], "sync")


def test_overlay_must_be_a_dict() -> None:
    with pytest.raises(StateError, match=r"item_to_state returned 1; expected a dict"):
        run_edge(edge_of(item_to_state=lambda x: x), [1], "sync")


async def test_keeps_order_when_the_first_is_slowest() -> None:
    last_done = asyncio.Event()

    async def first_waits(state: dict[str, Any]) -> int:
        if state["item"] == 0:
            await last_done.wait()
        elif state["item"] == 4:
            last_done.set()
        return state["item"]

    assert await edge_of(first_waits).ainvoke({"xs": range(5)}) == {"ys": [0, 1, 2, 3, 4]}


@pytest.mark.parametrize("mode", MODES)
def test_completion_order_when_order_is_not_kept(mode: str) -> None:
    turns = [threading.Event() for _ in range(4)]

    def backwards(state: dict[str, Any]) -> int:
        item = state["item"]
        assert item == 3 or turns[item].wait(10)
        time.sleep(0.01)  # until the item that gave the turn has ended
        return item

    def give_turn(item: int) -> int:
        turns[item - 1].set()
        return item

    assert run_edge(edge_of(backwards, preserve_order=False, result=give_turn), range(4), mode) == [
        3,
        2,
        1,
        0,
    ]


@pytest.mark.parametrize("mode", MODES)
def test_empty_batch_gives_an_empty_list_and_the_graph_goes_on(mode: str) -> None:
    def never(_: Any) -> None:
        raise AssertionError("called for an empty batch")

    builder = StateGraph(DictState)
    builder.add_node("after", lambda state: {"bias": len(state["ys"]) + 1})
    graph = connect(
        builder, START, edge_of(never, on_error="drop", errors_key="errors"), "after", END
    ).compile()
    assert run(graph, {"xs": []}, mode) == {"xs": [], "ys": [], "errors": [], "bias": 1}


BATCHES = {
    "tuple": lambda: (1, 2, 3),
    "range": lambda: range(1, 4),
    "generator": lambda: (x for x in [1, 2, 3]),
    "array": lambda: np.array([1, 2, 3]),
    "values": lambda: {"a": 1, "b": 2, "c": 3}.values(),
    "keys": lambda: {1: "a", 2: "b", 3: "c"}.keys(),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
def test_takes_whatever_has_items(batch: Any, mode: str) -> None:
    assert run_edge(edge_of(), batch(), mode) == [2, 4, 6]


BAD_BATCHES = {
    "none": (None, r"is None; expected a list of items\. Let the node before write 'xs'"),
    "text": ("abc", r"is 'abc', of type str; expected a list of items\. Wrap it in a list: \[xs\]"),
    "mapping": ({"a": 1}, r"a mapping; expected a list.*list\(xs\.values\(\)\)"),
    "set": ({1, 2}, r"a set, whose order changes from process to process.*sorted\(xs\)"),
    "number": (7, r"of type int, which has no items"),
    "scalar array": (np.array(7), r"of type ndarray, which has no items"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("batch", "message"), BAD_BATCHES.values(), ids=BAD_BATCHES.keys())
def test_what_is_no_batch_is_an_error_that_says_what_to_do(batch: Any, message: str, mode: str) -> None:
    with pytest.raises(StateError, match=message):
        run_edge(edge_of(), batch, mode)


@pytest.mark.parametrize("mode", MODES)
def test_missing_key_lists_the_keys_there_are(mode: str) -> None:
    with pytest.raises(
        MissingKeyError, match=r"no key 'docs'; it has 'question', 'files'\. Pass batch_key='files'"
    ) as caught:
        run(edge_of(batch_key="docs"), {"question": "?", "files": ["a"]}, mode)
    assert isinstance(caught.value, KeyError)


def test_missing_key_without_any_list() -> None:
    with pytest.raises(MissingKeyError, match=r"it has no keys at all\. Let the node before write 'xs'"):
        edge_of().invoke({})


def test_state_that_is_none_of_the_known_kinds() -> None:
    with pytest.raises(
        StateError, match=r"the state is 7, of type int; expected a dict, a dataclass or a pydantic model"
    ):
        edge_of().invoke(7)


@pytest.mark.parametrize("mode", MODES)
def test_same_edge_twice_in_one_graph_and_in_two_graphs(mode: str) -> None:
    edge = edge_of()
    builder = StateGraph(DictState)
    builder.add_node("first", edge)
    builder.add_node("again", lambda state: {"xs": state["ys"]})
    builder.add_node("second", edge)
    graph = connect(builder, START, "first", "again", "second", END).compile()
    assert run(graph, {"xs": [1, 2]}, mode)["ys"] == [4, 8]
    assert run(graph_of(edge), {"xs": [3]}, mode)["ys"] == [6]


@pytest.mark.parametrize("mode", MODES)
def test_in_a_loop(mode: str) -> None:
    builder = StateGraph(DictState)
    builder.add_node("edge", edge_of())
    builder.add_node("again", lambda state: {"xs": state["ys"]})
    connect(builder, START, "edge", "again")
    builder.add_conditional_edges("again", lambda state: END if state["xs"][0] > 10 else "edge")
    assert run(builder.compile(), {"xs": [1, 3]}, mode)["ys"] == [16, 48]


@pytest.mark.parametrize("mode", MODES)
def test_parent_that_reduces_the_out_key_gets_each_entry_once(mode: str) -> None:
    graph = graph_of(edge_of(name="once"), edge_of(name="twice"), state=SummedState)
    assert run(graph, {"xs": [1, 2], "ys": [0]}, mode)["ys"] == [0, 2, 4, 2, 4]


@pytest.mark.parametrize("mode", MODES)
def test_more_items_than_one_wave_of_tasks(mode: str) -> None:
    assert run_edge(edge_of(chunk_size=1), range(600), mode) == [x * 2 for x in range(600)]


def test_a_small_recursion_limit_of_the_user_is_not_spent_on_waves() -> None:
    result = graph_of(edge_of(chunk_size=1)).invoke({"xs": range(600)}, {"recursion_limit": 3})
    assert len(result["ys"]) == 600


def test_as_many_blocking_items_run_as_may_run_at_the_same_time() -> None:
    wide = 1100
    together = threading.Barrier(wide)
    edge = vmap(lambda _: together.wait(60) >= 0, batch_key="xs", out_key="ys", max_concurrency=wide)
    assert edge.invoke({"xs": list(range(wide))})["ys"] == [True] * wide
