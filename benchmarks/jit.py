"""What numeric edges and operators cost beside JAX's and LangGraph's own ways, and where NumPy is quicker.

Everything runs in this process, on the CPU; contenders take turns, and the best of several rounds counts.
Compilations are counted by JAX. Where JAX has a GPU, only what depends on the device is measured, and kept as
a scenario of its own.
"""

import asyncio
import gc
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from benchmarks import report
from benchmarks.ensembles import ensembles
from benchmarks.report import Figure
from mahsm import Branch, connect, fuse, jit_edge, operator_node, parallel, vmap
from mahsm._numeric.ragged import rows_of
from mahsm.operators import Operator, combine, partition

Rows = list[list[str]]
Contenders = dict[str, Callable[[], Any]]


ROUND = 0.05
"""Seconds that a round takes at least: what is quick is called again and again."""


def best_of(rounds: int, contenders: Contenders) -> dict[str, float]:
    """Seconds of each contender's quickest round; they take turns, and the first rounds, which also compile,
    do not count.
    """
    repeats: dict[str, int] = {}
    for name, run in contenders.items():
        run()
        began = time.perf_counter()
        run()
        repeats[name] = max(1, int(ROUND / (time.perf_counter() - began)))
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, run in contenders.items():
            gc.collect()
            began = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            best[name] = min(best[name], (time.perf_counter() - began) / repeats[name])
    return best


# One call.


def softmax(x: Any) -> Any:
    return jax.nn.softmax(x)


def numpy_softmax(x: Any) -> Any:
    e = np.exp(x - x.max())
    return e / e.sum()


def mlp_weights(rng: Any, width: int) -> list[Any]:
    return [rng.normal(size=(width, width)).astype(np.float32) / width**0.5 for _ in range(3)]


class Layers(eqx.Module):
    weights: list[Any]

    def __call__(self, x: Any) -> Any:
        for weight in self.weights:
            x = jnp.tanh(weight @ x)
        return x


def numpy_layers(weights: list[Any], x: Any) -> Any:
    for weight in weights:
        x = np.tanh(weight @ x)
    return x


def nearest(query: Any, docs: Any) -> Any:
    return jax.lax.top_k(docs @ query / jnp.linalg.norm(query), 8)[0]


def numpy_nearest(query: Any, docs: Any) -> Any:
    scores = docs @ query / np.linalg.norm(query)
    best = np.argpartition(-scores, 8)[:8]
    return np.sort(scores[best])[::-1]


class Nearest(eqx.Module):
    docs: Any

    def __call__(self, query: Any) -> Any:
        return nearest(query, self.docs)


def calls(rng: Any) -> dict[str, Contenders]:
    """For each piece of work: `jax.jit` fed NumPy, `jit_edge`, `eqx.filter_jit`, and NumPy."""
    work: dict[str, Contenders] = {}
    x = rng.normal(size=16).astype(np.float32)
    jitted, filtered, edge = (
        jax.jit(softmax),
        eqx.filter_jit(softmax),
        jit_edge(softmax, in_keys=["x"], out_key="y"),
    )
    work["softmax of 16"] = {
        "jax.jit": lambda: np.asarray(jitted(x)),
        "jit_edge": lambda: edge.invoke({"x": x}),
        "eqx.filter_jit": lambda: np.asarray(filtered(x)),
        "NumPy": lambda: numpy_softmax(x),
    }
    for width in (64, 512):
        layers, wide = Layers(mlp_weights(rng, width)), rng.normal(size=width).astype(np.float32)
        work[f"3 layers of {width}"] = module_calls(
            layers, wide, lambda x, layers=layers: numpy_layers(layers.weights, x)
        )
    docs, query = rng.normal(size=(1000, 384)).astype(np.float32), rng.normal(size=384).astype(np.float32)
    work["top 8 of 1,000 x 384"] = module_calls(
        Nearest(docs), query, lambda query: numpy_nearest(query, docs)
    )
    return work


