"""Operators that run side by side: their members have to be inside at once, or the barrier breaks."""

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from mahsm import operator_node, usage, vmap
from mahsm.errors import JitError
from mahsm.operators import (
    ChainOperator,
    EnsembleOperator,
    HybridOperator,
    ModelBinding,
    ModelOperator,
    Operator,
    RouterOperator,
    op,
)
from mahsm.testing import ModelServer
from tests.helpers import Gauge

MEMBERS = 12
"""More than the default pool of an event loop has threads here."""


class Meeting:
    """Where callers wait until all of them are there: in threads, and on an event loop."""

    def __init__(self, callers: int) -> None:
        self._left = callers
        self._lock = threading.Lock()
        self._all = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def come(self) -> None:
        with self._lock:
            self._left -= 1
            waiting = self._waiting if self._left <= 0 else []
        if self._left <= 0:
            self._all.set()
        for loop, event in waiting:
            loop.call_soon_threadsafe(event.set)

    def wait(self, x: Any) -> Any:
        self.come()
        assert self._all.wait(20), "not all members were inside at once"
        return x

    async def wait_async(self, x: Any) -> Any:
        event = asyncio.Event()
        with self._lock:
            self._waiting.append((asyncio.get_running_loop(), event))
        self.come()
        if not self._all.is_set():
            async with asyncio.timeout(20):
                await event.wait()
        return x


class Waits(Operator):
    meeting: Meeting

    def forward(self, input: Any, /) -> Any:
        return self.meeting.wait(input)


class WaitsAndComputes(HybridOperator):
    meeting: Meeting
    by: jax.Array

    def compute(self, x: Any) -> Any:
        return x * self.by

    def forward(self, input: Any, computed: Any, /) -> Any:
        self.meeting.wait(None)
        return computed


def blocking(meeting: Meeting) -> list[Operator]:
    return [op(meeting.wait) for _ in range(MEMBERS)]


def mixed(meeting: Meeting) -> list[Operator]:
    return [op(meeting.wait if number % 2 else meeting.wait_async) for number in range(MEMBERS)]


def kinds(meeting: Meeting) -> list[Operator]:
    """An operator of each kind whose work blocks."""
    route = RouterOperator({"a": op(meeting.wait)}, 1)
    both = ChainOperator([op(meeting.wait), op(meeting.wait_async)])
    inner = EnsembleOperator([op(meeting.wait), op(meeting.wait_async)], combine=lambda found: found[0])
    hybrid = WaitsAndComputes(meeting, by=jnp.array(2.0))
    return [Waits(meeting), route, ChainOperator([op(meeting.wait)]), inner, hybrid, both]


def called(operator: Operator, x: Any) -> Any:
    return operator(x)


def awaited(operator: Operator, x: Any) -> Any:
    return asyncio.run(operator.acall(x))


def node(operator: Operator, x: Any) -> Any:
    return operator_node(operator, input_fields="x", output_fields="y").invoke({"x": x})["y"]


def node_awaited(operator: Operator, x: Any) -> Any:
    return asyncio.run(operator_node(operator, input_fields="x", output_fields="y").ainvoke({"x": x}))["y"]


class State(TypedDict, total=False):
    x: Any
    y: Any


