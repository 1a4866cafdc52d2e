"""Run a plan until somebody kills this process: `python -m tests.kills.worker '{"kind": "flat", ...}'`."""

import asyncio
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from mahsm import Budget, RateLimit, Retry, connect, parallel, vmap
from tests.kills.plans import ITEMS, LATENCY, MAX_CONCURRENCY, Plan
from tests.model.savers import NO_FSYNC, AsyncSqlite, Fuse, FusedAsync, FusedSync, SyncSqlite


class State(TypedDict, total=False):
    xs: Any
    ys: Any
    left: Any
    right: Any


class Target:
    """Notes each item that it has finished; with policies, some fail at first."""

    def __init__(self, plan: Plan) -> None:
        self.file = os.open(plan.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.fails = plan.kind == "policies"
        self.tries: Counter[int] = Counter()
        self.lock = threading.Lock()
        self.call = self.blocking if plan.blocks else self.waiting

    def blocking(self, state: dict[str, Any]) -> int:
        time.sleep(self._begin(state["item"]))
        return self._end(state["item"])

    async def waiting(self, state: dict[str, Any]) -> int:
        await asyncio.sleep(self._begin(state["item"]))
        return self._end(state["item"])

    def _begin(self, item: int) -> float:
        with self.lock:
            self.tries[item] += 1
        if self.fails and item % 10 == 0 and self.tries[item] == 1:
            raise ConnectionError(item)
        return LATENCY * random.Random(item).uniform(0.2, 1.8)

    def _end(self, item: int) -> int:
        os.write(self.file, b"%d\n" % item)
        return item * 2


def edge_of(plan: Plan, target: Any, batch_key: str = "xs", out_key: str = "ys", **options: Any) -> Any:
    return vmap(target, batch_key=batch_key, out_key=out_key, max_concurrency=MAX_CONCURRENCY, **options)


def build(plan: Plan, saver: Any) -> Any:
    """The graph of the plan."""
    call = Target(plan).call
    if plan.kind == "nested":
        edge = edge_of(plan, call, "cells")
        for level, key in (("rows", "cells"), ("tables", "rows")):
            source = "xs" if level == "tables" else level
            edge = vmap(
                edge,
                batch_key=source,
                out_key="ys",
                item_to_state=lambda part, key=key: {key: part},
                result="ys",
                max_concurrency=2,
                name=level,
            )
    elif plan.kind == "parallel":
        edge = parallel(
            {name: edge_of(plan, call, "xs", name, item_to_state=HALVES[name]) for name in HALVES},
            name="halves",
        )
    elif plan.kind == "policies":
        policies = {
            "retry": Retry(base=0.001),
            "rate_limit": RateLimit("kills", rps=5000),
            "budget": Budget(calls=10_000),
        }
        edge = edge_of(plan, call, **policies)
    else:
        edge = edge_of(plan, call, chunk_size=1 if plan.kind == "one-by-one" else None)
    inner = connect(StateGraph(State), START, edge, END)
    if plan.kind != "subgraph":
        return inner.compile(checkpointer=saver)
    return (
        StateGraph(State)
        .add_node("inner", inner.compile())
        .add_edge(START, "inner")
        .compile(checkpointer=saver)
    )


HALVES: dict[str, Any] = {
    "left": lambda item: {"item": item},
    "right": lambda item: {"item": item + ITEMS // 2},
}
"""The branches, and the items that each has."""


def batch(plan: Plan) -> list[Any]:
    if plan.kind == "parallel":
        return list(range(ITEMS // 2))
    if plan.kind != "nested":
        return list(range(ITEMS))
    cells = iter(range(ITEMS))
    return [[[next(cells) for _ in range(20)] for _ in range(4)] for _ in range(5)]


def doubled(part: Any) -> Any:
    return [doubled(one) for one in part] if isinstance(part, list) else part * 2


def check(plan: Plan, state: dict[str, Any]) -> None:
    """Every item ends up in the result once, in its place."""
    if plan.kind == "parallel":
        assert [*state["left"], *state["right"]] == doubled(list(range(ITEMS))), state
    else:
        assert state["ys"] == doubled(batch(plan)), state["ys"]


@contextmanager
def saver_of(plan: Plan) -> Iterator[Any]:
    if plan.saver == "sqlite":
        with SyncSqlite.from_conn_string(plan.address) as saver:
            saver.conn.execute(NO_FSYNC)
            saver.fuse = Fuse(slow=plan.slow)
            yield saver
        return
    from langgraph.checkpoint.postgres import PostgresSaver

    class Postgres(FusedSync, PostgresSaver): ...

    with Postgres.from_conn_string(plan.address) as saver:
        saver.fuse = Fuse(slow=plan.slow)
        saver.setup()
        yield saver


@asynccontextmanager
async def async_saver_of(plan: Plan) -> AsyncIterator[Any]:
    if plan.saver == "async-sqlite":
        async with AsyncSqlite.from_conn_string(plan.address) as saver:
            await saver.conn.execute(NO_FSYNC)
            saver.fuse = Fuse(slow=plan.slow)
            yield saver
        return
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

    class Postgres(FusedAsync, AsyncPostgresSaver): ...

    async with Postgres.from_conn_string(plan.address) as saver:
        saver.fuse = Fuse(slow=plan.slow)
        await saver.setup()
        yield saver


def run(plan: Plan) -> dict[str, Any]:
    config: Any = {"configurable": {"thread_id": plan.thread}}
    with saver_of(plan) as saver:
        graph = build(plan, saver)
        begun = graph.get_state(config).created_at is not None
        return graph.invoke(None if begun else {"xs": batch(plan)}, config)


async def run_async(plan: Plan) -> dict[str, Any]:
    config: Any = {"configurable": {"thread_id": plan.thread}}
    async with async_saver_of(plan) as saver:
        graph = build(plan, saver)
        begun = (await graph.aget_state(config)).created_at is not None
        return await graph.ainvoke(None if begun else {"xs": batch(plan)}, config)


def main() -> None:
    plan = Plan.from_json(sys.argv[1])
    check(plan, asyncio.run(run_async(plan)) if plan.saver.startswith("async") else run(plan))


if __name__ == "__main__":
    main()
