"""`jit_edge` on an event loop, and results that are not waited for."""

import asyncio
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mahsm import jit_edge, vmap
from mahsm._numeric import program
from mahsm._numeric.values import is_small
from mahsm.errors import JitError, StateError


async def threads_of(edge: Any, state: Any, count: int) -> list[bool]:
    """For each call, whether it is made in the thread of the event loop."""
    seen: list[bool] = []
    timed = type(edge.program).timed

    def watched(self: Any, given: Any) -> Any:
        seen.append(threading.current_thread() is threading.main_thread())
        return timed(self, given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(edge.program), "timed", watched)
        for _ in range(count):
            await edge.ainvoke(state)
    return seen


@pytest.fixture
def any_time_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_SHORT", float("inf"))


@pytest.mark.usefixtures("any_time_is_short")
def test_what_is_known_to_be_short_takes_no_thread() -> None:
    edge = jit_edge(lambda x: x * 2, in_keys=["x"], out_key="y")
    assert asyncio.run(threads_of(edge, {"x": np.ones(3)}, 3)) == [False, True, True]
    assert asyncio.run(threads_of(edge, {"x": np.ones(4)}, 2)) == [False, True]  # another shape is compiled
    assert asyncio.run(threads_of(edge, {"x": [1.0]}, 2)) == [False, True]
    assert asyncio.run(threads_of(edge, {"x": {"a": (1.0, 2), "b": [[1, 2], [3, 4]]}}, 0)) == []


@pytest.mark.usefixtures("any_time_is_short")
def test_what_takes_a_while_to_read_gets_a_thread() -> None:
    edge = jit_edge(lambda x: jnp.sum(x), in_keys=["x"], out_key="y")
    assert asyncio.run(threads_of(edge, {"x": [1.0] * 2000}, 3)) == [False, False, False]


def test_what_was_long_gets_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_SHORT", 0.0)
    edge = jit_edge(lambda x: x * 2, in_keys=["x"], out_key="y")
    assert asyncio.run(threads_of(edge, {"x": 1.0}, 3)) == [False, False, False]


def test_small_values() -> None:
    large = [1.0] * 1001
    for value in (
        1.0,
        None,
        "text",
        np.ones(10_000),
        [1.0] * 1000,
        {"a": [1, 2], "b": (3, "c")},
        jnp.ones(10),
    ):
        assert is_small(value), value
    for value in (
        large,
        [large],
        {"a": large},
        np.ones(2_000_000),
        [[1.0] * 40] * 40,
        [np.ones(100_000)] * 20,
    ):
        assert not is_small(value)


@pytest.mark.usefixtures("any_time_is_short")
def test_errors_are_the_same_without_a_thread() -> None:
    edge = jit_edge(lambda x: x * 2, in_keys=["x"], out_key="y")

    async def main() -> None:
        await edge.ainvoke({"x": 1.0})
        with pytest.raises(StateError, match=r"state\['x'\] is <object"):
            await edge.ainvoke({"x": object()})

    asyncio.run(main())


def test_with_jax_arrays_as_output_a_later_change_of_the_input_changes_nothing() -> None:
    """Not even of memory that XLA could use as it is, for a computation that is not done yet."""
    slow = jnp.ones((1200, 1200))
    edge = jit_edge(lambda x, w: (w @ w @ w).sum() * 0 + x, in_keys=["x", "w"], out_key="y", output="jax")
    over = vmap(edge, batch_key="ws", out_key="ys", item_to_state=lambda w: {"w": w}, result="y")
    memory = np.empty(4 * 1000 + 64, np.uint8)
    x = memory[-memory.ctypes.data % 64 :][:4000].view(np.float32)
    for run in (
        lambda: edge.invoke({"x": x, "w": slow})["y"],
        lambda: over.invoke({"x": x, "ws": [slow]})["ys"][0],
    ):
        for _ in range(2):
            x[:] = 1.0
            y = run()
            x[:] = 5.0
            assert y.tolist() == [1.0] * 1000


def test_outputs_of_a_far_device_are_fetched_together() -> None:
    def fn(x: Any) -> Any:
        return {"a": x * 2, "b": (x.sum(), [x > 1]), "c": x.astype(jnp.bfloat16)}

    near, far = (jit_edge(fn, in_keys=["x"], out_key="y") for _ in range(2))
    far.program.is_far, near.program.is_far = True, False  # type: ignore[union-attr]
    state = {"x": [1.0, 2.0]}
    jax.tree.map(np.testing.assert_array_equal, far.invoke(state), near.invoke(state))
    for one, two in zip(jax.tree.leaves(far.invoke(state)), jax.tree.leaves(near.invoke(state)), strict=True):
        assert type(one) is type(two)
    assert not far.invoke(state)["y"]["a"].flags.writeable
    over = {"batch_key": "xs", "out_key": "ys", "item_to_state": lambda x: {"x": x}}
    jax.tree.map(
        np.testing.assert_array_equal,
        *(vmap(edge, **over).invoke({"xs": [[1.0, 2.0]] * 3}) for edge in (near, far)),
    )
    keys = jit_edge(lambda x: jax.random.key(0), in_keys=["x"], out_key="y")
    keys.program.is_far = True  # type: ignore[union-attr]
    with pytest.raises(JitError, match="expected arrays of numbers or booleans"):
        keys.invoke({"x": 1.0})
