"""What fanning out costs per item, beside the floor and LangGraph's and LangChain's own ways.

The floor is bare asyncio: `gather` and a semaphore, without a graph. Cost is CPU time, which a busy machine
disturbs less than wall time; efficiency is wall time, since waiting is what it is about. Contenders take
turns, and the best of several rounds counts.
"""

import asyncio
import contextlib
import gc
import json
import operator
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import dspy
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from benchmarks import report
from benchmarks.report import Figure
from benchmarks.streaming import WORDS, streaming
from mahsm import vmap

CONCURRENCY = 64
SAVERS = ("none", "memory", "sqlite")
LIMIT = 60.0
"""Seconds that a peer may take."""


class State(TypedDict, total=False):
    xs: list[int]
    ys: list[int]


async def noop(state: dict[str, Any]) -> int:
    return state["item"]


async def floor(call: Callable[[dict[str, Any]], Awaitable[int]], xs: list[int]) -> list[int]:
    gate = asyncio.Semaphore(CONCURRENCY)

    async def one(x: int) -> int:
        async with gate:
            return await call({"item": x})

    return await asyncio.gather(*[one(x) for x in xs])  # noqa: TID251  the floor is what people write by hand


# Contenders: each makes a function of (items, saver) that runs the fan-out once.

Run = Callable[[list[int], Any], Awaitable[int]]


async def run_floor(xs: list[int], saver: Any) -> int:
    return len(await floor(noop, xs))


def edge_graph(target: Any, saver: Any) -> Any:
    edge = vmap(target, batch_key="xs", out_key="ys", max_concurrency=CONCURRENCY)
    builder = StateGraph(State)
    builder.add_node("edge", edge)
    builder.add_edge(START, "edge")
    return builder.compile(checkpointer=saver)


async def run_vmap(xs: list[int], saver: Any) -> int:
    return len((await edge_graph(noop, saver).ainvoke({"xs": xs}, config(saver)))["ys"])


class Collected(TypedDict, total=False):
    xs: list[int]
    ys: Annotated[list[int], operator.add]


async def run_send(xs: list[int], saver: Any) -> int:
    async def item(state: dict[str, Any]) -> Any:
        return {"ys": [await noop(state)]}

    builder = StateGraph(Collected)
    builder.add_node("item", item)
    builder.add_conditional_edges(
        START, lambda state: [Send("item", {"item": x}) for x in state["xs"]], ["item"]
    )
    return len((await builder.compile(checkpointer=saver).ainvoke({"xs": xs}, config(saver)))["ys"])


async def run_task(xs: list[int], saver: Any) -> int:
    @task
    async def item(x: int) -> int:
        return await noop({"item": x})

    @entrypoint(checkpointer=saver)
    async def flow(xs: list[int]) -> list[int]:
        return await asyncio.gather(*[item(x) for x in xs])  # noqa: TID251  LangGraph's documented way

    return len(await flow.ainvoke(xs, config(saver)))


async def run_abatch(xs: list[int], saver: Any) -> int:
    chain: Any = RunnableLambda(noop)
    return len(await chain.abatch([{"item": x} for x in xs], {"max_concurrency": CONCURRENCY}))


CONTENDERS: dict[str, Run] = {
    "gather + semaphore": run_floor,
    "vmap": run_vmap,
    "Send per item": run_send,
    "@task futures": run_task,
    "abatch": run_abatch,
}
WITHOUT_SAVER = ("gather + semaphore", "abatch")


def config(saver: Any) -> Any:
    return {"configurable": {"thread_id": "1"} if saver else {}}


@contextlib.asynccontextmanager
async def saver_of(kind: str) -> AsyncIterator[Any]:
    if kind == "none":
        yield None
    elif kind == "memory":
        yield InMemorySaver()
    else:
        with tempfile.TemporaryDirectory() as folder:
            async with AsyncSqliteSaver.from_conn_string(str(Path(folder) / "db")) as saver:
                yield saver


# Cost per item.


@dataclass
class Cost:
    """CPU and wall microseconds per item, the best of the rounds."""

    contender: str
    saver: str
    items: int
    cpu: float
    wall: float


async def measure(contender: str, saver_kind: str, xs: list[int]) -> tuple[float, float]:
    async with saver_of(saver_kind) as saver:
        gc.collect()  # what the contender before has left is not this one's cost
        cpu, wall = time.process_time(), time.perf_counter()
        async with asyncio.timeout(LIMIT):
            assert await CONTENDERS[contender](xs, saver) == len(xs)
        return time.process_time() - cpu, time.perf_counter() - wall


