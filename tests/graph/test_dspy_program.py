"""`dspy_program`: a DSPy program as a LangGraph, whose nodes are the program's sub-modules."""

import asyncio
import itertools
from typing import Any

import dspy
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel
from typing_extensions import TypedDict

import mahsm
from mahsm import GraphModule, connect, dspy_program, vmap
from mahsm.errors import GraphError, MissingKeyError
from mahsm.testing import Call, FakeLM, Reply
from tests.helpers import MODES, run


class Plan(BaseModel):
    steps: int


class Answer(dspy.Module):
    """A loop, a condition, and Python between the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = dspy.Predict(PlanIt)
        self.steps = [
            dspy.ChainOfThought("question, so_far -> answer"),
            dspy.Predict("question, so_far -> answer"),
        ]
        self.ways = {"short": dspy.Predict("answer -> short")}

    def forward(self, question: str, shorten: bool = True) -> Any:
        question = question.strip()
        answer = ""
        for number in range(self.plan(question=question).plan.steps):
            answer += self.steps[number % 2](question=question, so_far=answer).answer
        if shorten and len(answer) > 2:
            answer = self.ways["short"](answer=answer).short
        return dspy.Prediction(answer=answer)


class AnswerAsync(Answer):
    async def aforward(self, question: str, shorten: bool = True) -> Any:
        answer = ""
        for number in range((await self.plan.acall(question=question)).plan.steps):
            answer += (await self.steps[number % 2].acall(question=question, so_far=answer)).answer
        if shorten and len(answer) > 2:
            answer = (await self.ways["short"].acall(answer=answer)).short
        return dspy.Prediction(answer=answer)


class PlanIt(dspy.Signature):
    question: str = dspy.InputField()
    plan: Plan = dspy.OutputField()


def model(call: Call) -> Any:
    said: dict[str, object] = dict.fromkeys(call.outputs, "x")
    if "plan" in said:
        said["plan"] = {"steps": 3}
    if "short" in said:
        said["short"] = call.inputs["answer"][:2] + "!" * len(call.demos)
    return Reply(said, usage=(10, 1))


CALLS = ["self.plan", "self.steps[0]", "self.steps[1]", "self.steps[0]", "self.ways[short]"]


def steps_of(graph: Any, inputs: Any, mode: str, config: Any = None) -> list[str]:
    async def collect() -> list[str]:
        return [
            name async for update in graph.astream(inputs, config, stream_mode="updates") for name in update
        ]

    if mode == "async":
        return asyncio.run(collect())
    return [name for update in graph.stream(inputs, config, stream_mode="updates") for name in update]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [Answer, AnswerAsync])
def test_sub_modules_are_nodes_and_forward_says_which_comes_next(kind: Any, mode: str) -> None:
    program = kind()
    graph = dspy_program(program).compile()
    assert set(graph.nodes) == {"__start__", "begin", "forward", *CALLS}
    with dspy.context(lm=FakeLM(model)), mahsm.usage() as used:
        assert run(graph, {"question": " why "}, mode) == {"answer": "xx"}
        assert program(question="why").answer == "xx"
        names = steps_of(graph, {"question": "why"}, mode)
        assert run(graph, {"question": "why", "shorten": False}, mode) == {"answer": "xxx"}
    assert names == ["begin", *CALLS]
    assert used.by_node["self.steps[0]"].calls == 6
    assert {(edge.source, edge.target) for edge in graph.get_graph().edges} >= {
        ("begin", "self.plan"),
        ("self.plan", "self.steps[0]"),
        ("self.plan", "forward"),
        ("self.plan", "__end__"),
    }


@pytest.mark.parametrize("mode", MODES)
def test_each_call_is_saved_and_none_is_made_again(mode: str) -> None:
    failing = [True]

    def broken(call: Call) -> Any:
        if "short" in call.outputs and failing[0]:
            return Reply.failed()
        return model(call)

    graph = dspy_program(Answer()).compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    lm = FakeLM(broken)
    with dspy.context(lm=lm):
        with pytest.raises(dspy.LMServerError):
            run(graph, {"question": "why"}, mode, config)
        failing[0] = False
        calls = len(lm.calls)
        assert run(graph, None, mode, config) == {"answer": "xx"}
        assert len(lm.calls) == calls + 1


@pytest.mark.parametrize("mode", MODES)
def test_a_run_of_the_same_thread_begins_anew(mode: str) -> None:
    failing = [False]

    def asked(call: Call) -> Any:
        if failing[0] and "so_far" in call.inputs:
            return Reply.failed()
        said: dict[str, object] = {name: call.inputs.get("question", "x") for name in call.outputs}
        return said | ({"plan": {"steps": 1}} if "plan" in said else {})

    graph = dspy_program(Answer()).compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    with dspy.context(lm=FakeLM(asked)):
        assert run(graph, {"question": "a"}, mode, config) == {"answer": "a"}
        assert run(graph, {"question": "b"}, mode, config) == {"answer": "b"}
        failing[0] = True
        with pytest.raises(dspy.LMServerError):
            run(graph, {"question": "c"}, mode, config)
        failing[0] = False
        assert run(graph, {"question": "d"}, mode, config) == {"answer": "d"}


@pytest.mark.parametrize("mode", MODES)
def test_it_stops_before_a_call(mode: str) -> None:
    graph = dspy_program(Answer()).compile(
        checkpointer=InMemorySaver(), interrupt_before=["self.ways[short]"]
    )
    config = {"configurable": {"thread_id": "1"}}
    with dspy.context(lm=FakeLM(model)):
        run(graph, {"question": "why"}, mode, config)
        assert graph.get_state(config).next == ("self.ways[short]",)
        assert run(graph, None, mode, config) == {"answer": "xx"}


def test_the_program_and_the_graph_share_their_modules_and_back_again() -> None:
    program = Answer()
    graph = dspy_program(program).compile()
    program.ways["short"].demos = [dspy.Example(answer="a", short="b")]
    with dspy.context(lm=FakeLM(model)):
        assert graph.invoke({"question": "why"})["answer"] == "xx!"
        back = GraphModule(graph, outputs=["answer"]).deepcopy()
        assert [name for name, _ in back.named_predictors()] == [
            "nodes['self.plan']",
            "nodes['self.steps[0]'].predict",
            "nodes['self.steps[1]']",
            "nodes['self.ways[short]']",
        ]
        back.predictors()[3].demos = []
        with dspy.context(trace=[]):
            assert back(question="why").answer == "xx"
            assert len(dspy.settings.trace) == 5
        assert program(question="why").answer == "xx!"


@pytest.mark.parametrize("mode", MODES)
def test_as_a_subgraph_and_in_an_edge(mode: str) -> None:
    class State(TypedDict, total=False):
        question: str
        questions: list[str]
        answer: str
        answers: list[str]

    inner = dspy_program(Answer()).compile(name="answer it")
    builder = StateGraph(State)
    builder.add_node("one", inner)
    one = lambda question: {"question": question}  # noqa: E731
    edge = vmap(inner, batch_key="questions", out_key="answers", item_to_state=one, result="answer")
    connect(builder, START, "one", edge, END)
    with dspy.context(lm=FakeLM(model)):
        state = run(builder.compile(), {"question": "q", "questions": ["a", "b"]}, mode)
    assert (state["answer"], state["answers"]) == ("xx", ["xx", "xx"])


class Calls(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("calls -> answer")

    def forward(self, calls: str) -> Any:
        return dspy.Prediction(calls=self.ask(calls=calls).answer)


def test_fields_may_have_any_name() -> None:
    with dspy.context(lm=FakeLM(model)):
        assert dspy_program(Calls(), outputs=["calls"]).compile().invoke({"calls": "c"}) == {"calls": "x"}


class Odd(dspy.Module):
    """Sub-modules that give no predictions, and attributes of the real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.split = Split()
        self.ask = dspy.Predict("word -> answer")

    def forward(self, text: str) -> Any:
        demos = len(self.ask.demos)
        try:
            words = self.split(text=text)
        except Exception:  # noqa: BLE001  a call that is still to be made is none
            words = []
        return dspy.Prediction(answer=[self.ask(word=word).answer for word in words], demos=demos)


