"""How many items run at once: alone, nested, and under LangGraph's own bound."""

import asyncio
import sys
import threading
from collections.abc import Generator
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from mahsm import vmap
from mahsm.errors import EdgeError
from tests.helpers import MODES, DictState, Gauge, graph_of, run, run_edge


def gauged(gauge: Gauge, blocking: bool) -> Any:
    def work(state: dict[str, Any]) -> int:
        with gauge.inside():
            threading.Event().wait(0.002)
            while gauge.most < gauge.together:
                threading.Event().wait(0.002)
        return state["item"]

    async def work_async(state: dict[str, Any]) -> int:
        with gauge.inside():
            await asyncio.sleep(0.002)
            while gauge.most < gauge.together:
                await asyncio.to_thread(threading.Event().wait, 0.002)
        return state["item"]

    return work if blocking else work_async


def edge_of(target: Any, **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", **options})


@pytest.mark.parametrize("bound", [1, 3])
@pytest.mark.parametrize("size", [10, 200])
@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_never_more_than_max_concurrency_and_all_of_it(
    mode: str, blocking: bool, size: int, bound: int
) -> None:
    gauge = Gauge(together=bound)
    edge = edge_of(gauged(gauge, blocking), max_concurrency=bound)
    assert run_edge(edge, range(size), mode) == list(range(size))
    assert (gauge.most, gauge.total) == (bound, size)


@pytest.fixture
def busy_threads() -> Generator[None, None, None]:
    """Let threads give way to each other all the time, as on a busy machine."""
    seconds = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(seconds)


@pytest.mark.usefixtures("busy_threads")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk_size", [1, 2, None])
def test_one_at_a_time_is_in_order(chunk_size: int | None, mode: str) -> None:
    for _ in range(20):
        called: list[int] = []

        def work(state: dict[str, Any], called: list[int] = called) -> int:
            called.append(state["item"])
            return state["item"]

        graph = graph_of(
            edge_of(work, max_concurrency=1, chunk_size=chunk_size), checkpointer=InMemorySaver()
        )
        run(graph, {"xs": list(range(30))}, mode, {"configurable": {"thread_id": "1"}})
        assert called == list(range(30))


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None, "8"])
def test_max_concurrency_that_makes_no_sense_is_refused_when_built(value: Any) -> None:
    with pytest.raises(EdgeError, match=rf"max_concurrency={value!r}; expected an integer >= 1"):
        edge_of(lambda _: None, max_concurrency=value)


@pytest.mark.parametrize(("outer_bound", "inner_bound"), [(1, 1), (2, 1), (1, 2), (3, 3), (2, 8)])
@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_vmap_of_a_vmap_keeps_one_bound(
    mode: str, blocking: bool, outer_bound: int, inner_bound: int
) -> None:
    gauge = Gauge()
    inner = vmap(gauged(gauge, blocking), batch_key="row", out_key="ys", max_concurrency=inner_bound)
    outer = edge_of(inner, item_to_state=lambda row: {"row": row}, result="ys", max_concurrency=outer_bound)
    rows = [[1, 2, 3], [], [4], [5, 6, 7, 8]]
    assert run_edge(outer, rows, mode) == rows
    assert gauge.most <= outer_bound


@pytest.mark.parametrize("mode", MODES)
def test_three_levels_at_one(mode: str) -> None:
    gauge = Gauge()
    edge = vmap(gauged(gauge, blocking=False), batch_key="a", out_key="y", max_concurrency=1)
    for key, below in (("b", "a"), ("xs", "b")):
        edge = vmap(
            edge,
            batch_key=key,
            out_key="y",
            item_to_state=lambda x, k=below: {k: x},
            result="y",
            max_concurrency=1,
        )
    assert run(edge, {"xs": [[[1, 2], [3]], [[4]]]}, mode) == {"y": [[[1, 2], [3]], [[4]]]}
    assert gauge.most == 1