def module_calls(module: Any, x: Any, plain: Callable[[Any], Any]) -> Contenders:
    resident = jax.tree.map(jnp.asarray, module)
    jitted, filtered = jax.jit(lambda module, x: module(x)), eqx.filter_jit(resident)
    edge = jit_edge(module, in_keys=["x"], out_key="y")
    return {
        "jax.jit": lambda: np.asarray(jitted(resident, x)),
        "jit_edge": lambda: edge.invoke({"x": x}),
        "eqx.filter_jit": lambda: np.asarray(filtered(x)),
        "NumPy": lambda: plain(x),
    }


def dispatch(rounds: int) -> tuple[list[Figure], Rows, dict[str, dict[str, float]]]:
    found = {
        name: best_of(rounds, contenders) for name, contenders in calls(np.random.default_rng(0)).items()
    }
    names = list(next(iter(found.values())))
    rows = [["us per call", *names, "quickest"]]
    for work, seconds in found.items():
        rows.append(
            [work, *(f"{seconds[name] * 1e6:.1f}" for name in names), min(names, key=seconds.__getitem__)]
        )
    small = found["softmax of 16"]
    figures = [
        Figure("jit_edge / jax.jit fed NumPy, softmax of 16", small["jit_edge"] / small["jax.jit"], 1.8),
        Figure("jit_edge / eqx.filter_jit, softmax of 16", small["jit_edge"] / small["eqx.filter_jit"], 1),
    ]
    return figures, rows, found


# Compilations.


def compiles() -> tuple[list[Figure], dict[str, Any]]:
    rng = np.random.default_rng(1)
    edge = jit_edge(lambda x, k: x * k, in_keys=["x", "k"], out_key="y")
    for number in range(1000):
        edge.invoke({"x": rng.normal(size=16), "k": float(number)})
    ragged = jit_edge(
        lambda x, mask: jax.nn.softmax(jnp.where(mask, x, -jnp.inf)),
        in_keys=["x"],
        out_key="y",
        ragged=["x"],
        name="ragged",
    )
    for length in rng.integers(1, 1000, 200):
        ragged.invoke({"x": rng.normal(size=length)})
    figures = [
        Figure("compilations in 1,000 calls of one shape", edge.stats.compiles, 1, ""),
        Figure("compilations in 200 calls of ragged lengths up to 999", ragged.stats.compiles, 8, ""),
    ]
    return figures, {"equal": edge.stats.compile_ms, "ragged": ragged.stats.compile_ms}


# Many items.


class Queries(TypedDict, total=False):
    queries: list[Any]
    docs: Any
    hidden: Any
    routes: Any
    query: Any
    found: Annotated[list[Any], lambda old, new: old + new]


def rank(query: Any, docs: Any, hidden: Any, routes: Any) -> Any:
    """The passages most like a query, by cosine, and a route for it, by two layers."""
    scores = (docs @ query) / (jnp.linalg.norm(docs, axis=1) * jnp.linalg.norm(query))
    best, places = jax.lax.top_k(scores, 4)
    return {"scores": best, "docs": places, "route": jnp.argmax(jnp.tanh(query @ hidden) @ routes)}


def numpy_rank(query: Any, docs: Any, hidden: Any, routes: Any) -> Any:
    scores = (docs @ query) / (np.linalg.norm(docs, axis=1) * np.linalg.norm(query))
    places = np.argpartition(-scores, 4)[:4]
    places = places[np.argsort(-scores[places])]
    return {
        "scores": scores[places],
        "docs": places,
        "route": int(np.argmax(np.tanh(query @ hidden) @ routes)),
    }


