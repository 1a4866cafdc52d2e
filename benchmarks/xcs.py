"""What running ahead saves and costs, beside the plain program, `asyncio.gather` by hand and LangGraph's
functional API.

Programs wait, so most figures are wall time against the critical path; the best of several rounds counts,
each with new arguments. Costs are CPU time.
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task

from benchmarks import report
from benchmarks.report import Figure
from mahsm import xcs

Rows = list[list[str]]
LATENCY = 0.05


@xcs.step
def ask(prompt: Any) -> str:
    time.sleep(LATENCY)
    return f"<{prompt}>"


@xcs.step
async def asked(prompt: Any) -> str:
    await asyncio.sleep(LATENCY)
    return f"<{prompt}>"


@xcs.step
def nothing(value: Any) -> Any:
    return value


# Programs, and their critical paths in calls.


def ensemble(q: str) -> Any:
    return [ask(f"{i} {q}") for i in range(8)]


def tree(q: str, depth: int = 3) -> Any:
    if depth == 0:
        return q
    return [tree(ask(f"{q} left"), depth - 1), tree(ask(f"{q} right"), depth - 1)]


def refine(q: str) -> Any:
    drafts = [ask(f"improve {ask(f'{i} {q}')}") for i in range(8)]
    return ask(f"judge {' '.join(drafts)}")


def map_reduce(q: str) -> Any:
    parts = [ask(f"map {i} {q}") for i in range(16)]
    while len(parts) > 1:
        parts = [ask(f"{left}+{right}") for left, right in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


PROGRAMS: dict[str, tuple[Callable[[str], Any], int, float]] = {
    "ensemble of 8": (ensemble, 1, 1.05),
    "tree of thoughts of depth 3": (tree, 3, 1.05),
    "8 times ask and refine, a judge": (refine, 3, 1.05),
    "map-reduce over 16": (map_reduce, 5, 1.1),
}


async def refine_by_hand(q: str) -> Any:
    async def one(i: int) -> str:
        return await asked(f"improve {await asked(f'{i} {q}')}")

    drafts = await asyncio.gather(*[one(i) for i in range(8)])  # noqa: TID251  what users write
    return await asked(f"judge {' '.join(drafts)}")


async def refine_async(q: str) -> Any:
    drafts = [await asked(f"improve {await asked(f'{i} {q}')}") for i in range(8)]
    return await asked(f"judge {' '.join(drafts)}")


_arguments = map(str, itertools.count())


def wall(rounds: int, run: Callable[[str], Any]) -> float:
    """Seconds of the quickest round, each with a new argument, without the first, which also rewrites."""
    found: list[float] = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        run(next(_arguments))
        found.append(time.perf_counter() - began)
    return min(found[1:])


def cpu(rounds: int, run: Callable[[], Any]) -> float:
    """CPU seconds of the cheapest round; the first one is left out."""
    found: list[float] = []
    for _ in range(rounds + 1):
        began = time.process_time()
        run()
        found.append(time.process_time() - began)
    return min(found[1:])


def running_ahead(rounds: int) -> tuple[list[Figure], Rows, Any]:
    figures: list[Figure] = []
    rows: Rows = [["program", "critical path", "jitted", "plain"]]
    measured: dict[str, Any] = {}
    slowest = float("inf")
    for name, (program, calls, most) in PROGRAMS.items():
        ideal = calls * LATENCY
        jitted, plain = wall(rounds, xcs.jit(program)), wall(1, program)
        figures.append(Figure(f"{name}: jitted / critical path", jitted / ideal, most))
        rows.append([name, f"{ideal:.3f} s", f"{jitted:.3f} s", f"{plain:.3f} s"])
        measured[name] = {"ideal": ideal, "jitted": jitted, "plain": plain}
        slowest = min(slowest, plain / jitted)
    by_hand = wall(rounds, lambda q: asyncio.run(refine_by_hand(q)))
    refined = xcs.jit(refine_async)
    awaited = wall(rounds, lambda q: asyncio.run(refined(q)))
    rows.append(["the third one, awaited", f"{3 * LATENCY:.3f} s", f"{awaited:.3f} s", "-"])
    rows.append(["the third one, `gather` by hand", f"{3 * LATENCY:.3f} s", f"{by_hand:.3f} s", "-"])
    figures.append(Figure("awaited / gather by hand", awaited / by_hand, 1.05))
    figures.append(Figure("plain / jitted, the least", slowest, 2.0, at_least=True))
    return figures, rows, measured


# What a step costs.


def independent(count: int) -> Any:
    return [nothing(i) for i in range(count)]


def chained(count: int) -> Any:
    value: Any = 0
    for _ in range(count):
        value = nothing(value)
    return value


def formatted(count: int) -> Any:
    value: Any = "q"
    for _ in range(count):
        value = nothing(f"again {value}"[:12])
    return value


def plain(value: Any) -> Any:
    return value


def plain_calls(count: int) -> None:
    for i in range(count):
        plain(i)


def costs(rounds: int, count: int) -> tuple[list[Figure], Rows, Any]:
    programs = {"independent": independent, "a chain": chained, "a chain through f-strings": formatted}
    found = {name: cpu(rounds, partial(xcs.jit(run), count)) / count * 1e6 for name, run in programs.items()}
    jitted = xcs.jit(plain_calls)
    many = 50 * count
    per_call = (cpu(rounds, lambda: jitted(many)) - cpu(rounds, lambda: plain_calls(many))) / many * 1e6
    figures = [Figure(f"CPU of a step, {name}", value, 60.0, "us") for name, value in found.items()]
    figures.append(Figure("CPU of a call of a plain function inside", per_call, 2.0, "us"))
    rows: Rows = [["CPU us per step", "measured"], *([name, f"{value:.1f}"] for name, value in found.items())]
    return figures, rows, {**found, "plain call": per_call}


# The durable form.


@task
async def asked_as_task(prompt: str) -> str:
    await asyncio.sleep(LATENCY)
    return f"<{prompt}>"


def durable(rounds: int) -> tuple[list[Figure], Rows, Any]:
    @entrypoint(checkpointer=InMemorySaver())
    async def by_hand(q: str) -> Any:
        futures = [asked_as_task(f"{i} {q}") for i in range(8)]
        return await asyncio.gather(*futures)  # noqa: TID251  what LangGraph's guide writes

    async def several(q: str) -> Any:
        return [await asked(f"{i} {q}") for i in range(8)]

    ours = xcs.jit(several, checkpointer=InMemorySaver())

    def thread(q: str) -> Any:
        return {"configurable": {"thread_id": q}}

    jitted = wall(rounds, lambda q: asyncio.run(ours.ainvoke(q, thread(q))))
    written = wall(rounds, lambda q: asyncio.run(by_hand.ainvoke(q, thread(q))))
    rows: Rows = [
        ["ensemble of 8 with a checkpointer", "wall"],
        ["xcs.jit", f"{jitted:.4f} s"],
        ["@entrypoint and @task by hand", f"{written:.4f} s"],
    ]
    figure = Figure("durable ensemble of 8 / @entrypoint and @task by hand", jitted / written, 1.25)
    return [figure], rows, {"jitted": jitted, "by hand": written}


# Many items, and numbers.


def mapping(rounds: int, count: int) -> tuple[list[Figure], Rows, Any]:
    def work(q: str) -> str:
        time.sleep(0.02)
        return q

    async def awaited(q: str) -> str:
        await asyncio.sleep(0.02)
        return q

    figures: list[Figure] = []
    rows: Rows = [["at a time", "ideal", "awaited", "blocking", "a warm thread pool by hand"]]
    measured: dict[str, Any] = {}
    items = [str(i) for i in range(count)]
    for most, asked_for in ((8, 0.97), (32, 0.96), (100, 0.90)):
        many, many_awaited = xcs.vmap(work, max_concurrency=most), xcs.vmap(awaited, max_concurrency=most)
        ideal = -(-count // most) * 0.02
        with asyncio.Runner() as runner:
            took = wall(rounds, lambda _, many=many_awaited, runner=runner: runner.run(many(items)))
        blocking = wall(rounds, lambda _, many=many: many(items))
        with ThreadPoolExecutor(most) as pool:
            by_hand = wall(rounds, lambda _, pool=pool: list(pool.map(work, items)))
        what = f"vmap of {count} awaited calls of 20 ms, {most} at a time: ideal / wall"
        figures.append(Figure(what, ideal / took, asked_for, at_least=True))
        rows.append([str(most), *(f"{seconds:.4f} s" for seconds in (ideal, took, blocking, by_hand))])
        measured[str(most)] = {"ideal": ideal, "awaited": took, "blocking": blocking, "pool": by_hand}
    return figures, rows, measured


def numbers(rounds: int, count: int) -> tuple[list[Figure], Rows, Any]:
    def softmax(x: Any) -> Any:
        e = jax.numpy.exp(x - x.max())
        return e / e.sum()

    x = jax.numpy.asarray(np.arange(16.0))
    ours, bare = xcs.jit(softmax, backend="jax"), jax.jit(softmax)

    def calls(function: Callable[[Any], Any]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(count):
                function(x)

        return run

    took, wanted = cpu(rounds, calls(ours)), cpu(rounds, calls(bare))
    rows: Rows = [
        ["a call of softmax of 16", "CPU us"],
        ["xcs.jit(backend='jax')", f"{took / count * 1e6:.1f}"],
        ["jax.jit", f"{wanted / count * 1e6:.1f}"],
    ]
    figure = Figure("jax.jit / xcs.jit(backend='jax'), a small call", wanted / took, 0.9, at_least=True)
    return [figure], rows, {"ours": took / count, "bare": wanted / count}


def main(*, quick: bool) -> int:
    rounds = 1 if quick else 7
    return report.run(
        "xcs",
        {
            "running ahead": lambda: running_ahead(rounds),
            "costs": lambda: costs(rounds, 50 if quick else 1_000),
            "durable": lambda: durable(rounds),
            "mapping": lambda: mapping(rounds, 100),
            "numbers": lambda: numbers(rounds, 100 if quick else 5_000),
        },
        quick=quick,
    )
