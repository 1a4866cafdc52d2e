"""DSPy's types come back from a checkpointer as they were, alone and inside of other values."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypedDict

import dspy
import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Interrupt, Send
from pydantic import BaseModel

from mahsm import DSPySerializer, connect, dspy_node, dspy_program, vmap
from mahsm.errors import GraphError
from mahsm.testing import FakeLM
from tests.helpers import MODES, run, thread


class Report(BaseModel):
    title: str
    program: dspy.Code


class Mood(Enum):
    GOOD = "good"


@dataclass
class Pair:
    left: Any
    right: list[Any]


VALUES: dict[str, Any] = {
    "code": dspy.Code(code="print(1)"),
    "image": dspy.Image(url="data:image/png;base64,AAAA"),
    "audio": dspy.Audio(data="AAAA", audio_format="wav"),
    "history": dspy.History(messages=[{"question": "a"}]),
    "calls": dspy.ToolCalls(tool_calls=[dspy.ToolCalls.ToolCall(name="x", args={"a": 1})]),
    "example": dspy.Example(question="a", answer=dspy.Code(code="x")).with_inputs("question"),
    "prediction": dspy.Prediction(a=1, b=[dspy.Code(code="y")]),
    "model": Report(title="t", program=dspy.Code(code="z")),
    "dataclass": Pair(dspy.Code(code="l"), [dspy.Code(code="r")]),
    "list": [dspy.Code(code="in a list"), {"and": dspy.Code(code="in a dict")}],
    "plain": {"a": [1, 2.5, None, "x"], "b": AIMessage("hello", id="1"), "enum": Mood.GOOD},
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_what_is_stored_comes_back(value: Any) -> None:
    serializer = DSPySerializer()
    found = serializer.loads_typed(
        serializer.dumps_typed({"value": value, "send": Send("node", {"value": value})})
    )
    assert found["value"] == value
    assert type(found["value"]) is type(value)
    assert found["send"] == Send("node", {"value": value})
    assert repr(found["value"]) == repr(value)


def test_what_a_person_is_asked_comes_back() -> None:
    serializer = DSPySerializer()
    asked = Interrupt(value={"draft": VALUES["code"]}, id="1")
    assert serializer.loads_typed(serializer.dumps_typed([asked])) == [asked]


def test_what_examples_and_predictions_know_besides() -> None:
    serializer = DSPySerializer()
    many = dspy.Prediction.from_completions({"a": ["x", "y"]})
    found = serializer.loads_typed(
        serializer.dumps_typed([VALUES["example"], many, dspy.Code["java"](code="x;")])
    )
    assert found[0].inputs().toDict() == {"question": "a"}
    assert found[1].completions.a == ["x", "y"]
    assert (type(found[2]).language, found[2].code) == ("java", "x;")


def test_what_langgraph_stores_is_stored_as_it_does() -> None:
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    plain = JsonPlusSerializer()
    for value in (None, b"x", {"a": (1, 2)}, AIMessage("x", id="1"), [Mood.GOOD]):
        assert DSPySerializer().dumps_typed(value) == plain.dumps_typed(value)
        assert DSPySerializer().loads_typed(plain.dumps_typed(value)) == plain.loads_typed(
            plain.dumps_typed(value)
        )


def test_a_class_that_is_not_there_any_more() -> None:
    serializer = DSPySerializer()
    given = serializer.dumps_typed(VALUES["model"])
    kept = Report.__qualname__
    globals()["Gone"] = globals().pop("Report")
    try:
        with pytest.raises(
            GraphError, match=rf"the run has recorded a {__name__}:{kept}, which does not exist any more"
        ):
            serializer.loads_typed(given)
    finally:
        globals()["Report"] = globals().pop("Gone")


@pytest.fixture(params=["memory", "sqlite", "encrypted"])
def saver(request: Any, tmp_path: Path) -> Iterator[BaseCheckpointSaver[Any]]:
    if request.param == "sqlite":
        with SqliteSaver.from_conn_string(str(tmp_path / "runs.db")) as saver:
            saver.serde = DSPySerializer()
            yield saver
    elif request.param == "memory":
        yield InMemorySaver(serde=DSPySerializer())
    else:
        yield InMemorySaver(serde=EncryptedSerializer(Reversed(), DSPySerializer()))


class Reversed:
    """A cipher of a kind."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "reversed", plaintext[::-1]

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        return ciphertext[::-1]


class State(TypedDict, total=False):
    task: str
    tasks: list[str]
    program: Any
    programs: list[Any]


class Writes(dspy.Signature):
    task: str = dspy.InputField()
    program: dspy.Code = dspy.OutputField()


class Twice(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.write = dspy.Predict(Writes)

    def forward(self, task: str) -> Any:
        first = self.write(task=task)
        return dspy.Prediction(program=[first.program, self.write(task=first.program.code).program])


NODES: dict[str, tuple[Any, Any]] = {
    "node": (lambda: dspy_node(dspy.Predict(Writes)), {"task": "a", "program": dspy.Code(code="a!")}),
    "edge": (
        lambda: vmap(
            dspy.Predict(Writes),
            batch_key="tasks",
            out_key="programs",
            item_to_state=lambda task: {"task": task},
            result="program",
        ),
        {"tasks": ["b", "c"], "programs": [dspy.Code(code="b!"), dspy.Code(code="c!")]},
    ),
    "program": (
        lambda: dspy_program(Twice(), outputs=["program"]).compile(name="twice"),
        {"task": "a", "program": [dspy.Code(code="a!"), dspy.Code(code="a!!")]},
    ),
}


@pytest.mark.parametrize("kind", NODES)
@pytest.mark.parametrize("mode", MODES)
def test_outputs_are_the_same_when_a_run_goes_on(saver: Any, kind: str, mode: str) -> None:
    if isinstance(saver, SqliteSaver) and mode == "async":
        pytest.skip("this saver only blocks")
    failing = [True]

    def fails(state: Any) -> Any:
        if failing[0]:
            raise ValueError("no")
        return {}

    make, expected = NODES[kind]
    graph = connect(StateGraph(State), START, make(), fails, END).compile(checkpointer=saver)
    given = {key: value for key, value in expected.items() if key.startswith("task")}
    lm = FakeLM(lambda call: {"program": call.inputs["task"] + "!"})
    with dspy.context(lm=lm):
        with pytest.raises(ValueError, match="no"):
            run(graph, given, mode, thread())
        failing[0], calls = False, len(lm.calls)
        assert run(graph, None, mode, thread()) == expected
        assert len(lm.calls) == calls
    assert graph.get_state(thread()).values == expected