def cost_per_item(sizes: list[int], rounds: int) -> list[Cost]:
    costs: list[Cost] = []
    slow: set[tuple[str, str]] = set()
    for items in sizes:
        best: dict[tuple[str, str], tuple[float, float]] = {}
        for turn in range(rounds if items <= 10_000 else min(rounds, 3)):
            for saver in SAVERS:
                for contender in CONTENDERS:
                    pair = (contender, saver)
                    peer = contender not in ("vmap", "gather + semaphore")
                    if (
                        pair in slow
                        or (saver != "none" and contender in WITHOUT_SAVER)
                        or (turn and peer and items > 1000)
                    ):
                        continue
                    try:
                        cpu, wall = asyncio.run(measure(contender, saver, list(range(items))))
                    except TimeoutError:
                        slow.add(pair)
                        continue
                    if wall * 30 > LIMIT and peer:  # ten times the items take ten to a hundred times as long
                        slow.add(pair)
                    old = best.get(pair, (cpu, wall))
                    best[pair] = min(cpu, old[0]), min(wall, old[1])
        for (contender, saver), (cpu, wall) in best.items():
            costs.append(Cost(contender, saver, items, cpu / items * 1e6, wall / items * 1e6))
    return costs


def alone(items: int, rounds: int) -> float:
    """CPU microseconds of an item that is a task of its own, and saved by SQLite."""

    async def once() -> float:
        options = {"batch_key": "xs", "out_key": "ys", "max_concurrency": CONCURRENCY, "chunk_size": 1}
        builder = StateGraph(State)
        builder.add_node("edge", vmap(noop, **options))
        builder.add_edge(START, "edge")
        async with saver_of("sqlite") as saver:
            graph = builder.compile(checkpointer=saver)
            gc.collect()
            cpu = time.process_time()
            await graph.ainvoke({"xs": list(range(items))}, config(saver))
            return time.process_time() - cpu

    return min(asyncio.run(once()) for _ in range(rounds)) / items * 1e6


def cost_table(costs: list[Cost], sizes: list[int]) -> list[list[str]]:
    rows = [["CPU us per item", "checkpointer", *(f"N={size:,}" for size in sizes)]]
    for contender in CONTENDERS:
        for saver in SAVERS:
            found = {
                cost.items: f"{cost.cpu:.1f}"
                for cost in costs
                if (cost.contender, cost.saver) == (contender, saver)
            }
            if found:
                rows.append([contender, saver, *(found.get(size, "over a minute") for size in sizes)])
    return rows


def wall_table(walls: dict[str, float], ideal: float) -> list[list[str]]:
    rows = [[name, f"{wall:.3f} s", f"{wall / ideal:.3f} x"] for name, wall in walls.items()]
    return [["wall time", "measured", f"against the ideal {ideal:.3f} s"], *rows]


def plot(costs: list[Cost], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(SAVERS), figsize=(13, 4.2), sharey=True, layout="constrained")
    for panel, saver in zip(panels, SAVERS, strict=True):
        for contender in CONTENDERS:
            row = [cost for cost in costs if cost.contender == contender and cost.saver in (saver, "none")]
            row = [cost for cost in row if cost.saver == saver or contender in WITHOUT_SAVER]
            style = {"linestyle": "--", "color": "gray"} if contender == "gather + semaphore" else {}
            panel.loglog(
                [cost.items for cost in row], [cost.cpu for cost in row], marker="o", label=contender, **style
            )
        panel.set(title=f"checkpointer: {saver}", xlabel="items")
        panel.grid(visible=True, which="major", alpha=0.3)
    panels[0].set_ylabel("CPU microseconds per item")
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


# Efficiency: how close the wall time of real waiting comes to that of bare tools.

LATENCY = 0.05


async def sleeps(state: dict[str, Any]) -> int:
    await asyncio.sleep(LATENCY)
    return state["item"]


def blocks(state: dict[str, Any]) -> int:
    time.sleep(LATENCY)
    return state["item"]


def bare_asyncio(xs: list[int]) -> None:
    asyncio.run(floor(sleeps, xs))


def bare_threads(xs: list[int]) -> None:
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        list(pool.map(blocks, [{"item": x} for x in xs]))


def vmap_async(xs: list[int], saver_kind: str = "none") -> None:
    async def run() -> None:
        async with saver_of(saver_kind) as saver:
            await edge_graph(sleeps, saver).ainvoke({"xs": xs}, config(saver))

    asyncio.run(run())


def vmap_threads(xs: list[int]) -> None:
    edge_graph(blocks, None).invoke({"xs": xs})


class Blocks(dspy.Module):
    """A module that takes as long as a call."""

    def forward(self, item: int) -> int:
        return blocks({"item": item})


def dspy_parallel(xs: list[int]) -> None:
    module: Any = Blocks()
    dspy.Parallel(num_threads=CONCURRENCY, disable_progress_bar=True)([(module, {"item": x}) for x in xs])


EFFICIENCY: dict[str, Callable[[list[int]], None]] = {
    "bare asyncio": bare_asyncio,
    "vmap, ainvoke": vmap_async,
    "vmap, ainvoke, AsyncSqliteSaver": lambda xs: vmap_async(xs, "sqlite"),
    "bare thread pool": bare_threads,
    "vmap, invoke": vmap_threads,
    "dspy.Parallel": dspy_parallel,
}


