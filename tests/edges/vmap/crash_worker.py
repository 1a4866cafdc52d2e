"""Run a graph until somebody kills this process; every item that is called or done is noted in a file.

    python crash_worker.py async|sync DIRECTORY KIND [max_concurrency of the config]

KIND is plain, nested, chunk1, or wave, for branches instead of items. A directory that has a checkpoint
already is resumed.
"""

import asyncio
import operator
import os
import random
import sys
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph

from mahsm import Branch, connect, parallel, vmap

ITEMS = 1000
NO_FSYNC = "PRAGMA synchronous=OFF"
"""A process that is killed loses nothing that the system has; a disk that stalls would be measured here, and
not the edge."""
LATENCY = 0.012  # seconds; 8 at a time finish about 650 items a second


class State(TypedDict):
    xs: list[Any]
    ys: list[Any]


class Notes:
    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def done(self, item: int) -> None:
        os.write(self.file, b"%d\n" % item)


def latency(item: int) -> float:
    return LATENCY * random.Random(item).uniform(0.2, 1.8)


def build(mode: str, directory: Path, kind: str) -> StateGraph[Any, Any, Any, Any]:
    notes = Notes(directory / "done")

    def work(state: dict[str, Any]) -> int:
        time.sleep(latency(state["item"]))
        notes.done(state["item"])
        return state["item"] * 2

    async def work_async(state: dict[str, Any]) -> int:
        await asyncio.sleep(latency(state["item"]))
        notes.done(state["item"])
        return state["item"] * 2

    target = work_async if mode == "async" else work
    if kind == "wave":
        return waves(notes, mode)
    edge = vmap(target, batch_key="xs", out_key="ys", chunk_size=1 if kind == "chunk1" else None)
    if kind == "nested":
        inner = vmap(target, batch_key="rows", out_key="ys")
        edge = vmap(inner, batch_key="xs", out_key="ys", item_to_state=lambda row: {"rows": row}, result="ys")
    builder = StateGraph(State)
    builder.add_node("edge", edge)
    builder.add_edge(START, "edge")
    return builder


def waves(notes: Notes, mode: str) -> StateGraph[Any, Any, Any, Any]:
    """Ten layers of ten branches, each after two of the layer before; eager under asyncio."""

    def branch(number: int) -> Branch:
        def work(state: dict[str, Any]) -> Any:
            time.sleep(latency(number))
            notes.done(number)
            return {"ys": {number: sum(state["ys"].get(need, 0) for need in needs) + 1}}

        async def work_async(state: dict[str, Any]) -> Any:
            await asyncio.sleep(latency(number))
            notes.done(number)
            return {"ys": {number: sum(state["ys"].get(need, 0) for need in needs) + 1}}

        needs = [] if number < 10 else [number - 10, number - number % 10 - 10 + (number + 3) % 10]
        names = sorted({f"b{need}" for need in needs})
        return Branch(work_async if mode == "async" else work, name=f"b{number}", after=names)

    edge = parallel(
        [branch(number) for number in range(100)], scheduler="wave", eager=mode == "async", max_concurrency=4
    )
    return connect(StateGraph(Tree), START, edge, END)


class Tree(TypedDict):
    xs: list[Any]
    ys: Annotated[dict[int, int], operator.or_]


def batch(kind: str) -> list[Any]:
    return (
        [list(range(lo, lo + 100)) for lo in range(0, ITEMS, 100)] if kind == "nested" else list(range(ITEMS))
    )


async def run_async(directory: Path, kind: str, config: Any) -> Any:
    async with AsyncSqliteSaver.from_conn_string(str(directory / "checkpoints")) as saver:
        await saver.conn.execute(NO_FSYNC)
        graph = build("async", directory, kind).compile(checkpointer=saver)
        resumed = (await graph.aget_state(config)).created_at is not None
        return await graph.ainvoke(None if resumed else {"xs": batch(kind)}, config)


def run_sync(directory: Path, kind: str, config: Any) -> Any:
    with SqliteSaver.from_conn_string(str(directory / "checkpoints")) as saver:
        saver.conn.execute(NO_FSYNC)
        graph = build("sync", directory, kind).compile(checkpointer=saver)
        resumed = graph.get_state(config).created_at is not None
        return graph.invoke(None if resumed else {"xs": batch(kind)}, config)


def main() -> None:
    mode, directory, kind, *bound = sys.argv[1:]
    config: Any = {"configurable": {"thread_id": "1"}}
    if bound:
        config["max_concurrency"] = int(bound[0])
    path = Path(directory)
    result = asyncio.run(run_async(path, kind, config)) if mode == "async" else run_sync(path, kind, config)
    if kind == "wave":
        assert result["ys"].keys() == set(range(100)), "every branch has given its update"
        assert max(result["ys"].values()) == 2**10 - 1, "which has come of those that it depends on"
        return
    expected = [[item * 2 for item in row] if kind == "nested" else row * 2 for row in batch(kind)]
    assert result["ys"] == expected, "every item ends up in the result once, in order"


if __name__ == "__main__":
    main()
