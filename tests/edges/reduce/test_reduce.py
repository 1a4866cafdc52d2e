"""`reduce_edge`: what it gives, and what it does with inputs that failed."""

import functools
import statistics
import threading
from typing import Any

import pytest
from langgraph.graph import END, START, StateGraph

from mahsm import connect, reduce_edge, vmap
from mahsm.errors import EdgeError, MissingKeyError, ReducerError, StateError
from mahsm.policies import ItemError, penalize
from mahsm.reducers import majority_vote, top_k
from mahsm.testing import item_error
from tests.helpers import MODES, STATES, DictState, SummedState, run


def failed(index: int = 0) -> ItemError:
    return item_error(ConnectionError("reset"), edge="vmap_read", index=index, item="a.txt")


def edge_of(reducer: Any = sum, **options: Any) -> Any:
    return reduce_edge(**{"input_key": "xs", "output_key": "ys", "reducer": reducer, **options})


async def last(values: list[Any]) -> Any:
    return values[-1]


async def last_with_state(values: list[Any], state: dict[str, Any]) -> Any:
    return values[-1] + state["bias"]


class Longest:
    def __call__(self, values: list[str]) -> str:
        return max(values, key=len)


REDUCERS: dict[str, tuple[Any, list[Any], Any]] = {
    "builtin": (max, [1, 3, 2], 3),
    "function": (statistics.median, [1, 3, 2], 2),
    "lambda": (lambda values: values[0], [1, 2], 1),
    "with the state": (lambda values, state: sum(values) + state["bias"], [1, 2], 103),
    "async": (last, [1, 2], 2),
    "async with the state": (last_with_state, [1, 2], 102),
    "async in a partial": (functools.partial(last), [1, 2], 2),
    "object": (Longest(), ["a", "bb"], "bb"),
    "of mahsm": (majority_vote, [1, 2, 2], 2),
    "of mahsm with options": (top_k(k=1), [1, 2], [2]),
    "gives an awaitable": (lambda values: last(values), [1, 2], 2),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("reducer", "xs", "expected"), REDUCERS.values(), ids=REDUCERS.keys())
def test_reducers_of_every_kind(reducer: Any, xs: list[Any], expected: Any, mode: str) -> None:
    assert run(edge_of(reducer), {"xs": xs, "bias": 100}, mode) == {"ys": expected}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("mode", MODES)
def test_in_a_graph(mode: str, state: Any) -> None:
    builder = StateGraph(state)
    assert run(connect(builder, START, edge_of(), END).compile(), {"xs": [1, 2]}, mode)["ys"] == 3


def test_parent_that_reduces_the_output_key_gets_it_once() -> None:
    graph = connect(StateGraph(SummedState), START, edge_of(lambda values: [sum(values)]), END).compile()
    assert graph.invoke({"xs": [1, 2], "ys": [0]})["ys"] == [0, 3]


async def test_a_blocking_reducer_does_not_block_the_loop() -> None:
    import asyncio

    begun, loop = asyncio.Event(), asyncio.get_running_loop()
    go_on = threading.Event()

    def waits(values: list[int]) -> int:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(10)
        return sum(values)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(edge_of(waits).ainvoke({"xs": [1, 2]}))
        await begun.wait()
        go_on.set()
    assert task.result() == {"ys": 3}


@pytest.mark.parametrize("mode", MODES)
def test_errors_are_dropped_by_default(mode: str) -> None:
    assert run(edge_of(), {"xs": [1, failed(), 2]}, mode) == {"ys": 3}


def test_errors_penalized() -> None:
    assert edge_of(errors=penalize(-10)).invoke({"xs": [1, failed(), 2]}) == {"ys": -7}


@pytest.mark.parametrize("mode", MODES)
def test_errors_raised_with_the_first_causes(mode: str) -> None:
    edge = edge_of(errors="raise")
    with pytest.raises(
        ReducerError,
        match=r"1 of 2 inputs failed.*first: item 1: ConnectionError: reset\. Pass errors='drop'",
    ):
        run(edge, {"xs": [1, failed(1)]}, mode)
    assert run(edge, {"xs": [1, 2]}, mode) == {"ys": 3}


def test_all_inputs_failed() -> None:
    with pytest.raises(
        ReducerError, match=r"all 2 inputs failed; first: item 0: ConnectionError: reset; item 1"
    ):
        edge_of().invoke({"xs": [failed(0), failed(1)]})


def test_the_reducers_own_error_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        edge_of(lambda values: 1 / len(values)).invoke({"xs": []})


def test_input_that_is_missing_or_no_list() -> None:
    with pytest.raises(
        MissingKeyError, match=r"reduce_sum: state has no key 'xs'; it has 'zs'\. Pass input_key='zs'"
    ):
        edge_of().invoke({"zs": [1]})
    with pytest.raises(StateError, match="expected a list of items"):
        edge_of().invoke({"xs": "abc"})


def test_after_a_vmap() -> None:
    def odd_fails(state: dict[str, Any]) -> int:
        return 10 // (1 - state["item"] % 2)

    each = vmap(odd_fails, batch_key="xs", out_key="ys", on_error="collect")
    total = reduce_edge(input_key="ys", output_key="bias", reducer=sum)
    assert (
        connect(StateGraph(DictState), START, each, total, END).compile().invoke({"xs": [0, 1, 2]})["bias"]
        == 20
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_key": None}, r"input_key=None; expected the name of a state key"),
        ({"reducer": "max"}, r"reducer='max' cannot be called; expected a function from a list"),
        ({"reducer": lambda: 1}, r"takes \(\); expected \(values\) or \(values, state\)"),
        ({"reducer": lambda a, b, c: 1}, r"takes \(a, b, c\); expected"),
        ({"errors": "skip"}, r"errors='skip'; expected one of 'drop', 'raise'"),
        ({"name": ""}, r"name=''; expected a node name"),
    ],
)
def test_bad_arguments_are_refused_when_built(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        edge_of(**options)