@pytest.mark.parametrize("mode", MODES)
def test_an_edge_called_inside_a_function_lends_the_slot_too(mode: str) -> None:
    gauge = Gauge()
    inner = vmap(gauged(gauge, blocking=True), batch_key="row", out_key="ys", max_concurrency=1)

    def both(state: dict[str, Any]) -> Any:
        first = inner.invoke(state)["ys"]
        return first + inner.invoke({"row": [9]})["ys"]

    outer = edge_of(both, item_to_state=lambda row: {"row": row}, max_concurrency=1)
    assert run_edge(outer, [[1, 2], [3]], mode) == [[1, 2, 9], [3, 9]]
    assert gauge.most == 1


async def test_edges_side_by_side_inside_an_item() -> None:
    gauge = Gauge(together=2)
    inner = vmap(gauged(gauge, blocking=False), batch_key="row", out_key="ys", max_concurrency=2)

    async def both(_: Any) -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(inner.ainvoke({"row": [place, place]})) for place in range(3)]
        return [task.result()["ys"] for task in tasks]

    outer = edge_of(both, max_concurrency=2)
    assert (await outer.ainvoke({"xs": [0]}))["ys"] == [[[0, 0], [1, 1], [2, 2]]]
    assert gauge.most == 2


@pytest.mark.parametrize("mode", MODES)
def test_the_slot_comes_back_when_the_edge_inside_fails(mode: str) -> None:
    gauge = Gauge()

    def fails(_: Any) -> None:
        raise ValueError("inside")

    inner = vmap(fails, batch_key="row", out_key="ys")

    def catches(state: dict[str, Any]) -> str:
        with pytest.raises(ValueError, match="inside"):
            inner.invoke({"row": [1]})
        with gauge.inside():
            threading.Event().wait(0.002)
        return "went on"

    async def catches_async(state: dict[str, Any]) -> str:
        with pytest.raises(ValueError, match="inside"):
            await inner.ainvoke({"row": [1]})
        with gauge.inside():
            await asyncio.sleep(0.002)
        return "went on"

    for target in (catches, catches_async):
        assert run_edge(edge_of(target, max_concurrency=2), range(6), mode) == ["went on"] * 6
    assert gauge.most <= 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("blocking", [True, False])
def test_langgraphs_bound_is_an_upper_bound(mode: str, blocking: bool) -> None:
    gauge = Gauge(together=2)
    graph = graph_of(edge_of(gauged(gauge, blocking), max_concurrency=8))
    run(graph, {"xs": list(range(30))}, mode, {"max_concurrency": 2})
    assert (gauge.most, gauge.total) == (2, 30)


def test_langgraph_takes_a_bound_of_0_for_none() -> None:
    gauge = Gauge(together=3)
    run(
        graph_of(edge_of(gauged(gauge, blocking=False), max_concurrency=3)),
        {"xs": [1] * 9},
        "async",
        {"max_concurrency": 0},
    )
    assert gauge.most == 3


@pytest.mark.parametrize("mode", MODES)
def test_a_bound_under_configurable_as_in_langgraphs_guide(mode: str) -> None:
    gauge = Gauge(together=3)
    inner = vmap(gauged(gauge, blocking=False), batch_key="row", out_key="ys")
    graph = graph_of(edge_of(inner, item_to_state=lambda row: {"row": row}, result="ys"))
    run(graph, {"xs": [[1, 2, 3, 4]] * 4}, mode, {"configurable": {"max_concurrency": 3}})
    assert (gauge.most, gauge.total) == (3, 16)