class Split(dspy.Module):
    def forward(self, text: str) -> list[str]:
        return text.split()


@pytest.mark.parametrize("mode", MODES)
def test_what_sub_modules_give_need_not_be_a_prediction(mode: str) -> None:
    graph = dspy_program(Odd(), outputs=["answer", "demos"]).compile()
    with dspy.context(lm=FakeLM(model)):
        assert run(graph, {"text": "a b"}, mode) == {"answer": ["x", "x"], "demos": 0}
        only_known = run(dspy_program(Odd()).compile(), {"text": "a b"}, mode)
        assert only_known == {"answer": ["x", "x"]}, (
            "what no signature names is no key, unless outputs= says so"
        )


class Changing(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = dspy.Predict("question -> answer"), dspy.Predict("question -> answer")
        self.times = itertools.count()

    def forward(self, question: str) -> Any:
        return (self.b if next(self.times) % 3 == 2 else self.a)(question=self.a(question=question).answer)


class InThreads(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor() as pool:
            return pool.submit(self.ask, question=question).result()


class NoPrediction(InThreads):
    def forward(self, question: str) -> Any:
        return self.ask(question=question).answer


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Changing, r"forward is not the same when it is run again: call 1 was 'self.a', now it is 'self.b'"),
        (InThreads, r"self.ask is called in a thread that forward starts.*vmap"),
        (NoPrediction, r"forward returned 'x'; expected a dspy.Prediction"),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_programs_that_cannot_be_steps(kind: Any, message: str, mode: str) -> None:
    with dspy.context(lm=FakeLM(model)), pytest.raises(GraphError, match=message):
        run(dspy_program(kind()).compile(), {"question": "why"}, mode)


def test_missing_inputs() -> None:
    with pytest.raises(MissingKeyError, match="question"):
        dspy_program(Answer()).compile().invoke({"shorten": True})


@pytest.mark.parametrize(
    ("program", "options", "message"),
    [
        (len, {}, "got <built-in function len>; expected a dspy.Module"),
        (
            dspy.Predict("a -> b"),
            {},
            r"Predict has no sub-modules that could be nodes. Make it one node with dspy_node",
        ),
        (
            Odd(),
            {"outputs": "answer"},
            r"outputs='answer' is a string; expected a list of fields, such as outputs=\['answer'\]",
        ),
        (Odd(), {"outputs": []}, r"the fields of its prediction are unknown. Pass outputs=\[...\]"),
    ],
)
def test_what_is_no_program(program: Any, options: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        dspy_program(program, **options)
