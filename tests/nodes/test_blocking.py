"""Which graphs `invoke` can run, and had better."""

from typing import Any

import dspy
import pytest
from langchain_core.runnables import Runnable, RunnableLambda
from langgraph.graph import END, START, StateGraph

from mahsm import dspy_node, vmap
from mahsm.nodes._internal import has_blocking_nodes
from tests.helpers import DictState


def blocks(state: Any) -> Any:
    return {}


async def awaits(state: Any) -> Any:
    return {}


class Blocks(Runnable[Any, Any]):
    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        return {}


def graph_of(*nodes: Any, path: Any = None) -> Any:
    builder = StateGraph(DictState)
    for number, node in enumerate(nodes):
        builder.add_node(str(number), node)
        if path is None:
            builder.add_edge(START, str(number))
        else:
            builder.add_conditional_edges(START, path, [str(number), END])
    return builder.compile()


def ask() -> Any:
    return dspy_node(dspy.Predict("q -> a"))


def edge() -> Any:
    return vmap(awaits, batch_key="xs", out_key="ys")


async def chosen(state: Any) -> str:
    return END


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (graph_of(blocks), True),
        (graph_of(RunnableLambda(blocks)), True),
        (graph_of(RunnableLambda(blocks) | blocks), True),
        (graph_of(Blocks()), True),
        (graph_of(graph_of(blocks)), True),
        (graph_of(blocks, ask(), edge()), True),
        (graph_of(RunnableLambda(blocks, awaits)), False),
        (graph_of(awaits), False),
        (graph_of(RunnableLambda(awaits)), False),
        (graph_of(ask(), edge()), False),
        (graph_of(blocks, awaits), False),
        (graph_of(blocks, graph_of(awaits)), False),
        (graph_of(blocks, path=chosen), False),
        (blocks, False),
    ],
)
def test_graphs_with_blocking_nodes(graph: Any, expected: bool) -> None:
    assert has_blocking_nodes(graph) is expected
