"""`xcs.vmap`, `xcs.grad` and functions that JAX compiles."""

import asyncio
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mahsm import xcs
from mahsm.errors import EdgeError, JitError
from mahsm.operators import ModelBinding


@xcs.step
def ask(q: Any) -> str:
    return f"<{q}>"


def test_items_run_beside_each_other_in_their_order() -> None:
    barrier = threading.Barrier(4)

    def meet(x: int) -> int:
        barrier.wait(30)
        return x * 2

    assert xcs.vmap(meet, max_concurrency=4)(range(4)) == [0, 2, 4, 6]


def test_nested() -> None:
    assert xcs.vmap(xcs.vmap(ask))([["a"], ["b", "c"], []]) == [["<a>"], ["<b>", "<c>"], []]


def test_axes() -> None:
    join = xcs.vmap(lambda a, b, c="": f"{a}{b}{c}", in_axes=(0, None))
    assert join(["x", "y"], "!") == ["x!", "y!"]
    assert join(["x", "y"], "!", c="?") == ["x!?", "y!?"]
    columns = xcs.vmap(lambda column: column.sum(), in_axes=1)
    assert columns(np.arange(6.0).reshape(2, 3)).tolist() == [3.0, 5.0, 7.0]
    assert xcs.vmap(lambda column: ask(column.sum()), in_axes=1)(np.ones((2, 3))) == ["<2.0>"] * 3


def test_arrays_are_mapped_by_jax() -> None:
    traces: list[Any] = []

    def double(x: Any) -> Any:
        traces.append(x)
        return x * 2

    assert xcs.vmap(double)(np.arange(3.0)).tolist() == [0.0, 2.0, 4.0]
    assert len(traces) == 1
    assert isinstance(traces[0], jax.core.Tracer)
    assert xcs.vmap(xcs.vmap(double))(jnp.ones((2, 3))).shape == (2, 3)


def test_arrays_of_a_function_that_calls_a_model_are_items() -> None:
    """No model is ever called with something that JAX traces."""
    asked: list[str] = []

    @xcs.step
    def note(x: Any) -> str:
        asked.append(str(x))
        return str(x)

    assert xcs.vmap(lambda x: note(x))(np.arange(3)) == ["0", "1", "2"]
    assert sorted(asked) == ["0", "1", "2"]
    assert xcs.vmap(lambda x: f"{x}")(np.arange(2)) == ["0", "1"]
    assert xcs.vmap(lambda x: x if x > 1 else -x)(np.arange(3)).tolist() == [0, -1, 2]


def test_arrays_come_back_stacked() -> None:
    assert xcs.vmap(lambda q: np.full(2, len(q)))(["a", "bb"]).tolist() == [[1, 1], [2, 2]]
    assert isinstance(xcs.vmap(lambda q: jnp.full(2, len(q)))(["a", "bb"]), jax.Array)
    assert isinstance(xcs.vmap(lambda q: np.ones(len(q)))(["a", "bb"]), list)
    assert xcs.vmap(len)(["a", "bb"]) == [1, 2]


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_batches(size: int) -> None:
    assert xcs.vmap(lambda x: x * 2, batch_size=size)(np.arange(5.0)).tolist() == [0, 2, 4, 6, 8]
    assert xcs.vmap(ask, batch_size=size)(["a", "b", "c", "d", "e"]) == [f"<{q}>" for q in "abcde"]


def test_async() -> None:
    async def ask_twice(q: str) -> str:
        await asyncio.sleep(0)
        return q + q

    assert asyncio.run(xcs.vmap(ask_twice)(["a", "b"])) == ["aa", "bb"]


def test_jitted_functions() -> None:
    many = xcs.vmap(xcs.jit(lambda q: ask(ask(q))))
    assert many(["a", "b"]) == ["<<a>>", "<<b>>"]
    assert xcs.jit(many)(["a"]) == ["<<a>>"]
    assert xcs.jit(lambda qs: [many(qs), many(qs)])(["a"]) == [["<<a>>"]] * 2


def test_gradients() -> None:
    assert xcs.grad(lambda x: (x**2).sum())(np.arange(3.0)).tolist() == [0.0, 2.0, 4.0]
    assert float(xcs.grad(lambda x, y: x * y, argnums=1)(2.0, 3.0)) == 2.0
    assert float(xcs.grad(xcs.jit(lambda x: x**2))(3.0)) == 6.0
    with pytest.raises(JitError, match=r"xcs.grad: ask is called while JAX traces the function"):
        xcs.grad(lambda x: ask(x))(1.0)
    with pytest.raises(JitError, match=r"xcs.grad: openai/m is called while JAX traces the function"):
        xcs.grad(lambda x: ModelBinding("openai/m")("q"))(1.0)
    with pytest.raises(JitError, match=r"xcs.grad: an f-string is made of a value"):
        xcs.grad(lambda x: len(f"{x}") * x)(1.0)
    with pytest.raises(TypeError, match=r"xcs.grad got 3"):
        xcs.grad(3)  # type: ignore[arg-type]


def test_compiled() -> None:
    @xcs.jit(backend="jax")
    def double(x: Any) -> Any:
        return x * 2

    assert double(np.arange(3.0)).tolist() == [0.0, 2.0, 4.0]
    assert double.__name__ == "double"
    with pytest.raises(JitError, match="ask is called while JAX traces"):
        xcs.jit(lambda x: ask(x), backend="jax")(1.0)


def fails(x: int) -> float:
    return x / 0


async def fails_async(x: int) -> float:
    return x / 0


@pytest.mark.parametrize("function", [fails, fails_async])
def test_notes_of_an_error_name_the_function(function: Any) -> None:
    mapped = xcs.vmap(function)
    asynchronous = function is fails_async
    with pytest.raises(ZeroDivisionError) as found:
        _ = asyncio.run(mapped([1])) if asynchronous else mapped([1])
    ours, langgraphs = found.value.__notes__
    assert ours == f"mahsm: xcs.vmap({function.__name__}), item 0 of 1, attempt 1"
    assert f"task with name '{function.__name__}'" in langgraphs
    assert xcs.vmap(lambda x: x)(["a"]) == ["a"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: xcs.vmap(3), TypeError, "xcs.vmap got 3"),
        (lambda: xcs.vmap(ask, max_concurrency=0), EdgeError, "max_concurrency=0"),
        (lambda: xcs.vmap(ask, batch_size=0), EdgeError, "batch_size=0"),
        (lambda: xcs.vmap(ask)("abc"), TypeError, "argument 0 of ask is 'abc'"),
        (lambda: xcs.vmap(ask)(3), TypeError, "argument 0 of ask is 3"),
        (lambda: xcs.vmap(ask, in_axes=1)([1]), ValueError, "maps axis 1 of argument 0 of ask"),
        (
            lambda: xcs.vmap(ask, in_axes=None)([1]),
            ValueError,
            "in_axes=None maps none of the 1 positional arguments of ask.*by position",
        ),
        (lambda: xcs.vmap(ask, in_axes=(0, 0))([1]), ValueError, "has 2 entries"),
        (lambda: xcs.vmap(max)([1, 2], [1]), ValueError, "argument 0 has 2, argument 1 has 1"),
    ],
)
def test_what_cannot_be_mapped(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
