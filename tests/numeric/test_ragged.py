"""`jit_edge(ragged=)`: few compilations for many lengths, and results that do not depend on the padding."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mahsm import jit_edge
from mahsm.errors import JitError, StateError


def mean(xs: Any, mask: Any) -> Any:
    return jnp.where(mask, xs, 0.0).sum() / mask.sum()


def ragged(fn: Any, *keys: str, **options: Any) -> Any:
    keys = keys or ("xs",)
    return jit_edge(fn, in_keys=list(keys), out_key="ys", **{"ragged": list(keys), **options})


def test_two_hundred_lengths_take_few_compilations() -> None:
    edge = ragged(mean)
    for length in np.random.default_rng(0).integers(1, 1000, 200):
        assert edge.invoke({"xs": np.arange(length) * 1.0})["ys"] == pytest.approx((length - 1) / 2)
    assert edge.stats.compiles <= 8
    assert edge.stats.calls == 200


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 16, 17])
def test_outputs_are_cut_to_the_length(length: int) -> None:
    edge = ragged(
        lambda xs, mask: {
            "same": xs + 1,
            "outer": xs[:, None] * xs,
            "sum": jnp.where(mask, xs, 0).sum(),
            "fixed": jnp.ones(8),
        }
    )
    found = edge.invoke({"xs": np.arange(length) * 1.0})["ys"]
    assert found["same"].tolist() == [number + 1.0 for number in range(length)]
    assert found["outer"].shape == (length, length)
    assert found["fixed"].shape == (8,)
    assert found["sum"] == sum(range(length))


def test_lists_of_rows() -> None:
    edge = ragged(lambda xs, mask: jnp.where(mask[:, None], xs, 0).sum(axis=0))
    assert edge.invoke({"xs": [[1, 2], [3, 4], [5, 6]]})["ys"].tolist() == [9, 12]


def test_several_ragged_keys_have_one_mask() -> None:
    edge = ragged(lambda xs, zs, mask: jnp.where(mask, xs * zs, 0).sum(), "xs", "zs")
    assert edge.invoke({"xs": [1.0, 2.0], "zs": [3, 4]})["ys"] == 11.0
    with pytest.raises(
        StateError, match="the ragged keys differ in length: 'xs' has 2, 'zs' has 3; expected one length"
    ):
        edge.invoke({"xs": [1.0, 2.0], "zs": [3, 4, 5]})


LEAKS: dict[str, Any] = {
    "sum of the padding": lambda xs, mask: (xs + 1).sum(),
    "softmax": lambda xs, mask: jax.nn.softmax(xs),
    "mean over the padded length": lambda xs, mask: jnp.where(mask, xs, 0.0).mean(),
    "ranks of the padding": lambda xs, mask: jnp.argsort(xs)[:3].astype(float) + jnp.sort(xs)[:3],
    "count": lambda xs, mask: (xs >= 0).sum(),
}


@pytest.mark.parametrize("fn", LEAKS.values(), ids=LEAKS)
def test_a_result_that_depends_on_the_padding_is_an_error(fn: Any) -> None:
    edge = ragged(fn)
    for _ in range(2):  # it does not pass for right the second time
        with pytest.raises(
            JitError, match=r"the result changes with the padding of the ragged keys. Use mask in every sum"
        ):
            edge.invoke({"xs": np.linspace(1.0, 2.0, 21)})


def test_the_padding_is_checked_in_the_smallest_bucket_and_without_padding_too() -> None:
    leak = LEAKS["mean over the padded length"]
    for length in (1, 8, 16):
        with pytest.raises(JitError, match="changes with the padding"):
            ragged(leak).invoke({"xs": np.ones(length)})


def test_correct_ways_to_use_the_mask_pass() -> None:
    for fn in (
        mean,
        lambda xs, mask: (xs * mask).sum(),
        lambda xs, mask: jax.nn.softmax(jnp.where(mask, xs, -jnp.inf)),
        lambda xs, mask: jax.lax.top_k(jnp.where(mask, xs, -jnp.inf), 3)[0],
        lambda xs, mask: jnp.where(mask, xs, jnp.nan),
    ):
        ragged(fn).invoke({"xs": np.linspace(1.0, 2.0, 21)})


def test_an_output_of_a_length_that_nobody_can_cut() -> None:
    with pytest.raises(
        JitError,
        match=r"axis 0 of an output of shape \(9,\) depends on the padding, but is not the padded axis",
    ):
        ragged(lambda xs, mask: jnp.concatenate([xs, jnp.ones(1)])).invoke({"xs": [1.0]})


def test_draws_in_a_ragged_edge() -> None:
    edge = ragged(lambda xs, mask, *, key: xs + jax.random.normal(key, xs.shape), seed_key="seed")
    one, two = (edge.invoke({"xs": np.zeros(5), "seed": 1})["ys"] for _ in range(2))
    assert one.tolist() == two.tolist()
    assert len(set(one.tolist())) == 5


@pytest.mark.parametrize("value", [1.0, "text", {"a": [1.0]}, np.float32(1), [[1], [2, 3]]], ids=repr)
def test_what_has_no_first_axis(value: Any) -> None:
    with pytest.raises(
        StateError, match=r"state\['xs'\] is .*expected an array or a list of numbers or of equal rows"
    ):
        ragged(mean).invoke({"xs": value})


def test_it_is_correct_on_jax_arrays_and_with_other_keys() -> None:
    edge = jit_edge(
        lambda by, xs, labels, mask: jnp.where(mask, xs * by["k"], 0).sum(),
        in_keys=["by", "xs", "labels"],
        out_key="ys",
        ragged=["xs"],
    )
    assert edge.invoke({"by": {"k": 2.0, "on": True}, "xs": jnp.ones(3), "labels": "a"})["ys"] == 6.0


def test_warmup_of_a_bucket() -> None:
    edge = ragged(mean)
    edge.warmup({"xs": np.ones(100)})
    assert edge.stats.compiles == 1
    edge.invoke({"xs": np.ones(128)})
    assert edge.stats.compiles <= 2  # and the half of it, to check the padding


def test_an_output_whose_axes_depend_on_the_padding() -> None:
    with pytest.raises(JitError, match=r"an output has \d axes or \d, depending on the padding"):
        ragged(lambda xs, mask: xs if xs.shape[0] > 8 else xs[:, None]).invoke({"xs": [1.0]})