def efficiency(items: int, rounds: int) -> dict[str, float]:
    """Seconds of wall time; the best of the rounds."""
    xs = list(range(items))
    walls = {name: float("inf") for name in EFFICIENCY}
    for _ in range(rounds):
        for name, run in EFFICIENCY.items():
            began = time.perf_counter()
            run(xs)
            walls[name] = min(walls[name], time.perf_counter() - began)
    return walls


# Memory and import, each in a process of its own.


def memory_growth(contender: str, items: int) -> int:
    """Print by how many KiB the peak of this process grows while the contender runs."""
    xs = list(range(items))
    asyncio.run(measure(contender, "none", xs[:100]))  # what is imported or made once
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024
    asyncio.run(measure(contender, "none", xs))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def in_own_process(code: str) -> float:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout))


def memory(contender: str, items: int, rounds: int) -> float:
    code = f"from benchmarks.fanout import memory_growth; print(memory_growth({contender!r}, {items}))"
    return min(in_own_process(code) for _ in range(rounds))


def import_seconds() -> float:
    code = "import time; began = time.process_time(); import mahsm; print(time.process_time() - began)"
    return min(in_own_process(code) for _ in range(5))


def main(*, quick: bool) -> int:
    sizes = [10, 100] if quick else [100, 1000, 10_000, 100_000]
    large, largest = sizes[-2:]
    costs = cost_per_item(sizes, rounds=1 if quick else 5)
    tables = [cost_table(costs, sizes)]
    cpu = {(cost.contender, cost.saver, cost.items): cost.cpu for cost in costs}
    items = 128 if quick else 2000
    walls = efficiency(items, rounds=1 if quick else 5)
    ideal = items * LATENCY / CONCURRENCY
    growth = {
        contender: memory(contender, largest, rounds=1 if quick else 3)
        for contender in ("gather + semaphore", "vmap")
    }

    chats = 20 if quick else 200
    tokens = streaming(chats, rounds=1 if quick else 5)

    floor_cost, edge_cost = cpu["gather + semaphore", "none", large], cpu["vmap", "none", large]
    edge_growth = cpu["vmap", "none", largest] / edge_cost
    sqlite_growth = cpu["vmap", "sqlite", largest] / cpu["vmap", "none", largest]
    waits = f"{items} items of 50 ms, {CONCURRENCY} at once"
    figures = [
        Figure(f"vmap / floor, N={large:,}", edge_cost / floor_cost, 2.0),
        Figure(
            f"Send per item / vmap, N={large:,}",
            cpu["Send per item", "none", large] / edge_cost,
            20.0,
            at_least=True,
        ),
        Figure(f"vmap, N={largest:,} / N={large:,}", edge_growth, 1.2),
        Figure(f"vmap, AsyncSqliteSaver / none, N={largest:,}", sqlite_growth, 2.0),
        Figure(f"ainvoke / bare asyncio, {waits}", walls["vmap, ainvoke"] / walls["bare asyncio"], 1.03),
        Figure(
            f"ainvoke + AsyncSqliteSaver / bare asyncio, {waits}",
            walls["vmap, ainvoke, AsyncSqliteSaver"] / walls["bare asyncio"],
            1.05,
        ),
        Figure(
            f"invoke / bare thread pool, {waits}", walls["vmap, invoke"] / walls["bare thread pool"], 1.05
        ),
        Figure(f"invoke / ideal, {waits}", walls["vmap, invoke"] / ideal, 1.06),
        Figure(
            f"each item a task, chunk_size=1, AsyncSqliteSaver, N={large // 10:,}, CPU of an item",
            alone(large // 10, rounds=1 if quick else 5),
            500,
            "us",
        ),
        Figure(
            f"peak memory growth, vmap / floor, N={largest:,}",
            growth["vmap"] / growth["gather + semaphore"],
            1.5,
        ),
        Figure("import mahsm, CPU", import_seconds(), 0.1, "s"),
        Figure(
            f"tokens streamed, vmap / Send, {chats} items of {WORDS}", tokens["vmap"] / tokens["Send"], 1.1
        ),
    ]
    tables.append(wall_table(walls, ideal))
    for table in tables:
        report.show_table(table)
    report.show(figures)
    measurements = {
        "cpu_and_wall_us_per_item": [vars(cost) for cost in costs],
        "wall_s": {**walls, "ideal": ideal},
        "memory_growth_kib": growth,
        "cpu_us_per_token": tokens,
    }
    path = report.save("fanout", figures, measurements, quick=quick)
    plot(costs, path.with_suffix(".png"))
    if not quick:
        report.write_readme("fanout", figures, [report.markdown(table) for table in tables])
    return 0