def many_contenders(queries: list[Any], shared: dict[str, Any]) -> Contenders:
    state = {"queries": queries, **shared}
    arrays = list(shared.values())
    resident = [jnp.asarray(array) for array in arrays]
    jitted, mapped = jax.jit(rank), jax.jit(jax.vmap(rank, in_axes=(0, None, None, None)))
    ranked = jit_edge(rank, in_keys=["query", *shared], out_key="best", name="rank")
    edge = vmap(
        ranked,
        batch_key="queries",
        out_key="found",
        item_to_state=lambda query: {"query": query},
        result="best",
        name="all",
    )
    together = connect(StateGraph(Queries), START, edge, END).compile()
    builder = StateGraph(Queries)
    builder.add_node(
        "rank", lambda state: {"found": [jax.tree.map(np.asarray, jitted(state["query"], *arrays))]}
    )
    builder.add_conditional_edges(
        START, lambda state: [Send("rank", {"query": query}) for query in state["queries"]], ["rank"]
    )
    each = builder.compile()
    return {
        "vmap(jit_edge)": lambda: edge.invoke(state),
        "vmap(jit_edge), in a graph": lambda: together.invoke(state),
        "Send per item, each a jax.jit call": lambda: each.invoke(state),
        "jax.jit per item": lambda: [jax.tree.map(np.asarray, jitted(query, *arrays)) for query in queries],
        "jax.jit per item, shared arrays kept by JAX": lambda: [
            jax.tree.map(np.asarray, jitted(query, *resident)) for query in queries
        ],
        "NumPy per item": lambda: [numpy_rank(query, *arrays) for query in queries],
        "one jax.vmap by hand": lambda: jax.tree.map(np.asarray, mapped(np.stack(queries), *arrays)),
    }


def many(rounds: int, count: int) -> tuple[list[Figure], Rows, dict[str, float]]:
    rng = np.random.default_rng(2)
    shared = {
        "docs": rng.normal(size=(100, 384)),
        "hidden": rng.normal(size=(384, 128)),
        "routes": rng.normal(size=(128, 4)),
    }
    queries = [rng.normal(size=384).astype(np.float32) for _ in range(count)]
    contenders = many_contenders(queries, {name: array.astype(np.float32) for name, array in shared.items()})
    seconds = best_of(rounds, contenders)
    # So near to each other that it takes more rounds to tell.
    near = ("vmap(jit_edge)", "one jax.vmap by hand")
    seconds |= best_of(4 * rounds, {name: contenders[name] for name in near})
    ours, graph = seconds["vmap(jit_edge)"], seconds["vmap(jit_edge), in a graph"]
    rows = [[f"{count:,} queries: top 4 of 100 x 384, and a route", "ms", "against vmap(jit_edge)"]]
    rows += [[name, f"{each * 1000:.2f}", f"{each / ours:.2f} x"] for name, each in seconds.items()]
    sent, jitted = seconds["Send per item, each a jax.jit call"], seconds["jax.jit per item"]
    figures = [
        Figure(
            f"Send per item / vmap(jit_edge), in a graph, {count:,} items", sent / graph, 100, at_least=True
        ),
        Figure(f"jax.jit per item / vmap(jit_edge), {count:,} items", jitted / ours, 20, at_least=True),
        Figure(
            f"vmap(jit_edge) / one jax.vmap by hand, {count:,} items",
            ours / seconds["one jax.vmap by hand"],
            1.3,
        ),
    ]
    return figures, rows, seconds


# Batches of any size, storms, and integers.


def batches() -> tuple[list[Figure], dict[str, float]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.edges.vmap.memory_worker"], capture_output=True, text=True, check=True
    )
    figures = [
        Figure(
            "memory of a batch in slices, besides its items and results / a slice", float(done.stdout), 2.2
        ),
        Figure(
            "rows computed / items, at most, up to 4,096 items",
            max(rows_of(n) / n for n in range(1, 4097)),
            1.25,
        ),
    ]
    return figures, {figure.what: figure.measured for figure in figures}


def storms(rounds: int, count: int) -> tuple[list[Figure], dict[str, float]]:
    edge = jit_edge(lambda x, k: x * k, in_keys=["x", "k"], out_key="y", static_keys=["k"])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for number in range(40):
            edge.invoke({"x": 1.0, "k": number})
    numbers = np.random.default_rng(4).integers(0, 1000, count * 1000).astype(np.int32)
    small, large = jit_edge(jnp.sum, in_keys=["x"], out_key="y", name="sum"), jax.jit(jnp.sum)
    seconds = best_of(
        rounds, {"64 bits": lambda: small.invoke({"x": numbers}), "32 bits": lambda: large(numbers).item()}
    )
    total = small.invoke({"x": [2**30] * 4})["y"]
    figures = [
        Figure("warnings in 40 calls of as many static values", len(seen), 1, ""),
        Figure("sum of [2**30] * 4 / NumPy's", float(total / np.sum([2**30] * 4)), 1, at_least=True),
        Figure(
            f"sum of {len(numbers):,} ints in 64 bits / in 32 by jax.jit",
            seconds["64 bits"] / seconds["32 bits"],
            3,
        ),
    ]
    return figures, seconds


