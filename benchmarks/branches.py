"""What branches cost beside LangGraph's own edges and other libraries' forks and joins, and what deciding
early saves.

Branches wait, so the figures are wall time; every contender runs in this process, one after the other, and
the best of several rounds counts.
"""

import asyncio
import gc
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from langchain_core.runnables import RunnableLambda, RunnableParallel
from langgraph.graph import END, START, StateGraph
from pydantic_graph import GraphBuilder, StepContext, reduce_list_append
from typing_extensions import TypedDict

from benchmarks import report
from benchmarks.report import Figure
from mahsm import Branch, parallel, vmap
from mahsm.reducers import majority_vote, tree_reduce

Rows = list[list[str]]
ENSEMBLE, LATENCY = 8, 0.05


def best_of(rounds: int, run: Callable[[], Awaitable[Any]]) -> float:
    """Seconds of the quickest round; the first one, which also imports and compiles, does not count."""

    async def timed() -> float:
        gc.collect()
        began = time.perf_counter()
        await run()
        return time.perf_counter() - began

    async def all_of() -> list[float]:
        return [await timed() for _ in range(rounds + 1)]

    return min(asyncio.run(all_of())[1:])


# An ensemble: branches that all wait the same time.


class Votes(TypedDict, total=False):
    votes: Annotated[list[int], lambda old, new: old + new]
    x: int


def ensemble_contenders(count: int) -> dict[str, Callable[[], Awaitable[Any]]]:
    async def vote(_: Any) -> dict[str, int]:
        await asyncio.sleep(LATENCY)
        return {}

    ours = parallel([Branch(vote, name=f"voter{number}") for number in range(count)])

    async def langgraph_vote(_: Any) -> Any:
        await asyncio.sleep(LATENCY)
        return {"votes": [1]}

    builder: StateGraph[Any, Any, Any, Any] = StateGraph(Votes)
    for number in range(count):
        builder.add_node(f"voter{number}", langgraph_vote)
        builder.add_edge(START, f"voter{number}")
        builder.add_edge(f"voter{number}", END)
    graph = builder.compile()
    runnable: Any = RunnableParallel({f"voter{number}": RunnableLambda(vote) for number in range(count)})
    forked = pydantic_ensemble(count)
    return {
        "parallel": lambda: ours.ainvoke({"x": 1}),
        "LangGraph edges": lambda: graph.ainvoke({"x": 1}),
        "RunnableParallel": lambda: runnable.ainvoke({"x": 1}),
        "pydantic-graph fork and join": lambda: forked.run(state=None, inputs=None),
    }


def pydantic_ensemble(count: int) -> Any:
    builder: Any = GraphBuilder(output_type=list)

    def voter(number: int) -> Any:
        async def vote(_: StepContext[Any, Any, Any]) -> int:
            await asyncio.sleep(LATENCY)
            return number

        return builder.step(vote, node_id=f"voter{number}")

    voters = [voter(number) for number in range(count)]
    joined = builder.join(reduce_list_append, initial_factory=list)
    builder.add(
        builder.edge_from(builder.start_node).to(*voters),
        builder.edge_from(*voters).to(joined),
        builder.edge_from(joined).to(builder.end_node),
    )
    return builder.build()


def ensemble(rounds: int) -> tuple[list[Figure], Rows, dict[str, float]]:
    one = best_of(rounds, lambda: asyncio.sleep(LATENCY))
    walls = {name: best_of(rounds, run) for name, run in ensemble_contenders(ENSEMBLE).items()}
    rows = [[f"{ENSEMBLE} branches of {LATENCY * 1000:.0f} ms", "wall / one branch"]]
    rows += [[name, f"{wall / one:.3f}"] for name, wall in walls.items()]
    figure = Figure(
        f"{ENSEMBLE} branches of {LATENCY * 1000:.0f} ms / one branch", walls["parallel"] / one, 1.1
    )
    return [figure], rows, {**walls, "one branch": one}


# A diamond: branches that depend on each other, and take different times.


def diamond(count: int) -> tuple[dict[str, list[str]], dict[str, float]]:
    """One branch at the top, one at the bottom, and layers of random width between; each needs some of the
    layer before.
    """
    generator = random.Random(7)
    layers: list[list[str]] = [["b0"]]
    number = 1
    while number < count - 1:
        width = min(generator.randint(3, 6), count - 1 - number)
        layers.append([f"b{number + place}" for place in range(width)])
        number += width
    layers.append([f"b{count - 1}"])
    needs: dict[str, list[str]] = {"b0": []}
    for before, layer in itertools.pairwise(layers):
        for name in layer:
            needs[name] = before if layer is layers[-1] else generator.sample(before, min(len(before), 2))
    return needs, {name: generator.uniform(0.02, 0.2) for name in needs}


