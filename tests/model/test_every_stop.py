"""A saver stops at its n-th write, for every n: what is resumed over the same storage gives what it would
have given."""

import asyncio
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph

from mahsm import Branch, Edge, connect, parallel, reduce_edge, vmap
from tests.helpers import MODES
from tests.model.leftovers import wait_for_threads
from tests.model.savers import Fuse, Stopped, Storage
from tests.watchdog import ended

XS = list(range(6))


def _both(left: list[Any] | None, right: list[Any]) -> list[Any]:
    return sorted([*(left or []), *right])


class State(TypedDict, total=False):
    xs: Any
    rows: Any
    ys: Any
    text: str
    a: Any
    b: Any
    c: Any
    log: Annotated[list[str], _both]


async def _double(state: dict[str, Any]) -> int:
    await asyncio.sleep(0)
    return state["item"] * 2


def _blocking(state: dict[str, Any]) -> int:
    return state["item"] * 2


def _branches(**options: Any) -> Edge:
    return parallel(
        [
            Branch(
                lambda state: {"c": state["a"] + state["b"], "log": ["c"]},
                name="to_c",
                after=["to_a", "to_b"],
            ),
            Branch(lambda _: {"a": "a", "log": ["a"]}, name="to_a"),
            Branch(lambda state: {"b": state["a"] + "b", "log": ["b"]}, name="to_b", after="to_a"),
        ],
        name="branches",
        **options,
    )


def _rows(**options: Any) -> Edge:
    inner = vmap(_double, batch_key="row", out_key="ys", **options)
    return vmap(
        inner,
        batch_key="rows",
        out_key="ys",
        item_to_state=lambda row: {"row": row},
        result="ys",
        name="rows_of",
    )


def _subgraph() -> Any:
    return connect(
        StateGraph(State), START, vmap(_double, batch_key="xs", out_key="ys", chunk_size=1), END
    ).compile()


def _branch_rows() -> Edge:
    edge = vmap(_double, batch_key="xs", out_key="ys", chunk_size=2)
    branches = {"edge": edge, "beside": lambda state: {"a": len(state["xs"])}}
    return vmap(
        parallel(branches, name="both"), batch_key="rows", out_key="ys", item_to_state=lambda xs: {"xs": xs}
    )


def _reduced() -> list[Any]:
    words = vmap(lambda state: str(state["item"]), batch_key="xs", out_key="ys", chunk_size=1)
    return [words, reduce_edge(input_key="ys", output_key="text", reducer="".join)]


DOUBLED = {"ys": [0, 2, 4, 6, 8, 10]}
ROWS = {"ys": [[0, 2, 4], [6, 8, 10]]}
BRANCHES = {"a": "a", "b": "ab", "c": "aab", "log": ["a", "b", "c"]}

EDGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "default": (lambda: [vmap(_double, batch_key="xs", out_key="ys")], DOUBLED),
    "chunks": (lambda: [vmap(_blocking, batch_key="xs", out_key="ys", chunk_size=2)], DOUBLED),
    "one-by-one": (
        lambda: [vmap(_double, batch_key="xs", out_key="ys", chunk_size=1, max_concurrency=2)],
        DOUBLED,
    ),
    "wave": (lambda: [_branches(scheduler="wave")], BRANCHES),
    "eager": (lambda: [_branches(scheduler="wave", eager=True)], BRANCHES),
    "sequential": (lambda: [_branches(scheduler="sequential")], BRANCHES),
    "reduce": (_reduced, {"text": "012345"}),
    "nested": (lambda: [_rows(chunk_size=2)], ROWS),
    "branches-in-rows": (lambda: [_branch_rows()], {"ys": [{"ys": row, "a": 3} for row in ROWS["ys"]]}),
    "subgraph": (lambda: [_subgraph()], DOUBLED),
}


def graph_of(name: str, saver: Any) -> Any:
    steps = EDGES[name][0]()
    if name == "subgraph":
        return (
            StateGraph(State).add_node("inner", steps[0]).add_edge(START, "inner").compile(checkpointer=saver)
        )
    return connect(StateGraph(State), START, *steps, END).compile(checkpointer=saver)


GIVEN = {"xs": XS, "rows": [XS[:3], XS[3:]]}


def run(name: str, mode: str, storage: Storage, fuse: Fuse, durability: Any) -> dict[str, Any]:
    """Begin, or go on with what there is."""
    config: Any = {"configurable": {"thread_id": "1"}}

    async def run_async() -> dict[str, Any]:
        async with storage.async_(fuse) as saver:
            graph = graph_of(name, saver)
            begun = (await graph.aget_state(config)).created_at is not None
            return await graph.ainvoke(None if begun else GIVEN, config, durability=durability)

    if mode == "async":
        return asyncio.run(run_async())
    with storage.sync(fuse) as saver:
        graph = graph_of(name, saver)
        begun = graph.get_state(config).created_at is not None
        return graph.invoke(None if begun else GIVEN, config, durability=durability)


def stop_and_resume(name: str, mode: str, durability: str, directory: Path, at: int, *, once: bool) -> bool:
    """Stop at write number `at`, and go on; whether there was such a write."""
    storage, fuse = Storage("memory", directory), Fuse(at, once=once)
    try:
        state = run(name, mode, storage, fuse, durability)
        assert not fuse.blown or durability == "exit", f"write {at} has failed, and nothing came out"
    except Stopped:
        state = {}
    finally:
        wait_for_threads()
    if fuse.blown:
        state = run(name, mode, storage, Fuse(), durability)
    found = {key: state.get(key) for key in EDGES[name][1]}
    assert found == EDGES[name][1], f"stopped at write {at} (once={once}): {found}"
    return fuse.blown


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("durability", "once"),
    [("sync", False), ("async", False), ("async", True)],
    ids=["sync", "async", "async-once"],
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", EDGES)
def test_whatever_write_is_the_last(
    name: str, mode: str, durability: str, once: bool, tmp_path: Path
) -> None:
    directory = tmp_path
    blown = [True]
    while blown[-1]:
        at = len(blown)

        def stop(at: int = at) -> None:
            blown.append(stop_and_resume(name, mode, durability, directory, at, once=once))

        ended(stop, f"{name}, {mode}, {durability}, stopped at write {at}")
    assert len(blown) > 4, "there are some writes in each"
