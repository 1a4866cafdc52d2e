"""`dspy.Example`s as items: DSPy's datasets are lists of them."""

from typing import Any

import dspy
import pytest
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from mahsm import vmap
from mahsm.errors import MissingKeyError
from mahsm.testing import FakeLM
from tests.helpers import MODES, graph_of, run, run_edge, thread

DEVSET = [
    dspy.Example(question="2 + 2?", answer="4").with_inputs("question"),
    dspy.Example(question="3 + 3?", answer="6").with_inputs("question"),
]


def edge_of(target: Any, **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", **options})


def lm() -> FakeLM:
    return FakeLM(lambda call: {"answer": str(2 * int(call.inputs["question"][0]))})


@pytest.mark.parametrize("mode", MODES)
def test_a_module_gets_the_inputs_of_each_example(mode: str) -> None:
    with dspy.context(lm=lm()):
        assert run_edge(edge_of(dspy.Predict("question -> answer"), result="answer"), DEVSET, mode) == [
            "4",
            "6",
        ]


@pytest.mark.parametrize("mode", MODES)
def test_a_function_gets_the_inputs_and_the_example(mode: str) -> None:
    def seen(state: Any) -> Any:
        return sorted(state), state["question"], state["item"].answer

    assert run_edge(edge_of(seen), DEVSET[:1], mode) == [(["item", "question", "xs"], "2 + 2?", "4")]


def test_labels_are_no_inputs() -> None:
    node = dspy.Predict("question, answer -> right: bool")
    with pytest.raises(MissingKeyError, match=r"state has no key 'answer'"):
        run_edge(edge_of(node), DEVSET, "sync")


@pytest.mark.parametrize("kind", [dspy.Example, dspy.Prediction])
def test_where_no_inputs_are_named_all_fields_are_keys(kind: Any) -> None:
    edge = edge_of(lambda state: (state["question"], state["answer"], type(state["item"])))
    assert run_edge(edge, [kind(question="q", answer="a")], "sync") == [("q", "a", kind)]


def test_a_field_named_item_is_the_item() -> None:
    assert run_edge(
        edge_of(lambda state: state["item"]), [dspy.Example(item=7).with_inputs("item")], "sync"
    ) == [7]


def test_item_to_state_counts_first() -> None:
    edge = edge_of(lambda state: sorted(state), item_to_state=lambda example: {"gold": example.answer})
    assert run_edge(edge, DEVSET[:1], "sync") == [["gold", "xs"]]


@pytest.mark.parametrize("mode", MODES)
def test_a_graph_gets_the_inputs(mode: str) -> None:
    class Child(TypedDict, total=False):
        question: str
        answer: str

    builder = StateGraph(Child)
    builder.add_node("answer", lambda state: {"answer": state["question"] + str(state.get("answer"))})
    builder.add_edge(START, "answer")
    assert run_edge(edge_of(builder.compile(), result="answer"), DEVSET[:1], mode) == ["2 + 2?None"]


@pytest.mark.parametrize("mode", MODES)
def test_equal_examples_are_called_once(mode: str) -> None:
    calls: list[str] = []

    def answer(state: Any) -> str:
        calls.append(state["question"])
        return state["question"]

    again = dspy.Example(answer="4", question="2 + 2?").with_inputs("question")
    edge = edge_of(answer, dedupe_key=lambda example: example, cache=InMemoryCache())
    for _ in range(2):
        assert run_edge(edge, [*DEVSET, again], mode) == ["2 + 2?", "3 + 3?", "2 + 2?"]
    assert sorted(calls) == ["2 + 2?", "3 + 3?"]

    cached = edge_of(answer, cache=InMemoryCache())
    assert run_edge(cached, DEVSET[:1], mode) == run_edge(cached, [again], mode) == ["2 + 2?"]
    assert len(calls) == 3


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("mode", MODES)
def test_a_run_over_examples_is_resumed(mode: str, chunk_size: int | None) -> None:
    calls: list[str] = []

    def answer(state: Any) -> str:
        calls.append(state["question"])
        if state["question"] == "3 + 3?" and len(calls) == 2:
            raise ConnectionError("reset by peer")
        return state["item"].answer

    saver = InMemorySaver(serde=JsonPlusSerializer(pickle_fallback=True))
    graph = graph_of(edge_of(answer, max_concurrency=1, chunk_size=chunk_size), checkpointer=saver)
    with pytest.raises(ConnectionError):
        run(graph, {"xs": DEVSET}, mode, thread())
    assert run(graph, None, mode, thread())["ys"] == ["4", "6"]
    assert calls == ["2 + 2?", "3 + 3?", "3 + 3?"]
    assert graph.get_state(thread()).values["xs"] == DEVSET


def test_a_failed_example_is_shown_in_its_error() -> None:
    def fails(state: Any) -> None:
        raise ValueError("no answer")

    (error,) = run_edge(edge_of(fails, on_error="collect"), DEVSET[:1], "sync")
    assert error["key"] == "Example({'question': '2 + 2?', 'answer': '4'}) (input_keys={'question'})"
