"""What used to wait for ever: blocking edges in few slots, blocking calls inside of awaited ones, and errors
that end loops."""

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from mahsm import Branch, RateLimit, limits, parallel, vmap
from mahsm.policies import Retry
from tests.helpers import MODES, BranchState, DictState, Gauge, graph_of, run, run_edge, thread
from tests.watchdog import ended


def edge_of(target: Any, **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", **options})


# A blocking edge inside of a blocking edge, when an inner item fails.


def fifth_fails(state: dict[str, Any]) -> int:
    threading.Event().wait(0.0005)
    if state["item"] == 5:
        raise ValueError("bad")
    return state["item"]


INNER = vmap(fifth_fails, batch_key="row", out_key="ys", max_concurrency=64, name="inner")
ROWS = {"xs": [list(range(100))] * 3, "row": list(range(100))}


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({"max_concurrency": 1}, {}),
        ({"max_concurrency": 1, "on_error": "collect"}, {}),
        ({}, {"max_concurrency": 1}),
        ({}, {"max_concurrency": 2}),
    ],
)
def test_the_error_of_an_inner_item_comes_out(options: Any, config: Any) -> None:
    edge = edge_of(INNER, item_to_state=lambda row: {"row": row}, result="ys", **options)
    for _ in range(5):
        if options.get("on_error") == "collect":
            ys = ended(lambda: edge.invoke(ROWS, config))["ys"]
            assert [y["message"] for y in ys] == ["bad"] * 3
        else:
            with pytest.raises(ValueError, match="bad"):
                ended(lambda: edge.invoke(ROWS, config))


def test_the_error_of_an_item_in_a_branch_comes_out() -> None:
    branches = [Branch(INNER, name="rows", writes=["ys"]), Branch(lambda _: {"z": 1}, name="beside")]
    edge = parallel(branches, max_concurrency=1)
    for _ in range(5):
        with pytest.raises(ValueError, match="bad"):
            ended(lambda: edge.invoke(ROWS))


# A blocking call of an edge inside of an awaited call.


async def leaf(state: dict[str, Any]) -> int:
    await asyncio.sleep(0.001)
    return state["item"] * 2


def blocking_leaf(state: dict[str, Any]) -> int:
    threading.Event().wait(0.001)
    return state["item"] * 2


@pytest.mark.parametrize("config", [{}, {"max_concurrency": 1}, {"max_concurrency": 2}], ids=str)
@pytest.mark.parametrize("bound", [1, 4])
@pytest.mark.parametrize("inside", [leaf, blocking_leaf])
@pytest.mark.parametrize("how", ["edge", "graph", "thread"])
@pytest.mark.parametrize("mode", MODES)
def test_an_awaited_call_that_blocks_for_an_edge(
    mode: str, how: str, inside: Any, bound: int, config: Any
) -> None:
    gauge = Gauge()

    async def gauged(state: dict[str, Any]) -> Any:
        with gauge.inside():
            return await inside(state) if inside is leaf else inside(state)

    inner = edge_of(
        gauged if inside is leaf else lambda state: gauge_blocking(gauge, state), max_concurrency=3
    )
    graph = graph_of(inner)

    async def target(state: dict[str, Any]) -> Any:
        given = {"xs": [state["item"], state["item"] + 1, state["item"] + 2]}
        if how == "thread":
            return (await asyncio.to_thread(inner.invoke, given, config))["ys"]
        return (inner.invoke(given, config) if how == "edge" else graph.invoke(given, config))["ys"]

    edge = edge_of(target, max_concurrency=bound)
    ys = ended(lambda: run(edge, {"xs": [1, 2, 3]}, mode, config))["ys"]
    assert ys == [[2, 4, 6], [4, 6, 8], [6, 8, 10]]
    assert gauge.most <= min(bound, config.get("max_concurrency", bound))
    assert ended(lambda: run_edge(edge_of(leaf), [1], "sync")) == [2], "and the process works on"


def gauge_blocking(gauge: Gauge, state: dict[str, Any]) -> int:
    with gauge.inside():
        return blocking_leaf(state)


def test_blocking_calls_inside_of_awaited_ones_inside_of_blocking_ones() -> None:
    async def third(state: dict[str, Any]) -> int:
        return edge_of(leaf).invoke({"xs": [state["item"]]})["ys"][0] + 1

    async def second(state: dict[str, Any]) -> int:
        return edge_of(third).invoke({"xs": [state["item"]]})["ys"][0] + 1

    assert ended(lambda: edge_of(second).invoke({"xs": [1, 2]})["ys"]) == [4, 6]


# Exceptions that are none of Exception's.


