"""`policy_router`: where a graph goes on, by probabilities or scores."""

import asyncio
from collections import Counter
from typing import Any, TypedDict

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from langgraph.graph import END, START, StateGraph

from mahsm import policy_router
from mahsm.errors import EdgeError, StateError


class State(TypedDict, total=False):
    x: float
    went: str
    route: Any


class Linear(eqx.Module):
    weights: jnp.ndarray

    def __call__(self, state: Any) -> Any:
        return self.weights * state["x"]


def graph(router: Any, *, as_node: bool) -> Any:
    builder = StateGraph(State)
    for label in ("cheap", "strong"):
        builder.add_node(label, lambda state, label=label: {"went": label})
        builder.add_edge(label, END)
    if as_node:
        builder.add_node("router", router.node())
        builder.add_edge(START, "router")
    else:
        builder.add_conditional_edges(START, router, ["cheap", "strong"])
    return builder.compile()


LABELS = ["cheap", "strong"]


@pytest.mark.parametrize("as_node", [False, True])
@pytest.mark.parametrize(
    "policy",
    [
        lambda state: [0.9, 0.1] if state["x"] < 1 else [0.1, 0.9],
        lambda state: {"strong": state["x"], "cheap": 1.0},
        lambda state: np.array([1.0, state["x"]]),
        Linear(jnp.array([-1.0, 1.0])),
    ],
)
def test_the_best_label(policy: Any, as_node: bool) -> None:
    made = graph(policy_router(policy, LABELS), as_node=as_node)
    assert [made.invoke({"x": x})["went"] for x in (-2.0, 2.0)] == ["cheap", "strong"]


def test_an_async_policy() -> None:
    async def policy(state: Any) -> Any:
        await asyncio.sleep(0)
        return [0.0, state["x"]]

    for as_node in (False, True):
        made = graph(policy_router(policy, LABELS), as_node=as_node)
        assert asyncio.run(made.ainvoke({"x": 2.0}))["went"] == "strong"


def test_the_choice_is_written_to_the_state() -> None:
    router = policy_router(lambda state: [1.0, 3.0], LABELS, key="route")
    found = graph(router, as_node=True).invoke({"x": 1.0})["route"]
    assert found["label"] == "strong"
    assert found["probability"] == pytest.approx(1 / (1 + np.exp(-2)))
    assert "router" in graph(router, as_node=True).get_graph().draw_mermaid()


def test_draws() -> None:
    router = policy_router(lambda state: [0.25, 0.75], LABELS, "sample", seed=1)
    counts = Counter(router({}) for _ in range(2_000))
    assert 420 < counts["cheap"] < 580
    again = policy_router(lambda state: [0.25, 0.75], LABELS, "sample", seed=1)
    assert Counter(again({}) for _ in range(2_000)) == counts


def test_ties_go_to_the_first() -> None:
    assert policy_router(lambda state: [1, 1], LABELS)({}) == "cheap"


@pytest.mark.parametrize("values", [[0.5], [0.5, float("nan")], {"cheap": 1.0}, [1, 2, 3], []])
def test_values_that_do_not_fit(values: Any) -> None:
    with pytest.raises(StateError, match="expected"):
        policy_router(lambda state: values, LABELS)({})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, LABELS), "policy=3"),
        ((len, []), r"labels=\[\]"),
        ((len, "cheap"), "labels='cheap'"),
        ((len, ["a", "a"]), "each once"),
        ((len, LABELS, "best"), "strategy='best'"),
        ((len, LABELS, "greedy", ""), "key=''"),
    ],
)
def test_bad_arguments(arguments: Any, message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        policy_router(*arguments)
