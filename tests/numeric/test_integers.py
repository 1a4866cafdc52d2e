"""`jit_edge`: integers are computed in 64 bits, and floats as ever."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mahsm import fuse, jit_edge, vmap

BIG = [2**30, 2**30 - 2, -6, 2**30 + 6]


def looped(xp: Any, x: Any) -> Any:
    if xp is np:
        return np.sum(x) * 3
    return jax.lax.fori_loop(0, 3, lambda _, total: total + x.sum(), 0)


def scanned(xp: Any, x: Any) -> Any:
    if xp is np:
        return np.cumsum(x) * 2
    return jax.lax.scan(lambda carry, each: (carry + each, (carry + each) * 2), jnp.int32(0), x)[1]


def while_looped(xp: Any, x: Any) -> Any:
    if xp is np:
        return x * 8
    return jax.lax.while_loop(lambda state: state[0] < 3, lambda state: (state[0] + 1, state[1] * 2), (0, x))[
        1
    ]


def branched(xp: Any, x: Any) -> Any:
    return x * 4 if xp is np else jax.lax.cond(x[0] > 0, lambda each: each * 4, lambda each: each, x)


def segments(xp: Any, x: Any) -> Any:
    if xp is np:
        return np.array([x[0] + x[1], x[2] + x[3]])
    return jax.ops.segment_sum(x, jnp.array([0, 0, 1, 1]), num_segments=2)


EXACT: dict[str, Callable[[Any, Any], Any]] = {
    "sum": lambda xp, x: x.sum(),
    "product": lambda xp, x: xp.prod(x[:2]),
    "cumsum": lambda xp, x: xp.cumsum(x),
    "cumprod": lambda xp, x: xp.cumprod(x[:2]),
    "multiply": lambda xp, x: x * 3 - 1,
    "square": lambda xp, x: x**2,
    "negative": lambda xp, x: abs(-x * 4),
    "dot": lambda xp, x: x @ x,
    "outer": lambda xp, x: xp.einsum("i,j->ij", x, x),
    "shift": lambda xp, x: (x << 2) >> 1,
    "modulo": lambda xp, x: (x * 5) % 7,
    "floor division": lambda xp, x: (x * 5) // 3,
    "where": lambda xp, x: xp.where(x > 0, x * 4, 7),
    "clip": lambda xp, x: xp.clip(x * 8, 0, 2**31 - 1),
    "sort": lambda xp, x: xp.sort(x * 4),
    "argmax": lambda xp, x: xp.argmax(x * 4),
    "argmin": lambda xp, x: xp.argmin(-x * 4),
    "argmax of rows": lambda xp, x: xp.argmax((x * 4).reshape(2, 2), axis=1),
    "index": lambda xp, x: (x * 4)[xp.argsort(x)[-1]],
    "concatenate": lambda xp, x: xp.concatenate([x, x * 4])[::-1],
    "difference": lambda xp, x: xp.diff(x * 4),
    "maximum": lambda xp, x: xp.maximum(x * 4, 3).max(),
    "round": lambda xp, x: xp.round(x * 4.0 / 2**30).astype(int) * 2**30,
    "float": lambda xp, x: (x.sum() + 2) / 2,
    "pad": lambda xp, x: xp.pad(x * 4, 1).reshape(2, 3).T,
    "loop": looped,
    "scan": scanned,
    "while": while_looped,
    "cond": branched,
    "segments": segments,
}


@pytest.mark.parametrize("work", EXACT.values(), ids=EXACT)
def test_integers_do_not_overflow(work: Callable[[Any, Any], Any]) -> None:
    edge = jit_edge(lambda x: work(jnp, x), in_keys=["x"], out_key="y")
    expected = work(np, np.array(BIG))
    np.testing.assert_allclose(
        edge.invoke({"x": BIG})["y"], expected, rtol=1e-7 if expected.dtype.kind == "f" else 0
    )
    over = vmap(edge, batch_key="xs", out_key="ys", item_to_state=lambda x: {"x": x}, result="y")
    for x, y in zip(
        [BIG, BIG[::-1], [1, 2, 3, 4]], over.invoke({"xs": [BIG, BIG[::-1], [1, 2, 3, 4]]})["ys"], strict=True
    ):
        np.testing.assert_allclose(
            y, work(np, np.array(x)), rtol=1e-7 if np.asarray(y).dtype.kind == "f" else 0
        )


def test_a_call_inside_is_computed_in_64_bits() -> None:
    calls = (jax.jit, jax.checkpoint, jax.vmap, lambda fn: lambda x: jax.nn.relu(fn(x)))
    for call in calls:
        edge = jit_edge(
            lambda x, call=call: call(lambda each: each * 4)(x), in_keys=["x"], out_key="y", name="call"
        )
        assert edge.invoke({"x": [2**30]})["y"].tolist() == [2**32]


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_sums_of_unsigned_numbers_do_not_overflow_and_their_other_arithmetic_wraps(dtype: Any) -> None:
    edge = jit_edge(lambda x: (x.sum(), x * 2 + 1), in_keys=["x"], out_key=["sum", "hash"])
    found = edge.invoke({"x": np.array([2**31, 2**31 + 1], dtype)})
    assert found["sum"] == 2**32 + 1
    assert found["hash"].tolist() == [1, 3]
    assert found["hash"].dtype == np.uint32


def test_random_numbers_are_those_of_jax() -> None:
    def draw(key: Any) -> Any:
        return (
            jax.random.normal(key, (3,)),
            jax.random.randint(key, (3,), 0, 10),
            jax.random.permutation(key, 5),
        )

    edge = jit_edge(
        lambda x, key: (draw(key), x * 2), in_keys=["x"], out_key=["drawn", "y"], seed_key="seed", name="draw"
    )
    found = edge.invoke({"x": 1, "seed": 3})["drawn"]
    plain = jit_edge(
        lambda x, key: (draw(key), x), in_keys=["x"], out_key=["drawn", "y"], seed_key="seed", name="draw"
    )
    expected = plain.invoke({"x": 1.0, "seed": 3})["drawn"]
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_floats_stay_as_they_are_and_so_do_integers_that_are_only_looked_at() -> None:
    edge = jit_edge(
        lambda x, k: (x * k, jnp.zeros(2), jax.lax.top_k(x, 2)[1], k[:1]),
        in_keys=["x", "k"],
        out_key=list("abcd"),
    )
    found = edge.invoke({"x": [1.0, 2.0], "k": [3, 4]})
    assert [found[key].dtype.name for key in "abcd"] == ["float32", "float32", "int32", "int32"]


def test_what_a_function_sees_is_32_bits() -> None:
    seen: list[Any] = []
    jit_edge(
        lambda x: (seen.append((x.sum().dtype.name, x.dtype.name)), x.sum())[1], in_keys=["x"], out_key="y"
    ).invoke({"x": [1, 2]})
    assert set(seen) == {("int32", "int32")}


def test_bits_are_those_of_32() -> None:
    edge = jit_edge(
        lambda x: jax.lax.shift_right_logical(x * 2, 1) + jax.lax.population_count(x),
        in_keys=["x"],
        out_key="y",
    )
    assert edge.invoke({"x": -1})["y"] == 2**31 - 1 + 32


def test_fused_edges_hand_on_64_bits() -> None:
    first = jit_edge(lambda x: x.sum(), in_keys=["x"], out_key="total", name="total")
    second = jit_edge(lambda total: total // 4, in_keys=["total"], out_key="mean", name="mean")
    assert fuse(first, second).invoke({"x": [2**30] * 4})["mean"] == 2**30


def test_learning_goes_through_custom_derivatives() -> None:
    @jax.custom_jvp
    def twice(x: Any) -> Any:
        return x * 2.0

    @twice.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return twice(*primals), tangents[0] * 100.0

    edge = jit_edge(lambda x, n: jax.grad(twice)(x) * n, in_keys=["x", "n"], out_key="y")
    assert edge.invoke({"x": 1.0, "n": 3})["y"] == 300.0


def test_arrays_of_jax_with_64_bits_come_out_and_go_in() -> None:
    first = jit_edge(lambda x: x * 4, in_keys=["x"], out_key="y", output="jax")
    large, small = (first.invoke({"x": x})["y"] for x in ([2**30], [2**20]))
    assert large.tolist() == [2**32]
    assert jit_edge(lambda y: y + 1, in_keys=["y"], out_key="z").invoke({"y": small})["z"].tolist() == [
        2**22 + 1
    ]
