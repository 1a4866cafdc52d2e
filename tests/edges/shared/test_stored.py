"""What checkpoints store of a result: once by the edge, beside the state's own copies."""

import asyncio
import random
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any, TypedDict, cast

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph

from mahsm import parallel, vmap
from tests.helpers import MODES, graph_of, thread

ITEMS = 600
WAVE = 256
SIZE = 1000


class State(TypedDict, total=False):
    xs: list[int]
    ys: list[bytes]
    left: bytes
    right: bytes


def work(state: dict[str, Any]) -> bytes:
    return random.randbytes(SIZE)


def stored(node: Any, folder: Path, **config: Any) -> int:
    """The bytes that a run of a graph with one node has stored."""
    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    with sqlite3.connect(folder / "saver.db", check_same_thread=False) as database:
        graph: Any = builder.compile(checkpointer=SqliteSaver(database))
        graph.invoke({"xs": list(range(ITEMS))}, thread(), **config)
        sums = [
            database.execute(f"SELECT SUM(LENGTH({column})) FROM {table}").fetchone()[0]
            for table, column in [("checkpoints", "checkpoint"), ("writes", "value")]
        ]
    database.close()
    return sum(sums)


@pytest.mark.parametrize("options", [{}, {"chunk_size": 1, "max_concurrency": 1}, {"chunk_size": 2}])
def test_an_edge_stores_a_result_once_more_than_a_node(options: dict[str, Any], tmp_path: Path) -> None:
    def node(state: State) -> State:
        return {"ys": [random.randbytes(SIZE) for _ in range(ITEMS)]}

    (tmp_path / "node").mkdir()
    of_node = stored(node, tmp_path / "node")
    of_edge = stored(vmap(work, batch_key="xs", out_key="ys", **options), tmp_path)
    per_result = (of_edge - of_node) / ITEMS
    assert SIZE <= per_result <= 1.4 * SIZE, "and the tasks' own records"


def test_a_branch_stores_its_update_once_more_than_a_node(tmp_path: Path) -> None:
    big = 100 * SIZE

    def node(state: State) -> State:
        return {"left": random.randbytes(big), "right": random.randbytes(big)}

    def left(state: State) -> State:
        return {"left": random.randbytes(big)}

    def right(state: State) -> State:
        return {"right": random.randbytes(big)}

    (tmp_path / "node").mkdir()
    of_node = stored(node, tmp_path / "node")
    of_edge = stored(parallel([left, right], name="edge"), tmp_path)
    assert of_edge - of_node <= 1.1 * 2 * big


class ShallowSaver(InMemorySaver):
    """Keeps the last checkpoint of each namespace only, and its writes."""

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        kept = super().put(config, checkpoint, metadata, new_versions)
        own = cast("dict[str, Any]", kept)["configurable"]
        checkpoints = self.storage[own["thread_id"]][own["checkpoint_ns"]]
        for older in [one for one in checkpoints if one != own["checkpoint_id"]]:
            del checkpoints[older]
            self.writes.pop((own["thread_id"], own["checkpoint_ns"], older), None)
        return kept


@pytest.mark.parametrize("saver", [InMemorySaver, ShallowSaver])
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("mode", MODES)
def test_waves_that_have_ended_are_not_called_again(saver: Any, durability: Any, mode: str) -> None:
    calls: Counter[int] = Counter()

    def fails_once(state: dict[str, Any]) -> int:
        calls[state["item"]] += 1
        if state["item"] == ITEMS - 5 and calls[state["item"]] == 1:
            raise ConnectionError("down")
        return state["item"] * 2

    async def fails_once_later(state: dict[str, Any]) -> int:
        return fails_once(state)

    target = fails_once if mode == "sync" else fails_once_later
    edge = vmap(target, batch_key="xs", out_key="ys", name="edge", chunk_size=1, max_concurrency=1)
    graph = graph_of(edge, checkpointer=saver())

    def invoked(given: Any) -> Any:
        if mode == "sync":
            return graph.invoke(given, thread(), durability=durability)
        return asyncio.run(graph.ainvoke(given, thread(), durability=durability))

    with pytest.raises(ConnectionError, match="down"):
        invoked({"xs": list(range(ITEMS))})
    assert invoked(None)["ys"] == [x * 2 for x in range(ITEMS)]
    again = [item for item, count in calls.items() if count > 1]
    if (mode, durability) == ("sync", "exit"):
        # LangGraph saves once, at the end, and without threads that are still ending then.
        assert all(item >= 2 * WAVE for item in again)
    else:
        assert again == [ITEMS - 5]


@pytest.mark.parametrize(("first", "second"), [("exit", "async"), ("async", "exit")])
@pytest.mark.parametrize("mode", MODES)
def test_a_run_goes_on_with_another_durability(first: Any, second: Any, mode: str) -> None:
    calls: Counter[int] = Counter()

    async def fails_once(state: dict[str, Any]) -> int:
        calls[state["item"]] += 1
        if state["item"] == 590 and calls[590] == 1:
            raise ConnectionError("down")
        return state["item"] * 2

    edge = vmap(fails_once, batch_key="xs", out_key="ys", name="edge", chunk_size=1, max_concurrency=1)
    graph = graph_of(edge, checkpointer=InMemorySaver())

    def invoked(given: Any, durability: Any) -> Any:
        if mode == "sync":
            return graph.invoke(given, thread(), durability=durability)
        return asyncio.run(graph.ainvoke(given, thread(), durability=durability))

    with pytest.raises(ConnectionError, match="down"):
        invoked({"xs": list(range(600))}, first)
    assert invoked(None, second)["ys"] == [2 * x for x in range(600)]
    assert sum(count > 1 for count in calls.values()) < 300