def graph(operator: Operator, x: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("node", operator_node(operator, input_fields="x", output_fields="y"))
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return asyncio.run(builder.compile().ainvoke({"x": x}))["y"]


def edge(operator: Operator, x: Any) -> Any:
    target = operator_node(operator, input_fields="item", output_fields="y")
    return vmap(target, batch_key="xs", out_key="ys", result="y", max_concurrency=1).invoke({"xs": [x]})[
        "ys"
    ][0]


def edge_awaited(operator: Operator, x: Any) -> Any:
    target = operator_node(operator, input_fields="item", output_fields="y")
    made = vmap(target, batch_key="xs", out_key="ys", result="y", max_concurrency=1)
    return asyncio.run(made.ainvoke({"xs": [x]}))["ys"][0]


WAYS: list[Callable[[Operator, Any], Any]] = [called, awaited, node, node_awaited, graph, edge, edge_awaited]


@pytest.mark.parametrize("members", [blocking, mixed])
@pytest.mark.parametrize("way", WAYS)
def test_members_run_side_by_side(way: Any, members: Any) -> None:
    assert way(EnsembleOperator(members(Meeting(MEMBERS))), 3) == [3] * MEMBERS


@pytest.mark.parametrize("way", WAYS)
def test_members_of_every_kind_run_side_by_side(way: Any) -> None:
    meeting = Meeting(7)  # the chain's second step comes later
    found = way(EnsembleOperator(kinds(meeting)), {"features": [1.0], "x": 3.0})
    assert found[4] == 6.0
    assert len(found) == 6


def test_a_blocking_ensemble_can_be_called_on_an_event_loop() -> None:
    async def on_a_loop() -> Any:
        return EnsembleOperator(blocking(Meeting(MEMBERS)))(3)

    assert asyncio.run(on_a_loop()) == [3] * MEMBERS


@pytest.mark.parametrize("way", [called, awaited])
def test_at_most_max_concurrency_members_run_at_any_moment(way: Any) -> None:
    gauge, pair = Gauge(), threading.Barrier(3)

    def member(x: Any) -> Any:
        with gauge.inside():
            pair.wait(20)
        return x

    ensemble = EnsembleOperator([op(member)] * 6, sum, max_concurrency=3)
    assert way(ensemble, 2) == 12
    assert (gauge.most, gauge.total) == (3, 6)
    assert way(EnsembleOperator([op(lambda x: x)] * 3, max_concurrency=1), 2) == [2, 2, 2]


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2"])
def test_a_max_concurrency_that_is_none(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"max_concurrency=.*; expected an integer, at least 1, or None"):
        EnsembleOperator([op(len)], max_concurrency=wrong)


SEEN: ContextVar[str] = ContextVar("seen", default="nothing")


@pytest.mark.parametrize("way", [called, awaited])
def test_members_run_in_the_callers_context(way: Any) -> None:
    token = SEEN.set("something")
    try:
        assert way(EnsembleOperator([op(lambda _: SEEN.get())] * 3), 0) == ["something"] * 3
    finally:
        SEEN.reset(token)


def test_members_run_under_the_callers_settings_of_jax() -> None:
    ensemble = EnsembleOperator([op(lambda x: (jnp.asarray(x) / 3).dtype.name)] * 2)
    assert ensemble(1.0) == ["float32", "float32"]
    with jax.enable_x64(True):
        assert ensemble(1.0) == asyncio.run(ensemble.acall(1.0)) == ["float64", "float64"]
        assert EnsembleOperator([ensemble, ensemble])(1.0) == [["float64", "float64"]] * 2
    assert ensemble(1.0) == ["float32", "float32"]

    def narrow(x: Any) -> Any:
        with jax.enable_x64(False):
            return ensemble(x)

    with jax.enable_x64(True):
        assert EnsembleOperator([op(narrow), op(narrow)])(1.0) == [["float32", "float32"]] * 2


def test_calls_of_blocking_members_are_counted() -> None:
    with ModelServer("yes") as server, usage() as used:
        binding = ModelBinding.of(server.lm())
        assert EnsembleOperator([op(lambda q: binding(q).text)] * 4)("?") == ["yes"] * 4
    assert used.calls == 4


@pytest.mark.parametrize("way", [called, awaited])
def test_the_first_error_comes_out_while_others_block(way: Any) -> None:
    inside, done = threading.Event(), threading.Event()

    def hangs(_: Any) -> None:
        inside.set()
        assert done.wait(20)

    def fails(_: Any) -> None:
        assert inside.wait(20)
        raise ConnectionError("down")

    try:
        with pytest.raises(ConnectionError, match="down"):
            way(EnsembleOperator([op(hangs), op(fails)]), 0)
    finally:
        done.set()


def test_members_that_have_not_begun_do_not_begin_after_an_error() -> None:
    begun: list[int] = []

    def fails(_: Any) -> None:
        raise ConnectionError("down")

    with pytest.raises(ConnectionError):
        EnsembleOperator([op(fails), *[op(begun.append)] * 5], max_concurrency=1)(1)
    assert begun == []


def test_nothing_begins_after_an_edge_has_given_the_item_up() -> None:
    begun: list[Any] = []
    inside, done, over = threading.Event(), threading.Event(), threading.Event()

    def hangs(_: Any) -> None:
        inside.set()
        assert done.wait(20)

    class Last(Operator):
        """Ends after the ensemble has."""

        ensemble: Operator

        def forward(self, input: Any, /) -> Any:
            try:
                return self.ensemble(input)
            finally:
                over.set()

    target = Last(EnsembleOperator([op(hangs), op(begun.append)], max_concurrency=1))
    try:
        with pytest.raises(TimeoutError):
            vmap(target, batch_key="xs", out_key="ys", timeout=0.05).invoke({"xs": [1]})
        assert inside.is_set()
    finally:
        done.set()
    assert over.wait(20)
    assert begun == []


def test_blocking_steps_of_an_awaited_chain_leave_the_event_loop_free() -> None:
    meeting = Meeting(2)

    async def together() -> Any:
        chain = ChainOperator([op(meeting.wait), op(meeting.wait_async)])
        return await EnsembleOperator([chain, op(meeting.wait_async)]).acall(1)

    assert asyncio.run(together()) == [1, 1]


def test_a_combine_that_blocks_leaves_the_event_loop_free() -> None:
    meeting = Meeting(2)

    async def together() -> Any:
        ensemble = EnsembleOperator([op(lambda x: x), op(lambda x: x)], meeting.wait)
        return await EnsembleOperator([ensemble, op(meeting.wait_async)]).acall(1)

    assert asyncio.run(together()) == [[1, 1], 1]


def test_edges_inside_of_members_share_the_slot_of_their_item() -> None:
    gauge = Gauge()

    def inner(x: Any) -> Any:
        with gauge.inside():
            return {"y": x}

    def member(state: Any) -> Any:
        return vmap(inner, batch_key="items", out_key="ys", max_concurrency=8).invoke({"items": [1, 2, 3]})[
            "ys"
        ]

    outer = vmap(EnsembleOperator([op(member)] * 4), batch_key="xs", out_key="ys", max_concurrency=2)
    found = outer.invoke({"xs": [1, 2, 3, 4]})["ys"]
    assert [len(each) for each in found] == [4] * 4
    assert gauge.total == 48
    assert gauge.most <= 2


# While JAX traces.


def test_members_run_one_after_the_other_while_jax_traces() -> None:
    threads: list[int] = []

    def member(x: Any) -> Any:
        threads.append(threading.get_ident())
        return x * 2

    ensemble = ChainOperator([EnsembleOperator([op(member)] * 3, combine=jnp.stack), op(lambda xs: xs.sum())])
    assert jax.jit(lambda x: ensemble(x))(2.0) == 12.0
    assert jax.grad(ensemble)(2.0) == 6.0
    assert jax.vmap(ensemble)(jnp.ones(2)).tolist() == [6.0, 6.0]
    assert set(threads) == {threading.get_ident()}

    async def traced(x: Any) -> Any:
        return await ensemble.acall(x)

    assert jax.jit(lambda x: asyncio.run(traced(x)))(2.0) == 12.0
    assert set(threads) == {threading.get_ident()}


@pytest.mark.parametrize("kind", [EnsembleOperator, ChainOperator])
def test_what_waits_is_refused_while_jax_traces(kind: Any) -> None:
    async def later(x: Any) -> Any:
        return x

    with pytest.raises(JitError, match=r"is async, and is called while JAX traces"):
        jax.jit(lambda x: kind([op(later)])(x))(1.0)
    with pytest.raises(JitError, match="the model 'openai/m' is called while JAX traces"):
        jax.jit(lambda x: kind([ModelOperator("openai/m", "{x}")])(x))(1.0)


def test_numeric_members_compute_the_same_traced_or_not() -> None:
    weights = [np.random.default_rng(seed).normal(size=4).astype(np.float32) for seed in range(5)]
    ensemble = EnsembleOperator([op(lambda x, w=w: jnp.asarray(w) @ x) for w in weights], jnp.stack)
    x = jnp.arange(4.0)
    np.testing.assert_allclose(ensemble(x), jax.jit(lambda x: ensemble(x))(x), rtol=1e-6)
