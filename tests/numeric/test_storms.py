"""`jit_edge`: too many compilations are told of, and what is kept of them is bounded."""

import gc
import warnings
import weakref
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from mahsm import jit_edge, vmap
from mahsm._numeric import compiler


def scaled(**options: Any) -> Any:
    return jit_edge(lambda x, k: x * k, in_keys=["x", "k"], out_key="y", **options)


def messages(edge: Any, states: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for state in states:
            edge.invoke(state)
    return [str(each.message) for each in seen]


def test_one_warning_names_the_static_key_that_keeps_changing() -> None:
    edge = scaled(static_keys=["k"])
    (message,) = messages(edge, [{"x": 1.0, "k": k} for k in range(40)])
    assert message == (
        "jit_lambda: compiled 17 times in 17 calls. The static part of state['k'] keeps changing: 17 in the "
        "last 17 compilations, such as static 16. Pass numbers or arrays, which are dynamic, and leave 'k' "
        "out of static_keys."
    )


def test_one_warning_names_the_key_whose_shape_keeps_changing() -> None:
    (message,) = messages(scaled(), [{"x": np.ones(size), "k": 2.0} for size in range(1, 30)])
    assert message == (
        "jit_lambda: compiled 17 times in 17 calls. The shape of state['x'] keeps changing: 17 in the last "
        "17 compilations, such as float32[17]. Pass arrays of one shape and dtype, or ragged=['x'], which "
        "pads the first axis to few lengths."
    )


def test_sixteen_compilations_are_no_storm_and_neither_is_a_third_of_the_calls() -> None:
    edge = scaled()
    assert messages(edge, [{"x": np.ones(size), "k": 2.0} for size in range(1, 17)]) == []
    assert messages(edge, [{"x": np.ones(3), "k": 2.0}] * 60) == []
    assert messages(edge, [{"x": np.ones(size), "k": 2.0} for size in range(17, 20)]) == []
    assert edge.stats.compiles == 19


def test_warming_up_is_no_storm() -> None:
    edge = scaled()
    states = [{"x": np.ones(size), "k": 2.0} for size in range(1, 30)]
    edge.warmup(*states)
    assert messages(edge, states) == []


def test_items_of_many_shapes_are_a_storm_too() -> None:
    edge = vmap(scaled(), batch_key="xs", out_key="ys", item_to_state=lambda x: {"x": x})
    (message,) = messages(edge, [{"xs": [np.ones(size) for size in range(1, 20)], "k": 2.0}])
    assert "The shape of state['x'] keeps changing" in message


def test_the_structure_that_was_not_used_for_longest_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_MOST_STRUCTURES", 3)
    edge = scaled(static_keys=["k"])
    for k in (0, 1, 2, 3, 4):
        edge.invoke({"x": 1.0, "k": k})
        edge.invoke({"x": 1.0, "k": 0})
    assert edge.stats.compiles == 5
    edge.invoke({"x": 1.0, "k": 4})
    assert edge.stats.compiles == 5
    edge.invoke({"x": 1.0, "k": 1})
    assert edge.stats.compiles == 6


def test_shapes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_MOST_SHAPES", 3)
    edge = jit_edge(lambda x: jnp.sin(x), in_keys=["x"], out_key="y")
    edge.invoke({"x": np.ones(1)})
    (first,) = edge.program._kept.values()  # type: ignore[union-attr]
    kept = weakref.ref(first)
    del first
    for size in range(2, 6):
        assert edge.invoke({"x": np.ones(size)})["y"].shape == (size,)
    gc.collect()
    assert kept() is None
    assert len(edge.program._kept) == 1  # type: ignore[union-attr]
