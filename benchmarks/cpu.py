"""What the options of an edge cost in CPU: each beside the same work without it, or written by hand.

Rounds of all rows take turns, and the least CPU time of each row counts, so a busy machine changes the ratios
little. A second estimate of each ratio, from every other round, shows the noise.
"""

import asyncio
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import dspy
from aiolimiter import AsyncLimiter
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from benchmarks import report
from benchmarks.report import Figure
from mahsm import RateLimit, Retry, connect, limits, parallel, reduce_edge, vmap
from mahsm._waiting import TASK
from mahsm.limits._registry import bucket
from mahsm.testing import FakeLM

ITEMS = 3000
RUNS = 20
WIDTH = 64


class State(TypedDict, total=False):
    xs: list[int]
    ys: Any
    a: Any
    b: Any
    c: Any


async def noop(state: dict[str, Any]) -> Any:
    return state["item"]


async def by_hand(xs: list[int], around: Callable[[], Any] | None = None) -> list[int]:
    gate = asyncio.Semaphore(WIDTH)

    async def one(x: int) -> int:
        async with gate:
            if around is None:
                return await noop({"item": x})
            async with around():
                return await noop({"item": x})

    return await asyncio.gather(*[one(x) for x in xs])  # noqa: TID251  the floor is what people write by hand


def edge(**options: Any) -> Any:
    return vmap(noop, batch_key="xs", out_key="ys", max_concurrency=WIDTH, **options)


@dataclass
class Row:
    """One thing to measure.

    Attributes:
        run: Runs it.
        count: What the CPU is divided by.
        seconds: The CPU of each round.
    """

    run: Callable[[], Any]
    count: int
    seconds: list[float] = field(default_factory=list[float])

    def least(self, step: int = 1, first: int = 0) -> float:
        """The least microseconds of CPU, of every `step`th round."""
        return 1e6 * min(self.seconds[first::step]) / self.count


def of_items(target: Any) -> Row:
    return Row(lambda: asyncio.run(target.ainvoke({"xs": list(range(ITEMS))})), ITEMS)


def of_graph(graph: Any, size: int) -> Row:
    async def runs() -> None:
        for _ in range(RUNS):
            await graph.ainvoke({"xs": list(range(size))})

    return Row(lambda: asyncio.run(runs()), RUNS)