class Unusual(BaseException):
    """Neither an Exception nor one that asyncio knows."""


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, Unusual])
@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("shape", ["vmap", "alone", "parallel"])
def test_other_exceptions_come_out_and_stop_the_rest(
    shape: str, blocks: bool, kind: type[BaseException]
) -> None:
    """Under `invoke`; under `ainvoke` they end the event loop of the user, which is asyncio's way."""
    calls: list[int] = []
    third = threading.Event()

    def raises(state: dict[str, Any]) -> dict[str, Any]:
        calls.append(state.get("item", 3))
        if calls[-1] == 3:
            third.set()
            raise kind("out")
        third.wait(0.01)
        return {"a": 1}

    async def raises_async(state: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0)
        return raises(state)

    target = raises if blocks else raises_async
    if shape == "parallel":
        after = Branch(lambda _: {"b": 1}, name="b", after="a")
        edge = parallel([Branch(target, name="a", writes=["a"]), after], scheduler="wave")
    else:
        edge = edge_of(target, max_concurrency=4, chunk_size=1 if shape == "alone" else None)
    with pytest.raises(kind, match="out"):
        ended(lambda: edge.invoke({"xs": list(range(400))}))
    assert len(calls) < 100, "the rest was not called"
    assert ended(lambda: run_edge(edge_of(leaf), [1], "sync")) == [2], "and the process works on"


def test_a_task_of_the_targets_own_does_not_end_the_loop_for_others() -> None:
    async def exits() -> None:
        raise SystemExit("a task")

    async def target(_: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(exits())

    with pytest.raises(BaseException, match="a task"):
        ended(lambda: edge_of(target).invoke({"xs": [1]}))
    assert ended(lambda: run_edge(edge_of(leaf), [1, 2], "sync")) == [2, 4]


FORKS = """
import asyncio, os
from mahsm import vmap

async def leaf(state):
    return state["item"] * 2

def forks(state):
    child = os.fork()
    if child == 0:
        os._exit(0 if vmap(leaf, batch_key="xs", out_key="ys").invoke({"xs": [1, 2]})["ys"] == [2, 4] else 1)
    return os.waitpid(child, 0)[1]

vmap(leaf, batch_key="xs", out_key="ys").invoke({"xs": [1]})
print(vmap(forks, batch_key="xs", out_key="ys", max_concurrency=1).invoke({"xs": [1]})["ys"])
"""


def test_an_edge_in_a_child_process_that_was_forked_inside_of_an_item() -> None:
    """In a process of its own: other libraries warn of forks as soon as they are imported."""
    found = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.split() == ["[0]"]


def test_a_node_that_blocks_for_an_edge_beside_others_under_ainvoke() -> None:
    """The node's thread is one of the loop's few."""
    inner = edge_of(leaf, max_concurrency=2)

    def node(state: Any) -> Any:
        return {"ys": inner.invoke({"xs": state["xs"]})["ys"]}

    builder = StateGraph(DictState)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    outer = edge_of(builder.compile(), item_to_state=lambda x: {"xs": [x]}, result="ys", max_concurrency=16)
    assert ended(lambda: run_edge(outer, range(40), "async")) == [[x * 2] for x in range(40)]


@pytest.mark.parametrize("mode", MODES)
def test_retries_and_tokens_and_a_checkpointer(mode: str) -> None:
    """An item that waits for tokens holds the right to be not saved; others hold slots, and must not wait for
    that right."""

    async def target(state: dict[str, Any]) -> int:
        for _ in range(state["item"] % 3):
            await asyncio.sleep(0)
        return state["item"]

    for number in range(30):
        limit = RateLimit(f"no-hangs-{mode}-{number}", rps=2000, burst=5)
        edge = edge_of(target, max_concurrency=4, retry=Retry(attempts=4, base=0), rate_limit=limit)
        graph = graph_of(edge, checkpointer=InMemorySaver())
        found = ended(lambda graph=graph: run(graph, {"xs": list(range(18))}, mode, thread()))
        assert found["ys"] == list(range(18))
        limits.forget(f"no-hangs-{mode}-{number}")


def asks(state: dict[str, Any]) -> Any:
    return {"a": interrupt(state.get("item", "?"))}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", ["items", "rows", "branches"])
def test_more_interrupts_than_may_be_not_saved(shape: str, mode: str) -> None:
    items = edge_of(asks, chunk_size=1, max_concurrency=2, result="a")
    rows = vmap(
        items,
        batch_key="xs",
        out_key="ys",
        item_to_state=lambda x: {"xs": [x]},
        max_concurrency=2,
        result="ys",
    )
    branches = parallel(
        [Branch(asks, name=f"b{place}") for place in range(12)],
        max_concurrency=2,
        merge=lambda _, updates: updates["b3"],
    )
    edge = {"items": items, "rows": rows, "branches": branches}[shape]
    graph = graph_of(
        edge, state=BranchState if shape == "branches" else DictState, checkpointer=InMemorySaver()
    )
    given: Any = {"text": ""} if shape == "branches" else {"xs": list(range(12))}
    questions = ended(lambda: run(graph, given, mode, thread()))["__interrupt__"]
    assert len(questions) == 12
    answers = Command(resume={question.id: 7 for question in questions})
    state = ended(lambda: run(graph, answers, mode, thread()))
    assert state.get("ys", state.get("a")) in ([7] * 12, [[7]] * 12, 7)
