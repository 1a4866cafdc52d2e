"""Edges and nodes as values: called as functions, copied."""

import copy
from functools import partial
from typing import Any

import dspy
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from mahsm import connect, dspy_node, jit_edge, operator_node, parallel, reduce_edge, vmap
from mahsm.operators import op
from mahsm.testing import FakeLM
from tests.helpers import MODES, DictState, graph_of, run, thread

double = vmap(lambda state: state["item"] * 2, batch_key="xs", out_key="ys", name="double")
EDGES: dict[str, tuple[Any, Any, Any]] = {
    "vmap": (double, {"xs": [1, 2]}, {"ys": [2, 4]}),
    "parallel": (parallel({"a": lambda state: {"ys": state["xs"]}}), {"xs": [1]}, {"ys": [1]}),
    "reduce": (reduce_edge(input_key="xs", output_key="ys", reducer=sum), {"xs": [1, 2]}, {"ys": 3}),
    "jit": (jit_edge(lambda xs: xs.sum(), in_keys=["xs"], out_key="ys"), {"xs": [1, 2]}, {"ys": 3}),
    "vmap of a jit": (
        vmap(
            jit_edge(lambda item: item * 2, in_keys=["item"], out_key="y"),
            batch_key="xs",
            out_key="ys",
            result="y",
        ),
        {"xs": [1, 2]},
        {"ys": [2, 4]},
    ),
}


# Calls.


@pytest.mark.parametrize(("edge", "state", "update"), EDGES.values(), ids=EDGES.keys())
def test_an_edge_is_called_as_a_function(edge: Any, state: Any, update: Any) -> None:
    assert edge(state) == edge.invoke(state) == update


async def test_the_awaitable_call_stays() -> None:
    assert await double.ainvoke({"xs": [1]}) == {"ys": [2]}


def test_nodes_are_called_as_functions() -> None:
    node = dspy_node(dspy.Predict("xs -> ys"))
    with dspy.context(lm=FakeLM({"ys": "a"})):
        assert node({"xs": "b"}) == {"ys": "a"}
    assert operator_node(op(lambda x: x + 1), input_fields="xs", output_fields="ys")({"xs": 1}) == {"ys": 2}


@pytest.mark.parametrize("mode", MODES)
def test_a_call_in_a_node_has_the_config_of_its_run(mode: str) -> None:
    seen: list[Any] = []

    def look(state: Any, config: RunnableConfig) -> None:
        seen.append((config["configurable"].get("thread_id"), config["metadata"].get("by")))

    edge = vmap(look, batch_key="xs", out_key="ys")
    builder = StateGraph(DictState)
    builder.add_node("node", lambda state: edge(state))
    graph = connect(builder, START, "node", END).compile(checkpointer=InMemorySaver())
    run(graph, {"xs": [1]}, mode, thread("t", metadata={"by": "me"}))
    edge({"xs": [1]}, {"configurable": {"thread_id": "given"}})
    assert seen == [("t", "me"), ("given", None)]


# Copies.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize(("edge", "state", "update"), EDGES.values(), ids=EDGES.keys())
def test_a_copy_runs_alone_and_in_another_graph(
    edge: Any, state: Any, update: Any, copied: Any, mode: str
) -> None:
    graph_of(edge)
    other = copied(edge)
    assert run(other, state, mode) == update
    assert run(graph_of(other), state, mode)["ys"] == update["ys"]


def test_an_edge_is_its_own_copy() -> None:
    for edge, _, _ in EDGES.values():
        assert copy.deepcopy({"edges": [edge]})["edges"][0] is copy.copy(edge) is edge


def test_a_graph_that_holds_an_edge_is_copied_before_it_is_compiled() -> None:
    builder = connect(StateGraph(DictState), START, double, END)
    other = copy.deepcopy(builder)
    other.add_node("more", lambda state: {"errors": len(state["ys"])})
    assert other.compile().invoke({"xs": [1]})["ys"] == [2]
    assert "more" not in builder.nodes


def test_a_deep_copy_of_a_node_has_a_module_of_its_own() -> None:
    for node in (dspy_node(dspy.Predict("xs -> ys")), dspy_node(dspy.ChainOfThought("xs -> ys"))):
        other = copy.deepcopy(node)
        other.module.set_lm(FakeLM({"reasoning": "-", "ys": "copy"}))
        with dspy.context(lm=FakeLM({"reasoning": "-", "ys": "original"})):
            assert (other({"xs": "x"})["ys"], node({"xs": "x"})["ys"]) == ("copy", "original")


def test_a_program_that_holds_an_edge_is_copied() -> None:
    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.double = double
            self.read = dspy.Predict("xs -> ys")

        def forward(self, xs: list[int]) -> Any:
            return dspy.Prediction(**self.double({"xs": xs}))

    program = Program()
    other = copy.deepcopy(program)
    assert other.read is not program.read
    assert other(xs=[3]).ys == program.deepcopy()(xs=[3]).ys == [6]


over = partial(vmap, str.upper, batch_key="xs", out_key="ys")
reduced = partial(reduce_edge, input_key="xs", output_key="ys", reducer=sum)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            partial(over, max_concurency=3),
            r"vmap: max_concurency=3; there is no such .* Did you mean 'max_concurrency'\?",
        ),
        (partial(over, zzz=3), r"vmap: zzz=3; there is no such argument. It takes target, batch_key, "),
        (
            partial(parallel, {}, retry=3),
            r"parallel: retry=3; .*: Branch\(target, name='draft', retry=Retry\(...\)\)",
        ),
        (
            partial(parallel, {}, budget=3),
            r"parallel: budget=3; .* A budget goes around the run: with budget\(...\)",
        ),
        (partial(reduced, rate_limit="a"), r"reduce_edge: rate_limit='a'; .* such as llm_judge_select"),
    ],
)
def test_arguments_that_there_are_not(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()