def one_node(node: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return builder.compile()


def of_edge(step: Any) -> Any:
    return connect(StateGraph(State), START, step, END).compile()


async def gathers(state: State) -> State:
    return {"ys": await by_hand(state.get("xs", []))}


def sums(state: State) -> State:
    return {"a": sum(state.get("xs", []))}


def writes(key: str) -> Callable[[State], Awaitable[Any]]:
    async def branch(state: State) -> dict[str, int]:
        return {key: 1}

    branch.__name__ = key
    return branch


def native_branches() -> Any:
    builder = StateGraph(State)
    builder.add_node("join", cast("Any", lambda _: {}))
    for key in ("a", "b", "c"):
        builder.add_node(f"node_{key}", writes(key))
        builder.add_edge(START, f"node_{key}")
        builder.add_edge(f"node_{key}", "join")
    builder.add_edge("join", END)
    return builder.compile()


def our_branches() -> Any:
    builder = StateGraph(State)
    builder.add_node("join", cast("Any", lambda _: {}))
    connect(builder, START, parallel([writes("a"), writes("b"), writes("c")]), "join", END)
    return builder.compile()


def nested() -> Row:
    outer = vmap(
        edge(), batch_key="xs", out_key="ys", item_to_state=lambda _: {"xs": list(range(100))}, result="ys"
    )
    return Row(lambda: asyncio.run(outer.ainvoke({"xs": list(range(ITEMS // 100))})), ITEMS)


async def admits(limit: RateLimit) -> None:
    for _ in range(ITEMS):
        async with limits.admit(limit):
            pass


async def acquires() -> None:
    line = bucket("benchmark")
    for _ in range(ITEMS):
        await line.acquire(TASK)


async def acquires_by_hand() -> None:
    limiter = AsyncLimiter(1e6, 1)
    for _ in range(ITEMS):
        await limiter.acquire()


def built(count: int) -> Row:
    def run() -> None:
        builder, last = StateGraph(State), START
        for number in range(count):
            step = edge(name=f"edge_{number}")
            connect(builder, last, step)
            last = step
        connect(builder, last, END)
        builder.compile()

    return Row(run, count)


def built_by_hand(count: int) -> Row:
    def run() -> None:
        builder, last = StateGraph(State), START
        for number in range(count):
            builder.add_node(f"node_{number}", gathers)
            builder.add_edge(last, f"node_{number}")
            last = f"node_{number}"
        builder.add_edge(last, END)
        builder.compile()

    return Row(run, count)


def dspy_rows() -> dict[str, Row]:
    program, count = dspy.Predict("question -> answer"), ITEMS // 10
    model = FakeLM("[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]")
    questions = [dspy.Example(question=str(number)).with_inputs("question") for number in range(count)]
    node = vmap(program, batch_key="xs", out_key="ys", max_concurrency=WIDTH)

    async def bare() -> None:
        gate = asyncio.Semaphore(WIDTH)

        async def one(given: dspy.Example) -> Any:
            async with gate:
                return await program.acall(question=given.question)

        with dspy.context(lm=model):
            await asyncio.gather(*[one(given) for given in questions])  # noqa: TID251  by hand

    async def ours() -> None:
        with dspy.context(lm=model):
            await node.ainvoke({"xs": questions})

    return {
        "dspy, acall and a semaphore": Row(lambda: asyncio.run(bare()), count),
        "dspy module": Row(lambda: asyncio.run(ours()), count),
    }


def rows(scale: int) -> dict[str, Row]:
    """All rows, by name; `scale` divides the number of edges that are built."""
    limit = RateLimit("benchmark", rps=1e6)
    plain = edge()
    return {
        "by hand": Row(lambda: asyncio.run(by_hand(list(range(ITEMS)))), ITEMS),
        "by hand, asyncio.timeout": Row(
            lambda: asyncio.run(by_hand(list(range(ITEMS)), lambda: asyncio.timeout(60))), ITEMS
        ),
        "edge": of_items(plain),
        "edge, retry": of_items(edge(retry=Retry(attempts=3))),
        "edge, timeout": of_items(edge(timeout=60.0)),
        "edge, retry and timeout": of_items(edge(retry=Retry(attempts=3), timeout=60.0)),
        "edge, rate_limit": of_items(edge(rate_limit=limit)),
        "edge, invoke": Row(lambda: plain.invoke({"xs": list(range(ITEMS))}), ITEMS),
        "edge inside of an item": nested(),
        "node by hand, 3": of_graph(one_node(gathers), 3),
        "node by hand, 10": of_graph(one_node(gathers), 10),
        "node by hand, 100": of_graph(one_node(gathers), 100),
        "vmap as a node, 3": of_graph(of_edge(plain), 3),
        "vmap as a node, 10": of_graph(of_edge(plain), 10),
        "vmap as a node, 100": of_graph(of_edge(plain), 100),
        "native branches": of_graph(native_branches(), 3),
        "parallel as a node": of_graph(our_branches(), 3),
        "node that sums": of_graph(one_node(sums), 3),
        "reduce_edge as a node": of_graph(
            of_edge(reduce_edge(input_key="xs", output_key="a", reducer=sum)), 3
        ),
        "limits.admit, a block": Row(lambda: asyncio.run(admits(limit)), ITEMS),
        "a place in line": Row(lambda: asyncio.run(acquires()), ITEMS),
        "aiolimiter": Row(lambda: asyncio.run(acquires_by_hand()), ITEMS),
        "nodes built": built_by_hand(200 // scale),
        "edges built": built(200 // scale),
        **dspy_rows(),
    }


BOUNDS = {
    ("edge", "by hand"): 1.3,
    ("edge, retry", "edge"): 2.0,
    ("edge, timeout", "edge"): 3.0,
    ("edge, retry and timeout", "edge"): 3.0,
    ("edge, invoke", "edge"): 1.5,
    ("edge inside of an item", "by hand"): 3.3,
    ("vmap as a node, 3", "node by hand, 3"): 1.4,
    ("vmap as a node, 10", "node by hand, 10"): 1.5,
    ("vmap as a node, 100", "node by hand, 100"): 1.5,
    ("parallel as a node", "native branches"): 1.0,
    ("reduce_edge as a node", "node that sums"): 1.2,
    ("edges built", "nodes built"): 2.0,
    ("dspy module", "dspy, acall and a semaphore"): 1.12,
}
"""The most that a row may take, as a multiple of another."""

MICROSECONDS = {"edge, rate_limit": 30.0, "a place in line": 8.0}
"""The most microseconds of CPU."""


def measured(rounds: int, scale: int = 1) -> dict[str, Row]:
    found = rows(scale)
    for row in found.values():
        row.run()  # imports, compiles, fills caches
    for _ in range(rounds):
        for row in found.values():
            gc.collect()
            clock = time.process_time()
            row.run()
            row.seconds.append(time.process_time() - clock)
    return found


def ratios(found: dict[str, Row], step: int = 1, first: int = 0) -> dict[str, float]:
    return {
        f"{name} / {other}": found[name].least(step, first) / found[other].least(step, first)
        for name, other in BOUNDS
    }


IMPORTED = """
import time, langgraph.graph
clock = time.process_time()
from mahsm import vmap
print(time.process_time() - clock)
"""


def import_seconds() -> float:
    """The CPU seconds of `from mahsm import vmap` after LangGraph, with bytecode, as if it was installed."""
    command = [sys.executable, "-c", IMPORTED]
    with tempfile.TemporaryDirectory() as folder:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env["PYTHONPYCACHEPREFIX"] = folder
        return min(float(subprocess.check_output(command, text=True, env=env)) for _ in range(6))


def main(*, quick: bool) -> int:
    def part() -> tuple[Any, ...]:
        found = measured(2 if quick else 12, 10 if quick else 1)
        now, again = ratios(found), ratios(found, 2)
        figures = [
            Figure(f"{name} / {other}", now[f"{name} / {other}"], bound)
            for (name, other), bound in BOUNDS.items()
        ]
        figures += [Figure(name, found[name].least(), bound, "us") for name, bound in MICROSECONDS.items()]
        figures.append(Figure("from mahsm import vmap, after LangGraph", import_seconds(), 0.12, "s"))
        table = [["row", "us of CPU"], *([name, f"{row.least():.1f}"] for name, row in found.items())]
        noise = {name: abs(again[name] / ratio - 1) for name, ratio in now.items()}
        return figures, table, {"ratios": now, "noise": noise}

    return report.run("cpu", {"cpu": part}, quick=quick)
