"""Runs edges on four devices of the CPU, which JAX makes only in a new process; says whether results are
equal."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from mahsm import fuse, jit_edge, vmap
from mahsm.errors import EdgeError

assert len(jax.devices()) == 4
rng = np.random.default_rng(0)
docs, query = rng.normal(size=(64, 16)).astype(np.float32), rng.normal(size=16).astype(np.float32)
MESHES = {
    "one axis": Mesh(np.array(jax.devices()), ("data",)),
    "two axes": Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "model")),
    "explicit": jax.make_mesh((4,), ("data",)),
}


def score(docs, query):
    scores = docs @ query / jnp.linalg.norm(docs, axis=1)
    return {"best": jax.lax.top_k(scores, 5)[0], "all": jax.nn.softmax(scores)}


class Corpus(eqx.Module):
    docs: jax.Array

    def __call__(self, query):
        return score(self.docs, query)


def same(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


state = {"docs": docs, "query": query}
expected = jit_edge(score, in_keys=["docs", "query"], out_key="y").invoke(state)
for name, mesh in MESHES.items():
    options = {"device": mesh, "out_key": "y"}
    edge = jit_edge(score, in_keys=["docs", "query"], shard="docs", **options)
    same(edge.invoke(state), expected)
    spread = jit_edge(lambda docs: docs * 1, in_keys=["docs"], shard="docs", output="jax", **options).invoke(
        state
    )["y"]
    assert len(spread.sharding.device_set) == 4, spread.sharding
    assert len({str(shard.index) for shard in spread.addressable_shards}) == (2 if name == "two axes" else 4)
    resident = jit_edge(Corpus(docs), in_keys=["query"], shard="docs", **options)
    same(resident.invoke(state), expected)
    resident.replace(Corpus(docs * 2))
    same(
        resident.invoke(state)["y"]["all"],
        jit_edge(Corpus(docs * 2), in_keys=["query"], out_key="y").invoke(state)["y"]["all"],
    )
    assert resident.stats.compiles == 1
    queries = rng.normal(size=(10, 16)).astype(np.float32)
    over = {"batch_key": "queries", "out_key": "ys", "item_to_state": lambda query: {"query": query}}
    for target in (edge, resident):
        found = vmap(target, **over).invoke({"docs": docs, "queries": queries})["ys"]
        for query_, one in zip(queries, found, strict=True):
            same(
                one,
                jit_edge(score, in_keys=["docs", "query"], out_key="y").invoke(
                    {"docs": docs, "query": query_}
                ),
            )
    ragged = jit_edge(
        lambda docs, query, mask: jnp.where(mask, docs @ query, 0).sum(),
        in_keys=["docs", "query"],
        ragged=["docs"],
        shard="docs",
        **options,
    )
    for length in (1, 5, 9, 63):
        same(
            ragged.invoke({"docs": docs[:length], "query": query})["y"], float((docs[:length] @ query).sum())
        )
    fused = fuse(
        edge,
        jit_edge(
            lambda y: y["best"].sum(), in_keys=["y"], out_key="sum", device=mesh, shard="docs", name="sum"
        ),
    )
    same(fused.invoke(state)["sum"], float(expected["y"]["best"].sum()))
    batch = {"device": mesh, "shard": "batch"}
    spread = jit_edge(lambda query: query * 1, in_keys=["query"], out_key="y", output="jax", **batch)
    for count in (1, 4, 5, 11):
        vmap(spread, **over).invoke({"queries": queries[:count]})
    for size in (None, 3, 8):
        target = jit_edge(score, in_keys=["docs", "query"], out_key="y", **batch)
        found = vmap(target, **over, batch_size=size).invoke({"docs": docs, "queries": queries})["ys"]
        for query_, one in zip(queries, found, strict=True):
            same(
                one,
                jit_edge(score, in_keys=["docs", "query"], out_key="y").invoke(
                    {"docs": docs, "query": query_}
                ),
            )
        same(target.invoke(state), expected)
    (compiled,) = spread.program._kept.values()
    rows = compiled.run([], [np.ones((8, 16), np.float32)])["y"]
    assert len({str(shard.index) for shard in rows.addressable_shards}) == (2 if name == "two axes" else 4), (
        rows.sharding
    )

mesh = MESHES["one axis"]
uneven = jit_edge(score, in_keys=["docs", "query"], out_key="y", device=mesh, shard="docs")
with pytest.raises(EdgeError, match="cannot be spread evenly over 4 devices"):
    uneven.invoke({"docs": docs[:63], "query": query})
with pytest.raises(EdgeError, match="JAX has cpu:0, cpu:1, cpu:2, cpu:3"):
    jit_edge(lambda x: x, in_keys=["x"], out_key="y", device="cpu:9").invoke({"x": 1.0})
items = jit_edge(lambda x: x, in_keys=["x"], out_key="y", device=mesh, shard="x")
with pytest.raises(EdgeError, match="expected a key that all items share"):
    vmap(items, batch_key="xs", out_key="ys", item_to_state=lambda x: {"x": x}).invoke({"xs": docs})
print(
    jit_edge(lambda x: x, in_keys=["x"], out_key="y", device="cpu:2", output="jax")
    .invoke({"x": 1.0})["y"]
    .devices()
)
