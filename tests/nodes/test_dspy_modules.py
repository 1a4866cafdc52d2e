"""Every kind of DSPy module as a node: built-in ones, typed outputs, mapping of fields both ways."""

import asyncio
from typing import Any, Literal

import dspy
import pytest
from dspy.primitives.local_interpreter import LocalInterpreter
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import InvalidUpdateError
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel
from typing_extensions import TypedDict

from mahsm import connect, dspy_node, parallel, vmap
from mahsm.errors import EdgeError, MissingKeyError, NodeError
from mahsm.testing import Call, FakeLM
from tests.helpers import MODES, run


def look_up(city: str) -> str:
    """Say what the weather is in a city."""
    return f"It rains in {city}."


class InParallel(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")
        self.parallel = dspy.Parallel(num_threads=4, disable_progress_bar=True)

    def forward(self, question: str) -> Any:
        answers = self.parallel([(self.ask, {"question": f"{question}{number}"}) for number in range(4)])
        return dspy.Prediction(answer=" ".join(one.answer for one in answers))


class Custom(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        return self.first(question=question)


class CustomAsync(Custom):
    async def aforward(self, question: str) -> Any:
        return await self.first.acall(question=question)


def model(call: Call) -> Any:
    said = dict.fromkeys(call.outputs, "42")
    if "next_tool_name" in said:  # ReAct: look it up, then finish
        done = "rains" in call.text
        said |= {"next_thought": "t", "next_tool_name": "finish" if done else "look_up"}
        said["next_tool_args"] = "{}" if done else '{"city": "Rome"}'
    if "generated_code" in said:
        said["generated_code"] = (
            "```python\nanswer = str(6 * 7)\nprint(answer)\nSUBMIT({'answer': answer})\n```"
        )
    if "code" in said:
        said["code"] = "```python\nSUBMIT(answer='42')\n```"
    return said


pytestmark = [  # of DSPy itself
    pytest.mark.filterwarnings("ignore:The 'prefix' argument:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:ProgramOfThought is deprecated:DeprecationWarning"),
]
CHAIN = {"completions": [dspy.Prediction(reasoning="r", answer=str(number)) for number in (41, 42, 42)]}
MODULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "Predict": (lambda: dspy.Predict("question -> answer"), {}),
    "ChainOfThought": (lambda: dspy.ChainOfThought("question -> answer"), {}),
    "ReAct": (lambda: dspy.ReAct("question -> answer", tools=[look_up]), {}),
    "ProgramOfThought": (
        lambda: dspy.ProgramOfThought("question -> answer", interpreter_factory=LocalInterpreter),
        {},
    ),
    "MultiChainComparison": (lambda: dspy.MultiChainComparison("question -> answer", M=3), CHAIN),
    "BestOfN": (
        lambda: dspy.BestOfN(
            dspy.Predict("question -> answer"), N=2, reward_fn=lambda *_: 1.0, threshold=1.0
        ),
        {},
    ),
    "Refine": (
        lambda: dspy.Refine(dspy.Predict("question -> answer"), N=2, reward_fn=lambda *_: 1.0, threshold=1.0),
        {},
    ),
    "RLM": (lambda: dspy.RLM("question -> answer", interpreter_factory=LocalInterpreter), {}),
    "with Parallel": (InParallel, {}),
    "custom": (Custom, {}),
    "custom async": (CustomAsync, {}),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", MODULES)
def test_every_module_takes_its_inputs_from_the_state(kind: str, mode: str) -> None:
    make, besides = MODULES[kind]
    node = dspy_node(make())
    assert "question" in node.reads
    with dspy.context(lm=FakeLM(model)):
        update = run(node, {"question": "6 * 7", **besides}, mode)
    assert update["answer"] == ("42 42 42 42" if kind == "with Parallel" else "42")
    with pytest.raises(MissingKeyError, match="question"):
        run(node, besides, mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_parallel_by_itself(mode: str) -> None:
    ask = dspy.Predict("question -> answer")
    node = dspy_node(
        dspy.Parallel(num_threads=2, disable_progress_bar=True),
        input_transform=lambda state: {
            "exec_pairs": [(ask, {"question": one}) for one in state["questions"]]
        },
        output_transform=lambda prediction: {"answers": [one.answer for one in prediction.results]},
    )
    with dspy.context(lm=FakeLM(lambda call: {"answer": call.inputs["question"].upper()})):
        assert run(node, {"questions": ["a", "b", "c"]}, mode) == {"answers": ["A", "B", "C"]}


# Types.


class Person(BaseModel):
    name: str
    age: int


class Typed(dspy.Signature):
    text: str = dspy.InputField()
    people: list[Person] = dspy.OutputField()
    mood: Literal["glad", "sad"] = dspy.OutputField()
    score: float = dspy.OutputField()
    flags: dict[str, bool] = dspy.OutputField()


class TypedState(TypedDict):
    text: str
    people: list[Person]
    mood: str
    score: float
    flags: dict[str, bool]


@pytest.mark.parametrize("mode", MODES)
def test_typed_outputs_stay_typed_through_a_checkpoint(mode: str) -> None:
    answer = {"people": [{"name": "Ada", "age": 36}], "mood": "glad", "score": 0.5, "flags": {"a": True}}
    builder = StateGraph(TypedState)
    builder.add_node("read", dspy_node(dspy.ChainOfThought(Typed), output_fields=list(answer)))
    graph = connect(builder, START, "read", END).compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    with dspy.context(lm=FakeLM({"reasoning": "r", **answer})):
        run(graph, {"text": "t"}, mode, config)
    values = graph.get_state(config).values
    assert values == {"text": "t", **answer, "people": [Person(name="Ada", age=36)]}


# Mapping.


def ask(**options: Any) -> Any:
    return dspy_node(dspy.ChainOfThought("question, hint: str -> answer"), **options)


def said(call: Call) -> dict[str, object]:
    return {"reasoning": "since", "answer": f"{call.inputs['question']}/{call.inputs['hint']}"}


@pytest.mark.parametrize("mode", MODES)
def test_an_input_transform_gives_inputs_and_the_rest_is_read(mode: str) -> None:
    node = ask(
        input_fields={"question": "q"}, input_transform=lambda state: {"hint": ", ".join(state["docs"])}
    )
    with dspy.context(lm=FakeLM(said)):
        assert run(node, {"q": "why", "docs": ["a", "b"]}, mode)["answer"] == "why/a, b"
    with pytest.raises(
        MissingKeyError, match=r"Its module needs 'question'.*input_transform does not return it, either"
    ):
        run(node, {"docs": []}, mode)


def test_an_input_transform_alone() -> None:
    node = ask(input_transform=lambda state: {"question": state["q"], "hint": "h"})
    with dspy.context(lm=FakeLM(said)):
        assert node.invoke({"q": "why"})["answer"] == "why/h"


@pytest.mark.parametrize("mode", MODES)
def test_an_output_transform_gives_the_outputs(mode: str) -> None:
    node = ask(
        output_transform=lambda prediction: {"short": prediction.answer[:3], "all": prediction}, prefix="x_"
    )
    with dspy.context(lm=FakeLM(said)):
        update = run(node, {"question": "why", "hint": "h"}, mode)
    assert update == {"x_short": "why", "x_all": {"reasoning": "since", "answer": "why/h"}}
    assert node.writes == frozenset()
    named = ask(
        output_transform=lambda prediction: {"short": prediction.answer[:3]}, output_fields={"short": "s"}
    )
    with dspy.context(lm=FakeLM(said)):
        assert named.invoke({"question": "why", "hint": "h"}) == {"s": "why"}


def test_a_prefix_stands_before_all_keys() -> None:
    with dspy.context(lm=FakeLM(said)):
        state = {"question": "why", "hint": "h"}
        assert ask(prefix="a_").invoke(state) == {"a_reasoning": "since", "a_answer": "why/h"}
        assert ask(prefix="a_", output_fields=["answer"]).invoke(state) == {"a_answer": "why/h"}
    assert ask(prefix="a_").writes == {"a_reasoning", "a_answer"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix": ""}, "prefix=''; expected a string, such as prefix='draft_'"),
        (
            {"prefix": "a_", "output_fields": {"answer": "b"}},
            "prefix='a_' with output_fields=.*which names all keys",
        ),
        ({"input_transform": 3}, "input_transform=3; expected a function from the state to a dict of inputs"),
        ({"output_transform": {}}, "output_transform={}; expected a function from the prediction to a dict"),
        ({"stream": "answer"}, "stream='answer'; expected True, or a list of output fields"),
        ({"stream": ["score"]}, "stream has 'score'; outputs that are strings: 'reasoning', 'answer'"),
    ],
)
def test_bad_arguments_are_refused_when_built(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NodeError, match=message):
        ask(**options)
    with pytest.raises(
        NodeError, match="stream=True, but no predictor of Predict has an output that is a string"
    ):
        dspy_node(dspy.Predict("a -> b: int"), stream=True)


@pytest.mark.parametrize("argument", ["input_transform", "output_transform"])
def test_a_transform_that_gives_no_dict(argument: str) -> None:
    node = ask(**{argument: lambda _: ["answer"]})
    with (
        dspy.context(lm=FakeLM(said)),
        pytest.raises(NodeError, match=rf"{argument} returned \['answer'\]; expected a dict"),
    ):
        node.invoke({"question": "why", "hint": "h"})


# Two modules side by side that both give a reasoning.


class Sides(TypedDict, total=False):
    question: str
    hint: str
    reasoning: str
    answer: str
    other: str
    a_reasoning: str
    b_reasoning: str
    a_answer: str
    b_answer: str


@pytest.mark.parametrize("mode", MODES)
def test_side_by_side_they_do_not_collide_silently(mode: str) -> None:
    builder = StateGraph(Sides)
    for name in ("a", "b"):
        builder.add_node(name, ask())
        connect(builder, START, name, END)
    with dspy.context(lm=FakeLM(said)):
        with pytest.raises(EdgeError, match=r"'reasoning'|'answer'"):
            run(parallel({"a": ask(), "b": ask()}), {"question": "why", "hint": "h"}, mode)
        with pytest.raises(InvalidUpdateError, match=r"reasoning|answer"):
            run(builder.compile(), {"question": "why", "hint": "h"}, mode)
        edge = parallel({"a": ask(prefix="a_"), "b": ask(prefix="b_")})
        assert set(run(edge, {"question": "why", "hint": "h"}, mode)) == {
            "a_reasoning",
            "a_answer",
            "b_reasoning",
            "b_answer",
        }


def test_outputs_that_a_transform_hides_collide_when_run() -> None:
    hidden = {
        name: ask(output_transform=lambda prediction: {"answer": prediction.answer}) for name in ("a", "b")
    }
    with dspy.context(lm=FakeLM(said)), pytest.raises(EdgeError, match="'answer'"):
        parallel(hidden).invoke({"question": "why", "hint": "h"})


# Settings.


@pytest.mark.parametrize("mode", MODES)
def test_a_context_around_the_graph_reaches_its_modules(mode: str) -> None:
    class State(TypedDict, total=False):
        question: str
        answer: str
        questions: list[str]
        answers: list[str]

    builder = StateGraph(State)
    builder.add_node("one", dspy_node(Custom()))
    edge = vmap(
        CustomAsync(),
        batch_key="questions",
        out_key="answers",
        result="answer",
        item_to_state=lambda q: {"question": q},
    )
    connect(builder, START, "one", edge, END)
    seen: list[Any] = []

    class Watch(dspy.utils.BaseCallback):
        def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            seen.append(instance.model)

    with dspy.context(lm=FakeLM({"answer": "x"}, model="fake/inside"), callbacks=[Watch()], trace=[]):
        run(builder.compile(), {"question": "q", "questions": ["a", "b"]}, mode)
        assert len(dspy.settings.trace) == 3
    assert seen == ["fake/inside"] * 3


def test_a_module_called_in_threads_has_the_context() -> None:
    with dspy.context(lm=FakeLM({"answer": "x"})):
        assert asyncio.run(dspy_node(Custom()).ainvoke({"question": "q"})) == {"answer": "x"}
