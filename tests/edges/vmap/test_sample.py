"""`vmap(sample=N)`: several answers to one input, each of them drawn and none of them copied out of a
cache."""

from typing import Any
from uuid import uuid4

import dspy
import pytest
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

import mahsm
from mahsm import connect, dspy_node, jit_edge, reduce_edge, vmap
from mahsm.errors import EdgeError
from mahsm.reducers import majority_vote
from mahsm.testing import Call, FakeLM, ModelServer
from tests.helpers import MODES, run


def numbered(call: Call) -> dict[str, str]:
    """As a model with a temperature: another answer each time it is asked."""
    return {"answer": str(call.repeats)}


def ask() -> Any:
    return dspy.Predict("question -> answer")


def cached_lm(**options: Any) -> FakeLM:
    return FakeLM(numbered, cache=True, **options)


@pytest.fixture
def question() -> str:
    return str(uuid4())  # DSPy's cache is on disk, too


@pytest.mark.parametrize("mode", MODES)
def test_each_sample_is_an_answer_of_its_own_and_stays(mode: str, question: str) -> None:
    edge = vmap(ask(), sample=5, out_key="answers", result="answer")
    lm = cached_lm()
    with dspy.context(lm=lm), mahsm.usage() as used:
        first = run(edge, {"question": question}, mode)["answers"]
        again = run(edge, {"question": question}, mode)["answers"]
    assert sorted(first) == ["0", "1", "2", "3", "4"]
    assert again == first
    assert (used.calls, used.cached, len(lm.calls)) == (5, 5, 5)


@pytest.mark.parametrize("mode", MODES)
def test_equal_items_of_a_batch_share_an_answer_of_the_cache(mode: str, question: str) -> None:
    edge = vmap(
        ask(),
        batch_key="questions",
        out_key="answers",
        result="answer",
        item_to_state=lambda q: {"question": q},
    )
    with dspy.context(lm=cached_lm()):
        run(edge, {"questions": [question]}, mode)
        assert run(edge, {"questions": [question] * 3}, mode)["answers"] == ["0"] * 3


@pytest.mark.parametrize("mode", MODES)
def test_a_temperature_is_set_where_there_is_none(mode: str, question: str) -> None:
    for temperature, expected in ((None, 1.0), (0.0, 1.0), (0.3, 0.3)):
        with ModelServer(numbered) as server, dspy.context(lm=server.lm(temperature=temperature)):
            run(vmap(ask(), sample=2, out_key="answers"), {"question": question}, mode)
            assert [call.body["temperature"] for call in server.calls] == [expected] * 2
            run(dspy_node(ask()), {"question": question}, mode)
            assert server.calls[-1].body.get("temperature") == temperature


@pytest.mark.parametrize("mode", MODES)
def test_samples_in_samples_are_all_different(mode: str, question: str) -> None:
    inner = vmap(dspy_node(ask()), sample=3, out_key="drafts", result="answer")
    edge = vmap(inner, sample=4, out_key="rounds", result="drafts")
    with dspy.context(lm=cached_lm()):
        rounds = run(edge, {"question": question}, mode)["rounds"]
    assert sorted(int(draft) for drafts in rounds for draft in drafts) == list(range(12))


def test_rollouts_inside_stay_apart(question: str) -> None:
    best = dspy.BestOfN(ask(), N=3, reward_fn=lambda *_: 0.0, threshold=1.0)
    lm = cached_lm(rollout_id=7, temperature=1.0)
    with dspy.context(lm=lm):
        vmap(best, sample=4, out_key="answers").invoke({"question": question})
    assert len(lm.calls) == 12


@pytest.mark.parametrize("mode", MODES)
def test_every_call_of_a_sample_is_drawn(mode: str, question: str) -> None:
    class Twice(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = ask()

        def forward(self, question: str) -> Any:
            return dspy.Prediction(answers=[self.ask(question=question).answer for _ in range(2)])

    lm = cached_lm()
    with dspy.context(lm=lm):
        found = run(vmap(Twice(), sample=3, out_key="found", result="answers"), {"question": question}, mode)[
            "found"
        ]
    # A question that is asked again has its answer.
    assert sorted(found) == [["0", "0"], ["1", "1"], ["2", "2"]]


@pytest.mark.parametrize("mode", MODES)
def test_threads_of_dspy_draw_the_sample(mode: str, question: str) -> None:
    class InThreads(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = ask()

        def forward(self, question: str) -> Any:
            answers = dspy.Parallel(num_threads=2, disable_progress_bar=True)(
                [(self.ask, {"question": question})]
            )
            return dspy.Prediction(answer=answers[0].answer)

    with dspy.context(lm=cached_lm()):
        found = run(
            vmap(InThreads(), sample=3, out_key="found", result="answer"), {"question": question}, mode
        )["found"]
    assert sorted(found) == ["0", "1", "2"]


def test_votes_over_samples(question: str) -> None:
    class State(TypedDict, total=False):
        question: str
        answers: list[str]
        answer: str

    votes = vmap(ask(), sample=5, out_key="answers", result="answer")
    graph = connect(
        StateGraph(State),
        START,
        votes,
        reduce_edge(input_key="answers", output_key="answer", reducer=majority_vote),
        END,
    ).compile()
    with dspy.context(lm=FakeLM(lambda call: {"answer": "yes" if call.repeats % 3 else "no"}, cache=True)):
        assert graph.invoke({"question": question})["answer"] == "yes"


def test_functions_get_the_number_and_the_state() -> None:
    edge = vmap(lambda state: (state["item"], state["x"]), sample=3, out_key="ys")
    assert edge.invoke({"x": 1}) == {"ys": [(0, 1), (1, 1), (2, 1)]}
    assert edge.reads == frozenset()
    other = vmap(
        lambda state: state["seed"],
        sample=2,
        out_key="ys",
        item_to_state=lambda number: {"seed": 10 + number},
    )
    assert other.invoke({}) == {"ys": [10, 11]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "batch_key=None, batch=None and sample=None; expected one of them"),
        ({"batch_key": "xs", "sample": 3}, "batch_key='xs', batch=None and sample=3; expected one of them"),
        ({"sample": 0}, "sample=0"),
        ({"sample": "3"}, "sample='3'"),
        (
            {"sample": 3, "dedupe_key": str},
            "dedupe_key= has no effect with sample=3, whose calls are alike on purpose",
        ),
    ],
)
def test_arguments_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        vmap(len, out_key="ys", **options)


def test_a_jit_edge_has_no_samples() -> None:
    with pytest.raises(
        EdgeError, match="sample=3 has no effect, since all items of a jit_edge are one computation"
    ):
        vmap(jit_edge(lambda x: x, in_keys=["x"], out_key="y"), sample=3, out_key="ys")