# What is around a computation.


def around(rounds: int, count: int) -> tuple[list[Figure], Rows, dict[str, float]]:
    x = np.ones(16, np.float32)
    edge = jit_edge(softmax, in_keys=["x"], out_key="y")
    loop = asyncio.new_event_loop()

    async def awaited() -> None:
        for _ in range(100):
            await edge.ainvoke({"x": x})

    arrays = {f"k{number}": np.ones(4, np.float32) for number in range(count)}
    jitted = jax.jit(lambda d: sum(each.sum() for each in d.values()))
    read = jit_edge(
        lambda d: sum(each.sum() for each in d.values()), in_keys=["d"], out_key="y", name="total"
    )
    seconds = best_of(
        rounds,
        {
            "100 times ainvoke": lambda: loop.run_until_complete(awaited()),
            "100 times invoke": lambda: [edge.invoke({"x": x}) for _ in range(100)],
            "a dict of arrays, jit_edge": lambda: read.invoke({"d": arrays}),
            "a dict of arrays, jax.jit": lambda: np.asarray(jitted(arrays)),
            "parallel(eager=True), built": lambda: branches(count),
            "a StateGraph by hand, built": lambda: graph_by_hand(count),
        },
    )
    loop.close()
    ratios = [
        one / two for one, two in zip(list(seconds.values())[::2], list(seconds.values())[1::2], strict=True)
    ]
    rows = [
        [f"{count:,} arrays, {count:,} branches", "ms"],
        *([name, f"{each * 1000:.2f}"] for name, each in seconds.items()),
    ]
    figures = [
        Figure("ainvoke / invoke of a small compiled edge", ratios[0], 2),
        Figure(f"jit_edge / jax.jit, a dict of {count:,} arrays", ratios[1], 2),
        Figure(f"parallel(eager=True) / StateGraph by hand, {count:,} branches built", ratios[2], 1.5),
    ]
    return figures, rows, seconds


def needed(number: int) -> bool:
    """Whether a branch depends on the one before it: in chains of ten."""
    return number % 10 > 0


def branches(count: int) -> Any:
    made = [
        Branch(plain_node(f"n{n}"), name=f"n{n}", reads=[f"k{n - 1}"] if needed(n) else [], writes=[f"k{n}"])
        for n in range(count)
    ]
    return parallel(made, scheduler="wave", eager=True)


def graph_by_hand(count: int) -> Any:
    builder = StateGraph(TypedDict("State", {f"k{n}": Any for n in range(count)}, total=False))  # type: ignore[misc]
    for n in range(count):
        builder.add_node(f"n{n}", plain_node(f"n{n}"))
        builder.add_edge(f"n{n - 1}" if needed(n) else START, f"n{n}")
    return builder.compile()


# The device.


def device(rounds: int, count: int, megabytes: int) -> tuple[list[Figure], Rows, dict[str, float]]:
    """The same on whatever device JAX has: a call, items, an array in and out, and two edges that do not
    wait.
    """
    name = jax.devices()[0].device_kind
    rows, seconds = [[f"on {name}, ms", "jit_edge", "jax", "ratio"]], dict[str, float]()
    for dtype in (jnp.float32, jnp.bfloat16):
        for what, pair in on_device(dtype, count, megabytes).items():
            found = best_of(rounds, {f"{what}, {dtype.__name__}, {who}": run for who, run in pair.items()})
            ours, theirs = found.values()
            rows.append(
                [
                    f"{what}, {dtype.__name__}",
                    f"{ours * 1000:.3f}",
                    f"{theirs * 1000:.3f}",
                    f"{ours / theirs:.2f} x",
                ]
            )
            seconds |= found
    return [], rows, seconds