def critical_path(needs: dict[str, list[str]], seconds: dict[str, float]) -> float:
    ends: dict[str, float] = {}
    for name in needs:  # in topological order
        ends[name] = seconds[name] + max((ends[need] for need in needs[name]), default=0.0)
    return max(ends.values())


def diamond_contenders(
    needs: dict[str, list[str]], seconds: dict[str, float]
) -> dict[str, Callable[[], Awaitable[Any]]]:
    def waits(name: str) -> Any:
        async def target(_: Any) -> Any:
            await asyncio.sleep(seconds[name])
            return {name: 1}

        return target

    branches = [Branch(waits(name), name=name, after=before) for name, before in needs.items()]
    eager = parallel(branches, scheduler="wave", eager=True)
    waves = parallel(branches, scheduler="wave")
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(TypedDict("State", dict.fromkeys(needs, int)))  # type: ignore[misc]
    for name, before in needs.items():
        builder.add_node(f"node_{name}", waits(name))
        builder.add_edge([f"node_{need}" for need in before] if before else START, f"node_{name}")
    graph = builder.compile()
    return {
        "parallel, eager waves": lambda: eager.ainvoke({"x": 1}),
        "parallel, waves": lambda: waves.ainvoke({"x": 1}),
        "LangGraph edges": lambda: graph.ainvoke({"b0": 0}),
    }


def diamonds(rounds: int, count: int) -> tuple[list[Figure], Rows, dict[str, float]]:
    needs, seconds = diamond(count)
    path = critical_path(needs, seconds)
    walls = {name: best_of(rounds, run) for name, run in diamond_contenders(needs, seconds).items()}
    rows = [[f"{count} branches in a diamond", "wall / critical path"]]
    rows += [[name, f"{wall / path:.3f}"] for name, wall in walls.items()]
    figure = Figure(
        f"diamond of {count} branches, eager waves / critical path",
        walls["parallel, eager waves"] / path,
        1.05,
    )
    return [figure], rows, {**walls, "critical path": path}


# Deciding early.


def early(voters: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    found: dict[str, tuple[int, float]] = {}
    for name, options in {
        "voting after everything": {},
        "stop_when=majority_vote": {"stop_when": majority_vote},
    }.items():
        calls = 0

        async def vote(state: Any) -> str:
            nonlocal calls
            calls += 1
            await asyncio.sleep(LATENCY)
            return "yes" if state["item"] % 5 else "no"

        edge = vmap(vote, batch_key="xs", out_key="ys", max_concurrency=8, **options)
        began = time.perf_counter()
        update = asyncio.run(edge.ainvoke({"xs": list(range(voters))}))
        assert majority_vote(update["ys"]) == "yes"
        found[name] = calls, time.perf_counter() - began
    everything, stopped = found.values()
    rows = [[f"{voters} voters, one in five disagrees", "calls", "seconds"]]
    rows += [[name, str(calls), f"{seconds:.2f}"] for name, (calls, seconds) in found.items()]
    figures = [
        Figure(f"majority of {voters}, early / all calls", stopped[0] / everything[0], 0.8),
        Figure(f"majority of {voters}, early / all time", stopped[1] / everything[1], 0.8),
    ]
    return (
        figures,
        rows,
        {name: {"calls": calls, "seconds": seconds} for name, (calls, seconds) in found.items()},
    )


def tree(count: int, arity: int) -> tuple[list[Figure], dict[str, int]]:
    sizes: list[int] = []
    depths: dict[int, int] = {}

    async def merge(state: Any) -> dict[str, int]:
        sizes.append(len(state["items"]))
        depth = 1 + max((item["depth"] if isinstance(item, dict) else 0) for item in state["items"])
        depths[depth] = depths.get(depth, 0) + 1
        return {"depth": depth}

    result = tree_reduce(range(count), merge=merge, arity=arity, max_concurrency=32)
    figures = [
        Figure(f"tree of {count:,} values, arity {arity}: levels", result["depth"], 4, ""),
        Figure(f"tree of {count:,} values, arity {arity}: calls", len(sizes), 144, ""),
        Figure(f"tree of {count:,} values, arity {arity}: most values in a call", max(sizes), arity, ""),
    ]
    return figures, {"calls": len(sizes), "levels": len(depths)}


def main(*, quick: bool) -> int:
    rounds = 1 if quick else 10
    parts: dict[str, report.Part] = {
        "ensemble": lambda: ensemble(rounds),
        "diamond": lambda: diamonds(rounds, 10 if quick else 30),
        "early": lambda: early(101),
        "tree": lambda: tree(1000, 8),
    }
    return report.run("branches", parts, quick=quick)
