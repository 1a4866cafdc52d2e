"""A run is resumed with another batch or sample: what comes is right for one of the two, or an error says
what differs."""

import asyncio
from typing import Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from mahsm import connect, vmap
from mahsm.errors import EdgeError
from tests.helpers import MODES


class State(TypedDict, total=False):
    rows: Any
    ys: Any


class Target:
    """Fails once, at one item."""

    def __init__(self, at: int, *, blocks: bool) -> None:
        self.at: int | None = at
        self.call = self.blocking if blocks else self.waiting

    def blocking(self, state: dict[str, Any]) -> int:
        if state["item"] == self.at:
            self.at = None
            raise ConnectionError("no network")
        return state["item"] * 2

    async def waiting(self, state: dict[str, Any]) -> int:
        await asyncio.sleep(0)
        return self.blocking(state)


def run(graph: Any, given: Any, mode: str) -> Any:
    config = {"configurable": {"thread_id": "1"}}
    return graph.invoke(given, config) if mode == "sync" else asyncio.run(graph.ainvoke(given, config))


def graph_of(edge: Any, saver: Any) -> Any:
    return connect(StateGraph(State), START, edge, END).compile(checkpointer=saver)


def rows_of(target: Target, batch: list[int], chunk_size: int | None) -> Any:
    inner = vmap(target.call, batch_key="row", out_key="ys", chunk_size=chunk_size, name="inner")
    return vmap(
        inner,
        batch_key="rows",
        out_key="ys",
        item_to_state=lambda _: {"row": batch},
        result="ys",
        name="outer",
    )


OLD = list(range(20))
BATCHES = {
    "longer": list(range(30)),
    "shorter": list(range(12)),
    "empty": [],
    "reversed": OLD[::-1],
    "other": [item + 100 for item in OLD],
}


@pytest.mark.parametrize("blocks", [False, True], ids=["awaits", "blocks"])
@pytest.mark.parametrize("chunk_size", [None, 1, 7])
@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("mode", MODES)
def test_another_batch(mode: str, name: str, chunk_size: int | None, blocks: bool) -> None:
    saver, target = InMemorySaver(), Target(11, blocks=blocks)
    with pytest.raises(ConnectionError, match="no network"):
        run(graph_of(rows_of(target, OLD, chunk_size), saver), {"rows": [0]}, mode)
    try:
        found = run(graph_of(rows_of(target, BATCHES[name], chunk_size), saver), None, mode)["ys"]
    except EdgeError:
        return
    assert found in ([[item * 2 for item in batch]] for batch in (OLD, BATCHES[name]))


@pytest.mark.parametrize("sample", [1, 19, 40])
@pytest.mark.parametrize("mode", MODES)
def test_another_sample(mode: str, sample: int) -> None:
    saver, target = InMemorySaver(), Target(11, blocks=False)
    with pytest.raises(ConnectionError, match="no network"):
        run(graph_of(vmap(target.call, sample=20, out_key="ys", name="edge"), saver), {"rows": [0]}, mode)
    try:
        found = run(graph_of(vmap(target.call, sample=sample, out_key="ys", name="edge"), saver), None, mode)[
            "ys"
        ]
    except EdgeError:
        return
    assert found in ([item * 2 for item in range(count)] for count in (20, sample))
