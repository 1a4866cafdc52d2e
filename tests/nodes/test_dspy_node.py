"""`dspy_node`: a DSPy module between state keys and its fields, against a real client over HTTP."""

import asyncio
from collections.abc import Iterator
from typing import Any, Literal, TypedDict

import dspy
import pytest
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from mahsm import connect, dspy_node, vmap
from mahsm.errors import MissingKeyError, NodeError
from mahsm.testing import ModelServer
from tests.helpers import MODES, run


class State(TypedDict, total=False):
    doc: str
    docs: list[str]
    summary: str
    short: str
    ys: list[Any]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    answer = lambda call: {"reasoning": "r", "summary": f"s:{call.field('doc')}"}  # noqa: E731
    with ModelServer(answer) as server, dspy.context(lm=server.lm()):
        yield server


class Summarize(dspy.Module):
    def __init__(self, style: str = "plain") -> None:
        super().__init__()
        self.style = style
        self.predict = dspy.ChainOfThought("doc -> summary")

    def forward(self, doc: str, length: int = 10) -> Any:
        return self.predict(doc=doc)


class SummarizeAsync(Summarize):
    async def aforward(self, doc: str, length: int = 10) -> Any:
        return await self.predict.acall(doc=doc)


MODULES = {
    "predict": lambda: dspy.Predict("doc -> summary"),
    "chain of thought": lambda: dspy.ChainOfThought("doc -> summary"),
    "own": Summarize,
    "own async": SummarizeAsync,
    "best of n": lambda: dspy.BestOfN(
        dspy.Predict("doc -> summary"), N=1, reward_fn=lambda *_: 1.0, threshold=1.0
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES.keys())
def test_inputs_from_the_signature_and_plain_outputs(make: Any, mode: str, server: ModelServer) -> None:
    node = dspy_node(make())
    update = run(node, {"doc": "text", "other": 1}, mode)
    assert update["summary"] == "s:text"
    assert type(update) is dict


@pytest.mark.parametrize("mode", MODES)
def test_in_a_graph_and_in_an_edge(mode: str, server: ModelServer) -> None:
    builder = StateGraph(State)
    builder.add_node("read", dspy_node(Summarize(), output_fields=["summary"]))
    builder.add_edge(START, "read")
    each = vmap(
        dspy_node(SummarizeAsync()),
        batch_key="docs",
        out_key="ys",
        item_to_state=lambda d: {"doc": d},
        result="summary",
    )
    graph = connect(builder, "read", each, END).compile()
    state = run(graph, {"doc": "a", "docs": ["b", "c"]}, mode)
    assert (state["summary"], state["ys"]) == ("s:a", ["s:b", "s:c"])


def test_fields_map_to_other_keys(server: ModelServer) -> None:
    node = dspy_node(Summarize(), input_fields={"doc": "text"}, output_fields={"summary": "short"})
    assert node.invoke({"text": "x"}) == {"short": "s:x"}


def test_class_decorator_makes_nodes(server: ModelServer) -> None:
    make = dspy_node(Summarize)
    node = make(style="terse")
    assert node.module.style == "terse"
    assert (make.__name__, make.__wrapped__) == ("Summarize", Summarize)  # type: ignore[attr-defined]
    assert node.invoke({"doc": "x"})["summary"] == "s:x"


def test_class_decorator_with_options(server: ModelServer) -> None:
    make = dspy_node(output_fields={"summary": "short"}, name="reader")(Summarize)
    assert make().name == "reader"
    assert make().invoke({"doc": "x"}) == {"short": "s:x"}


def test_holds_the_module_itself(server: ModelServer) -> None:
    module = Summarize()
    node = dspy_node(module)
    with ModelServer({"reasoning": "r", "summary": "other"}) as other:
        module.set_lm(other.lm())
        assert node.invoke({"doc": "x"})["summary"] == "other"


@pytest.mark.parametrize("mode", MODES)
def test_missing_input_is_an_error_and_the_model_is_not_called(mode: str, server: ModelServer) -> None:
    with pytest.raises(
        MissingKeyError, match=r"no key 'doc'; it has 'text'\. Its module needs 'doc'.*input_fields="
    ):
        run(dspy_node(Summarize()), {"text": "x"}, mode)
    assert server.calls == []


def test_missing_output_is_an_error(server: ModelServer) -> None:
    with pytest.raises(NodeError, match=r"the prediction has no key 'title'; it has 'reasoning', 'summary'"):
        dspy_node(Summarize(), output_fields=["title"]).invoke({"doc": "x"})


class Person(BaseModel):
    name: str
    role: Literal["author", "reader"]


def test_typed_outputs_stay_typed() -> None:
    class Extract(dspy.Signature):
        doc: str = dspy.InputField()
        people: list[Person] = dspy.OutputField()

    with ModelServer({"people": [{"name": "A", "role": "author"}]}) as server, dspy.context(lm=server.lm()):
        assert dspy_node(dspy.Predict(Extract)).invoke({"doc": "x"}) == {
            "people": [Person(name="A", role="author")]
        }


def test_nested_predictions_become_dicts() -> None:
    class Nested(dspy.Module):
        def forward(self, doc: str) -> Any:
            inner = dspy.Prediction(a=1)
            return dspy.Prediction(parts=[inner, inner], pair=(inner,), by={"x": inner}, plain=[1, 2])

    update = dspy_node(Nested()).invoke({"doc": "x"})
    assert update == {
        "parts": [{"a": 1}, {"a": 1}],
        "pair": ({"a": 1},),
        "by": {"x": {"a": 1}},
        "plain": [1, 2],
    }
    assert type(update["parts"][0]) is dict


def test_a_module_may_return_a_dict_but_nothing_else() -> None:
    class Plain(dspy.Module):
        def forward(self, doc: str) -> Any:
            return {"summary": doc} if doc else 7

    assert dspy_node(Plain()).invoke({"doc": "x"}) == {"summary": "x"}
    with pytest.raises(NodeError, match=r"the module returned 7; expected a dspy.Prediction or a dict"):
        dspy_node(Plain()).invoke({"doc": ""})


def test_optional_inputs_are_passed_only_if_there() -> None:
    class Optional(dspy.Module):
        def forward(self, doc: str, length: int = 10) -> Any:
            return {"summary": doc * length}

    assert dspy_node(Optional()).invoke({"doc": "a"})["summary"] == "a" * 10
    assert dspy_node(Optional()).invoke({"doc": "a", "length": 2})["summary"] == "aa"


async def test_a_sync_module_does_not_block_the_loop() -> None:
    class Waits(dspy.Module):
        def forward(self, doc: str) -> Any:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(10)
            return {"summary": doc}

    loop = asyncio.get_running_loop()
    assert await dspy_node(Waits()).ainvoke({"doc": "x"}) == {"summary": "x"}


class Open(dspy.Module):
    def forward(self, **kwargs: Any) -> Any:
        return dict(kwargs)


def test_inputs_that_cannot_be_told_must_be_named() -> None:
    with pytest.raises(NodeError, match=r"Open\.forward names no inputs.*Pass input_fields="):
        dspy_node(Open())
    assert dspy_node(Open(), input_fields=["a"]).invoke({"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dspy_node(3), r"got 3; expected a dspy\.Module"),
        (
            lambda: dspy_node(Summarize(), input_fields="doc"),
            r"input_fields='doc' is a string; expected .*\['doc'\]",
        ),
        (lambda: dspy_node(Summarize(), output_fields=[1]), r"output_fields has 1; expected names of fields"),
        (lambda: dspy_node(Summarize(), input_fields=["length"]), r"lacks \['doc'\], which the module needs"),
    ],
)
def test_bad_arguments_are_refused_when_built(make: Any, message: str) -> None:
    with pytest.raises(NodeError, match=message):
        make()


class Shape(TypedDict):
    summary: str


@pytest.mark.parametrize("given", [str, int | None, list[dspy.Prediction], None, "str"])
def test_a_module_that_says_it_gives_no_fields_is_refused_before_it_is_called(given: Any) -> None:
    class Plain(dspy.Module):
        def forward(self, doc: str) -> Any:
            return doc

    Plain.forward.__annotations__["return"] = given
    with pytest.raises(
        NodeError, match=r"forward of Plain is annotated to return .*; expected a dspy.Prediction or a dict"
    ):
        vmap(Plain(), batch_key="docs", out_key="out")
    with pytest.raises(NodeError, match=r"output_transform=lambda value: \{'name': value\}"):
        dspy_node(Plain())
    assert dspy_node(Plain(), output_transform=lambda text: {"summary": text}).invoke({"doc": "x"}) == {
        "summary": "x"
    }


@pytest.mark.parametrize(
    "given", [Any, object, dspy.Prediction, dict[str, str], Shape, dspy.Prediction | None, "Unknown"]
)
def test_a_module_that_may_give_fields_is_taken(given: Any) -> None:
    class Fine(dspy.Module):
        def forward(self, doc: str) -> Any:
            return {"summary": doc}

    Fine.forward.__annotations__["return"] = given
    assert dspy_node(Fine()).invoke({"doc": "x"}) == {"summary": "x"}
