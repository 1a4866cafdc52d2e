"""`fuse`: several numeric edges as one computation."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from mahsm import fuse, jit_edge, vmap
from mahsm.errors import EdgeError, JitError
from tests.helpers import MODES, run


def step(fn: Any, reads: str, writes: str, **options: Any) -> Any:
    return jit_edge(fn, in_keys=reads.split(), out_key=writes, name=f"to_{writes}", **options)


class Scale(eqx.Module):
    by: jax.Array

    def __call__(self, x: Any) -> Any:
        return x * self.by


DOUBLE = step(lambda a: a * 2, "a", "b")
ADD = step(lambda b, x: b + x, "b x", "c")
SUM = step(lambda c: c.sum(), "c", "d")
STATE = {"a": np.array([1.0, 2.0]), "x": 10.0}


@pytest.mark.parametrize("mode", MODES)
def test_it_computes_what_the_edges_do(mode: str) -> None:
    fused = fuse(DOUBLE, ADD, SUM)
    assert (fused.name, fused.reads, fused.writes) == ("to_b_to_c_to_d", {"a", "x"}, {"d"})
    state: dict[str, Any] = dict(STATE)
    for edge in (DOUBLE, ADD, SUM):
        state |= edge.invoke(state)
    assert run(fused, STATE, mode) == {"d": state["d"]} == {"d": 26.0}
    assert fused.stats.compiles == 1


def test_an_edge_is_fused_with_the_module_that_it_computes_with() -> None:
    scale = jit_edge(Scale(jnp.array(2.0)), in_keys=["x"], out_key="scaled", name="scale")
    scale.replace(Scale(jnp.array(10.0)))
    total = jit_edge(lambda scaled: scaled.sum(), in_keys=["scaled"], out_key="total", name="total")
    assert fuse(scale, total).invoke({"x": [1.0, 2.0]}) == {"total": 30.0}


def test_keep_says_what_comes_out() -> None:
    found = fuse(DOUBLE, ADD, SUM, keep=["b", "d"]).invoke(STATE)
    assert (found["b"].tolist(), found["d"]) == ([2.0, 4.0], 26.0)


def test_a_key_that_is_read_before_it_is_written() -> None:
    grow = step(lambda a: a + 1, "a", "a")
    again = jit_edge(lambda a: a * 2, in_keys=["a"], out_key="a", name="again")
    assert fuse(grow, again).invoke({"a": 1.0}) == {"a": 4.0}


def test_fused_edges_can_be_fused_and_mapped() -> None:
    fused = fuse(fuse(DOUBLE, ADD, name="both"), SUM, name="all")
    assert fused.invoke(STATE) == {"d": 26.0}
    mapped = vmap(fused, batch_key="rows", out_key="out", item_to_state=lambda row: {"a": row}, result="d")
    assert mapped.invoke({"rows": [[1.0, 2.0], [0.0, 0.0]], "x": 10.0}) == {"out": [26.0, 20.0]}


def test_it_is_drawn_with_its_steps() -> None:
    assert [*fuse(DOUBLE, ADD, SUM).graph.get_graph().nodes] == [
        "__start__",
        "to_b",
        "to_c",
        "to_d",
        "__end__",
    ]


def test_static_keys_and_modules() -> None:
    top = step(lambda b, k: jax.lax.top_k(b, k)[0], "b k", "c", static_keys=["k"])
    scale = jit_edge(Scale(jnp.array(2.0)), in_keys=["a"], out_key="b", name="scale")
    fused = fuse(scale, top)
    assert fused.invoke({"a": [1.0, 3.0, 2.0], "k": 2})["c"].tolist() == [6.0, 4.0]
    fused.replace(Scale(jnp.array(10.0)), step="scale")
    assert fused.invoke({"a": [1.0, 3.0, 2.0], "k": 1})["c"].tolist() == [30.0]
    with pytest.raises(
        EdgeError, match="needs the name of one of the fused edges; pass step= one of scale, to_c"
    ):
        fused.replace(Scale(jnp.array(1.0)))


def test_ragged_keys_stay_ragged_in_between() -> None:
    scores = step(lambda docs, mask: docs * 2, "docs", "scores", ragged=["docs"])
    best = step(
        lambda scores, mask: jnp.where(mask, scores, -jnp.inf).max(), "scores", "best", ragged=["scores"]
    )
    fused = fuse(scores, best, keep=["scores", "best"])
    for length in (3, 5, 20):
        found = fused.invoke({"docs": -np.arange(1.0, length + 1)})
        assert (found["best"], found["scores"].shape) == (-2.0, (length,))
    careless = fuse(scores, step(lambda scores: scores.max(), "scores", "best"))
    with pytest.raises(
        JitError, match="In a fused edge, steps that read a result of an edge with ragged= need ragged= too"
    ):
        careless.invoke({"docs": [-1.0, -2.0]})


def test_seeds_are_as_in_the_edges_alone() -> None:
    one = step(lambda a, *, key: a + jax.random.normal(key), "a", "b", seed_key="seed")
    two = step(lambda b, *, key: jnp.stack([b, jax.random.normal(key)]), "b", "c", seed_key="seed")
    state: dict[str, Any] = {"a": 0.0, "seed": 3}
    fused = fuse(one, two).invoke(state)["c"]
    state |= one.invoke(state)
    assert fused.tolist() == two.invoke(state)["c"].tolist()
    assert fused[0] != fused[1]


ON_CPU = step(lambda b: b, "b", "c", device="cpu")
IN_64 = step(lambda b: b, "b", "c", x64=True)
STATIC_B = step(lambda b: 1.0, "b", "c", static_keys=["b"])
RAGGED_B = step(lambda b, mask: b, "b", "c", ragged=["b"])
STATIC_X = jit_edge(lambda x: 1.0, in_keys=["x"], out_key="e", static_keys=["x"], name="to_e")
MESH = Mesh(np.array(jax.devices("cpu")[:1]), ("data",))
SHARD_A = step(lambda a: a, "a", "b", device=MESH, shard="a")
SHARD_B = step(lambda b: b, "b", "c", device=MESH, shard="b")
READS_B = step(lambda b: b, "b", "f")


@pytest.mark.parametrize(
    ("edges", "options", "message"),
    [
        ([], {}, "got 0 edges; expected at least two, such as fuse"),
        ([DOUBLE], {}, "got 1 edges"),
        ([DOUBLE, abs], {}, "got <built-in function abs>; expected edges made by jit_edge"),
        (
            [DOUBLE, DOUBLE],
            {},
            "two edges are named 'to_b'; expected a name for each. Pass name= to jit_edge",
        ),
        ([DOUBLE, ON_CPU], {}, "to_b has device=None, and to_c has 'cpu'; expected the same"),
        ([DOUBLE, IN_64], {}, "to_b has x64=False, and to_c has True"),
        ([DOUBLE, STATIC_B], {}, "'b' is static in to_c, but an earlier edge computes it"),
        ([ADD, STATIC_X], {}, "'x' is static in one of the edges and dynamic in another"),
        ([DOUBLE, RAGGED_B], {}, "'b' is ragged in to_c, but the edge that computes it has no ragged key"),
        ([SHARD_A, SHARD_B], {}, "the edges shard a, b; expected one key"),
        (
            [fuse(DOUBLE, ADD), READS_B],
            {},
            "to_f reads 'b', which an earlier edge computes and does not keep. Pass keep=",
        ),
        (
            [DOUBLE, ADD],
            {"keep": "b"},
            r"keep='b' is a string; expected a list of state keys, such as keep=\['b'\]",
        ),
        (
            [DOUBLE, ADD],
            {"keep": ["a"]},
            "keep has 'a'; expected some of the keys that the edges write, b, c",
        ),
        ([DOUBLE, ADD], {"keep": []}, "keep is empty; expected at least one key"),
        ([DOUBLE, ADD], {"name": "a|b"}, "name='a|b'; expected a node name"),
    ],
)
def test_what_cannot_be_fused(edges: Any, options: Any, message: str) -> None:
    with pytest.raises(EdgeError, match=message.replace("|", r"\|") if "a|b" in message else message):
        fuse(*edges, **options)


def test_a_long_name_is_counted() -> None:
    edges = [
        jit_edge(lambda x: x, in_keys=["x"], out_key="x", name=f"a_long_name_{number}") for number in range(5)
    ]
    assert fuse(*edges).name == "fused_5"