def on_device(dtype: Any, count: int, megabytes: int) -> dict[str, Contenders]:
    def double(x: Any) -> Any:
        return x * 2

    def square(x: Any) -> Any:
        return (x @ x).mean()

    small = np.asarray(jnp.ones(16, dtype))
    large = np.asarray(jnp.ones(megabytes * 1_000_000 // jnp.dtype(dtype).itemsize, dtype))
    items = [np.asarray(jnp.ones(384, dtype)) for _ in range(count)]
    wide = jnp.ones((count, count), dtype)
    jitted, squared, mapped = jax.jit(double), jax.jit(square), jax.jit(jax.vmap(double))
    edge = jit_edge(double, in_keys=["x"], out_key="y")
    over = vmap(edge, batch_key="xs", out_key="ys", item_to_state=lambda x: {"x": x}, result="y", name="all")
    waits, not_waiting = (
        [jit_edge(square, in_keys=["x"], out_key="y", name=f"square{n}", output=output) for n in range(2)]
        for output in ("numpy", "jax")
    )
    return {
        "a call": {"jit_edge": lambda: edge.invoke({"x": small}), "jax": lambda: np.asarray(jitted(small))},
        f"{count:,} items": {
            "jit_edge": lambda: over.invoke({"xs": items}),
            "jax": lambda: np.asarray(mapped(np.stack(items))),
        },
        f"{megabytes} MB in and out": {
            "jit_edge": lambda: edge.invoke({"x": large}),
            "jax": lambda: np.asarray(jitted(large)),
        },
        "two edges, each waited for": {
            "jit_edge": lambda: [edge.invoke({"x": wide}) for edge in waits],
            "jax": lambda: [np.asarray(squared(wide)) for _ in range(2)],
        },
        "two edges, output='jax'": {
            "jit_edge": lambda: jax.block_until_ready(
                [edge.invoke({"x": wide})["y"] for edge in not_waiting]
            ),
            "jax": lambda: jax.block_until_ready([squared(wide) for _ in range(2)]),
        },
    }


# Four edges as one.


class Numbers(TypedDict, total=False):
    x: Any
    a: Any
    b: Any
    c: Any
    d: Any


def one_after_the_other(edges: list[Any], state: dict[str, Any]) -> dict[str, Any]:
    for edge in edges:
        state = {**state, **edge.invoke(state)}
    return state


def fusing(rounds: int) -> tuple[list[Figure], Rows, dict[str, float]]:
    edges = [
        jit_edge(lambda x: x - x.mean(), in_keys=["x"], out_key="a", name="centre"),
        jit_edge(lambda a: a / (1e-6 + jnp.abs(a).max()), in_keys=["a"], out_key="b", name="scale"),
        jit_edge(lambda b: jnp.tanh(b) ** 2, in_keys=["b"], out_key="c", name="bend"),
        jit_edge(lambda c: jax.nn.softmax(c), in_keys=["c"], out_key="d", name="weigh"),
    ]
    fused = fuse(*edges, name="fused")
    four, one = (connect(StateGraph(Numbers), START, *steps, END).compile() for steps in (edges, [fused]))
    state = {"x": np.random.default_rng(3).normal(size=64).astype(np.float32)}
    loop = asyncio.new_event_loop()
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "by themselves": (lambda: one_after_the_other(edges, state), lambda: fused.invoke(state)),
        "in a graph, invoke": (lambda: four.invoke(state), lambda: one.invoke(state)),
        "in a graph, ainvoke": (
            lambda: loop.run_until_complete(four.ainvoke(state)),
            lambda: loop.run_until_complete(one.ainvoke(state)),
        ),
    }
    contenders = {
        f"{count}, {where}": run
        for where, pair in pairs.items()
        for count, run in zip((4, 1), pair, strict=True)
    }
    seconds = best_of(rounds, contenders)
    loop.close()
    rows = [["four edges on 64 numbers, us", "one after the other", "fused", "ratio"]]
    for where in pairs:
        both = [seconds[f"{count}, {where}"] for count in (4, 1)]
        rows.append([where, *(f"{each * 1e6:.0f}" for each in both), f"{both[0] / both[1]:.2f} x"])
    ratio = seconds["4, by themselves"] / seconds["1, by themselves"]
    return [Figure("four edges / the four fused, by themselves", ratio, 2.5, at_least=True)], rows, seconds


# Operators.


class Layer(Operator):
    label: str
    weight: jax.Array

    def forward(self, input: Any, /) -> Any:
        return jnp.tanh(self.weight @ input)


class Stack(Operator):
    layers: list[Operator]

    def forward(self, input: Any, /) -> Any:
        for layer in self.layers:
            input = layer(input)
        return input


class Passed(TypedDict, total=False):
    x: Any


class Pass(Operator):
    label: str
    weight: jax.Array

    def forward(self, input: Any, /) -> Any:
        return {"x": input["x"]}


def plain_layer(label: str) -> Any:
    def layer(weight: Any, x: Any) -> Any:
        return jnp.tanh(weight @ x)

    layer.__name__ = label
    return layer


def plain_node(label: str) -> Any:
    def node(state: Any) -> Any:
        return {"x": state["x"]}

    node.__name__ = label
    return node


def chain_of(nodes: list[Any]) -> Any:
    builder = StateGraph(Passed)
    names = [f"n{number}" for number in range(len(nodes))]
    for name, node in zip(names, nodes, strict=True):
        builder.add_node(name, node)
    for start, end in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(start, end)
    return builder.compile()


def operators(rounds: int, count: int) -> tuple[list[Figure], Rows, dict[str, float]]:
    eye = jnp.eye(4)
    stack = Stack([Layer(f"layer{number}", eye) for number in range(count)])
    layers, weights, x = (
        [plain_layer(f"layer{number}") for number in range(count)],
        [eye] * count,
        jnp.ones(4),
    )

    def plain(weights: Any, x: Any) -> Any:
        for layer, weight in zip(layers, weights, strict=True):
            x = layer(weight, x)
        return x

    compiled = best_of(
        max(1, rounds // 3),
        {
            "plain functions, traced and compiled by JAX": lambda: (
                jax.jit(lambda w, x: plain(w, x)).lower(weights, x).compile()
            ),
            "operators, traced and compiled by JAX": lambda: (
                jax.jit(lambda s, x: s(x)).lower(stack, x).compile()
            ),
        },
    )
    passes = [Pass(f"pass{number}", eye) for number in range(count)]
    plain_nodes = [plain_node(f"pass{number}") for number in range(count)]
    built = best_of(
        rounds,
        {
            "plain functions, a graph of LangGraph": lambda: chain_of(plain_nodes),
            "operators, a graph of LangGraph": lambda: chain_of([operator_node(each) for each in passes]),
            "partition and combine": lambda: combine(*partition(stack)),
        },
    )
    seconds = compiled | built
    rows = [[f"{count:,} operators", "ms"], *([name, f"{each * 1000:.1f}"] for name, each in seconds.items())]
    traced, graph = (
        seconds[f"operators, {what}"] / seconds[f"plain functions, {what}"]
        for what in ("traced and compiled by JAX", "a graph of LangGraph")
    )
    figures = [
        Figure(f"{count:,} operators / plain functions, traced and compiled by JAX", traced, 1.05),
        Figure(f"{count:,} operators / plain functions, a graph built and compiled", graph, 1.05),
        Figure(
            f"partition and combine of {count:,} operators", seconds["partition and combine"] * 1000, 20, "ms"
        ),
    ]
    return figures, rows, seconds


def main(*, quick: bool) -> int:
    rounds, size = (1, 50) if quick else (12, 1000)
    on: report.Part = lambda: device(rounds, size, 1 if quick else 100)  # noqa: E731
    if jax.default_backend() != "cpu":
        return report.run("jit_gpu", {"device": on}, quick=quick, device=jax.devices()[0].device_kind)
    parts: dict[str, report.Part] = {
        "dispatch": lambda: dispatch(rounds),
        "compiles": compiles,
        "many": lambda: many(max(1, rounds // 2), size),
        "fuse": lambda: fusing(rounds),
        "batches": batches,
        "storms": lambda: storms(max(1, rounds // 3), size),
        "around": lambda: around(max(1, rounds // 3), size),
        "device": on,
        "operators": lambda: operators(rounds, size),
        "ensembles": lambda: ensembles(rounds),
    }
    return report.run("jit", parts, quick=quick)
