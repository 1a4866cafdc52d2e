"""`vmap(jit_edge)`: batches of any size, in slices, padded to little more than they have."""

import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from mahsm import is_item_error, jit_edge, vmap
from mahsm._numeric.ragged import rows_of
from mahsm.errors import EdgeError
from tests.helpers import MODES, graph_of, run


def over(target: Any, **options: Any) -> Any:
    return vmap(
        target,
        **{"batch_key": "xs", "out_key": "ys", "result": "y", "item_to_state": lambda x: {"x": x}, **options},
    )


def times(**options: Any) -> Any:
    return jit_edge(lambda x, by: x * by, in_keys=["x", "by"], out_key="y", **options)


@pytest.mark.parametrize("mode", MODES)
def test_slices_give_what_one_batch_gives(mode: str) -> None:
    target = jit_edge(lambda x: x * 2, in_keys=["x"], out_key="y")
    edge = over(target, batch_size=4)
    assert run(graph_of(edge), {"xs": list(range(10))}, mode)["ys"] == [number * 2 for number in range(10)]
    assert (target.stats.calls, target.stats.compiles) == (3, 2)  # of four, four and two


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10, 100])
def test_slices_of_any_size(batch_size: int) -> None:
    xs = [np.full(3, number, np.float32) for number in range(10)]
    ys = over(times(), batch_size=batch_size).invoke({"xs": xs, "by": np.arange(3.0)})["ys"]
    np.testing.assert_array_equal(ys, np.stack(xs) * np.arange(3))


def test_full_slices_are_not_padded() -> None:
    target = jit_edge(lambda x: x * 2, in_keys=["x"], out_key="y")
    over(target, batch_size=9).invoke({"xs": [1.0] * 18})
    assert target.stats.compiles == 1
    over(target).invoke({"xs": [1.0] * 10})
    assert target.stats.compiles == 2  # in ten rows, which would have been there


def test_padding_wastes_at_most_a_quarter() -> None:
    for count in range(1, 5000):
        assert count <= rows_of(count) <= 1.25 * count
    assert len({rows_of(count) for count in range(1, 1025)}) <= 40
    assert [rows_of(count, 4) for count in (1, 4, 5, 9)] == [4, 4, 8, 12]


def test_draws_do_not_depend_on_the_slices() -> None:
    noisy = jit_edge(
        lambda x, *, key: x + jax.random.normal(key), in_keys=["x"], out_key="y", seed_key="seed"
    )
    state = {"xs": [0.0] * 10, "seed": 1}
    assert over(noisy, batch_size=3).invoke(state)["ys"] == over(noisy).invoke(state)["ys"]


def test_items_of_several_shapes_and_those_that_fail_in_slices() -> None:
    xs: list[Any] = [[1.0], [1.0, 2.0], [3.0], object(), [4.0, 5.0], [6.0]]
    edge = over(
        jit_edge(lambda x: jnp.sum(x) * 2, in_keys=["x"], out_key="y"), batch_size=2, on_error="collect"
    )
    ys = edge.invoke({"xs": xs})["ys"]
    assert [is_item_error(y) for y in ys] == [False, False, False, True, False, False]
    assert [y for y in ys if not is_item_error(y)] == [2.0, 6.0, 6.0, 18.0, 12.0]


def test_ragged_items_in_slices() -> None:
    total = jit_edge(lambda x, mask: jnp.where(mask, x, 0).sum(), in_keys=["x"], out_key="y", ragged=["x"])
    xs = [np.ones(length) for length in (3, 9, 0, 20, 5)]
    assert over(total, batch_size=2).invoke({"xs": xs})["ys"] == [3.0, 9.0, 0.0, 20.0, 5.0]


@pytest.mark.parametrize("output", ["numpy", "python", "jax"])
def test_containers_come_apart(output: Any) -> None:
    def fn(x: Any) -> Any:
        return {"pair": (x, [x * 2, {}]), "none": None, "row": jnp.ones(2) * x, "empty": ()}

    edge = jit_edge(fn, in_keys=["x"], out_key="y", output=output)
    ys = over(edge).invoke({"xs": [1.0, 2.0, 3.0]})["ys"]
    for x, y in zip([1.0, 2.0, 3.0], ys, strict=True):
        alone = edge.invoke({"x": x})["y"]
        assert jax.tree.structure(y) == jax.tree.structure(alone)
        jax.tree.map(np.testing.assert_array_equal, y, alone)


class Pair(NamedTuple):
    one: Any
    two: Any


def test_other_containers_of_jax_come_apart() -> None:
    edge = jit_edge(lambda x: {"pair": Pair(x, x * 2)}, in_keys=["x"], out_key="y", output="jax")
    assert [y["pair"] for y in over(edge).invoke({"xs": [1.0, 2.0]})["ys"]] == [
        Pair(1.0, 2.0),
        Pair(2.0, 4.0),
    ]


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "8"])
def test_a_wrong_batch_size(value: Any) -> None:
    with pytest.raises(
        EdgeError, match=r"batch_size=.*; expected an integer >= 1. Leave it out to compute all"
    ):
        over(times(), batch_size=value)


def test_a_batch_size_is_of_a_jit_edge() -> None:
    with pytest.raises(
        EdgeError,
        match=r"batch_size=8 is of a jit_edge, whose items are computed together; .*max_concurrency=",
    ):
        vmap(lambda state: state, batch_key="xs", out_key="ys", batch_size=8)


def test_values_that_are_too_large_are_an_error_of_their_item() -> None:
    xs = [np.array([1.0]), np.array([1e300]), np.array([2.0])]
    ys = over(times(), on_error="collect").invoke({"xs": xs, "by": 2.0})["ys"]
    assert [is_item_error(y) for y in ys] == [False, True, False]
    assert "does not fit float32" in ys[1]["message"]


def test_a_slice_takes_little_more_memory_than_it_has() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.edges.vmap.memory_worker"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 2.2


def test_items_are_spread_over_a_mesh_of_one_device() -> None:
    target = times(device=Mesh(np.array(jax.devices("cpu")[:1]), ("data",)), shard="batch")
    assert over(target, batch_size=2).invoke({"xs": [1.0, 2.0, 3.0], "by": 2.0})["ys"] == [2.0, 4.0, 6.0]
    assert target.invoke({"x": 1.0, "by": 2.0}) == {"y": 2.0}