@pytest.mark.parametrize(
    ("config", "bound"),
    [
        ({"max_concurrency": 4, "configurable": {"max_concurrency": 2}}, 4),
        ({"configurable": {"max_concurrency": "2"}}, 6),
        ({"configurable": {"max_concurrency": True}}, 6),
        ({"configurable": {"max_concurrency": -1}}, 6),
        ({"configurable": {"max_concurrency": 2}}, 2),
    ],
    ids=str,
)
def test_the_bound_at_the_top_counts_first_and_other_values_under_configurable_are_no_bound(
    config: Any, bound: int
) -> None:
    gauge = Gauge(together=bound)
    edge = edge_of(gauged(gauge, blocking=False), max_concurrency=6)
    run(graph_of(edge), {"xs": list(range(30))}, "async", config)
    assert gauge.most == bound


@pytest.mark.parametrize("mode", MODES)
def test_langgraphs_bound_is_shared_by_edges_side_by_side_and_not_multiplied(mode: str) -> None:
    gauge = Gauge(together=3)
    builder = StateGraph(DictState)
    for name, key in (("a", "ys"), ("b", "errors")):
        builder.add_node(name, vmap(gauged(gauge, blocking=False), batch_key="xs", out_key=key))
        builder.add_edge(START, name)
        builder.add_edge(name, END)
    run(builder.compile(), {"xs": list(range(20))}, mode, {"max_concurrency": 3})
    assert (gauge.most, gauge.total) == (3, 40)


@pytest.mark.parametrize("mode", MODES)
def test_langgraphs_bound_is_not_multiplied_by_nesting(mode: str) -> None:
    gauge = Gauge(together=3)
    inner = vmap(gauged(gauge, blocking=False), batch_key="row", out_key="ys")
    outer = edge_of(inner, item_to_state=lambda row: {"row": row}, result="ys")
    run(graph_of(outer), {"xs": [[1, 2, 3, 4]] * 4}, mode, {"max_concurrency": 3})
    assert (gauge.most, gauge.total) == (3, 16)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("blocking", [True, False])
def test_bounds_of_every_kind_together_do_not_deadlock(mode: str, blocking: bool) -> None:
    gauge = Gauge()
    inner = vmap(gauged(gauge, blocking), batch_key="row", out_key="ys", max_concurrency=2)
    middle = vmap(
        inner, batch_key="rows", out_key="ys", item_to_state=lambda row: {"row": row}, max_concurrency=3
    )

    async def between(state: dict[str, Any]) -> Any:  # holds its slots before, between and after
        await asyncio.sleep(0.001)
        result = await middle.ainvoke(state)
        await asyncio.sleep(0.001)
        return result

    outer = edge_of(between, item_to_state=lambda rows: {"rows": rows}, max_concurrency=3)
    run(graph_of(outer), {"xs": [[[1, 2], [3]], [[4, 5, 6]], [[7]], []] * 3}, mode, {"max_concurrency": 1})
    assert (gauge.most, gauge.total) == (1, 21)


@pytest.mark.parametrize("mode", MODES)
def test_a_graph_inside_an_item_sees_the_users_bounds(mode: str) -> None:
    seen: list[Any] = []

    def look(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        seen.append((config.get("max_concurrency"), config["recursion_limit"]))
        return {"ys": 1}

    builder = StateGraph(DictState)
    builder.add_node("look", look)
    builder.add_edge(START, "look")
    edge = edge_of(builder.compile(name="inside"), item_to_state=lambda x: {"xs": x})
    run(graph_of(edge), {"xs": [1]}, mode, {"max_concurrency": 5, "recursion_limit": 77})
    assert seen == [(5, 77)]


@pytest.mark.parametrize("mode", MODES)
def test_few_outer_items_are_open_at_once(mode: str) -> None:
    """An item whose slot is lent is still open: a thousand outer items must not all begin."""
    opened = Gauge()
    inner = vmap(gauged(Gauge(), blocking=False), batch_key="row", out_key="ys")

    async def outer_target(state: dict[str, Any]) -> Any:
        with opened.inside():
            return (await inner.ainvoke(state))["ys"]

    edge = edge_of(outer_target, item_to_state=lambda row: {"row": row}, max_concurrency=4)
    run_edge(edge, [[1, 2]] * 50, mode)
    assert opened.most <= 4
