"""A `GraphModule` where any module may be: in nodes, edges, branches and programs, and in graphs of such."""

import copy
import operator
from typing import Annotated, Any

import dspy
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from mahsm import Branch, GraphModule, connect, dspy_node, dspy_program, parallel, vmap
from mahsm.errors import GraphError, MissingKeyError, NodeError
from mahsm.testing import Call, FakeLM
from tests.helpers import MODES, run, thread


class Words(TypedDict, total=False):
    words: list[str]
    shouts: list[str]
    log: Annotated[list[str], operator.add]


class Outer(TypedDict, total=False):
    text: str
    words: list[str]
    texts: list[list[str]]
    shouts: list[str]
    found: Any


def model(call: Call) -> Any:
    return {"shout": call.inputs["word"].upper() + "!" * len(call.demos)}


def shout() -> Any:
    return vmap(
        dspy.Predict("word -> shout"),
        batch_key="words",
        out_key="shouts",
        item_to_state=lambda word: {"word": word},
        result="shout",
        name="shout",
    )


def program(name: str | None = "desk", **options: Any) -> GraphModule:
    return GraphModule(connect(StateGraph(Words), START, shout(), END).compile(name=name), **options)


def graph_of(node: Any, state: Any = Outer, **options: Any) -> Any:
    return connect(StateGraph(state), START, node, END).compile(**options)


def lists(words: list[str]) -> Any:
    return {"words": words}


class Reads(dspy.Module):
    def __init__(self, desk: Any) -> None:
        super().__init__()
        self.desk = desk

    def forward(self, words: list[str]) -> Any:
        return dspy.Prediction(found=self.desk(words=words).shouts)


WAYS: dict[str, tuple[Any, Any]] = {
    "node": (lambda desk: graph_of(dspy_node(desk, output_fields={"shouts": "found"})), ["A", "B"]),
    "target": (
        lambda desk: graph_of(
            vmap(desk, batch_key="texts", out_key="found", item_to_state=lists, result="shouts")
        ),
        [["A"], ["B"]],
    ),
    "branch": (
        lambda desk: graph_of(
            parallel([Branch(dspy_node(desk, output_fields={"shouts": "found"}), name="desk")])
        ),
        ["A", "B"],
    ),
    "program": (
        lambda desk: graph_of(dspy_program(Reads(desk), outputs=["found"]).compile(name="reads")),
        ["A", "B"],
    ),
    "module": (lambda desk: graph_of(dspy_node(Reads(desk))), ["A", "B"]),
}
INPUTS = {"words": ["a", "b"], "texts": [["a"], ["b"]]}
PATHS = {
    "node": "nodes['desk/shout/Predict']",
    "target": "nodes['vmap_desk/desk/shout/Predict']",
    "branch": "nodes['parallel_desk/desk/shout/Predict']",
    "program": "nodes['reads/self.desk/shout/Predict']",
    "module": "nodes['Reads'].desk.nodes['shout/Predict']",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
def test_it_is_a_module_like_any(mode: str, way: str) -> None:
    make, expected = WAYS[way]
    graph = make(program())
    with dspy.context(lm=FakeLM(model)):
        assert run(graph, INPUTS, mode)["found"] == expected
        outer = GraphModule(graph, outputs=["found"])
        assert outer(**INPUTS).found == expected
    assert [name for name, _ in outer.named_predictors()] == [PATHS[way]]


@pytest.mark.parametrize("way", WAYS)
def test_its_predictors_are_those_of_the_graph_around(way: str) -> None:
    make, expected = WAYS[way]
    desk = program()
    outer = GraphModule(make(desk), outputs=["found"])
    learned = outer.deepcopy()
    (predictor,) = learned.predictors()
    predictor.demos = [dspy.Example(word="x", shout="X")]

    def found(called: Any) -> Any:
        with dspy.context(lm=FakeLM(model), trace=[]):
            got = called()
            assert {type(step[0]) for step in dspy.settings.trace} == {dspy.Predict}
            return str(got)

    plain, better = str(expected), str(expected).replace("A", "A!").replace("B", "B!")
    assert found(lambda: outer(**INPUTS).found) == plain
    assert found(lambda: learned(**INPUTS).found) == better
    with dspy.context(lm=FakeLM(model), trace=[]):
        learned(**INPUTS)
        assert {id(step[0]) for step in dspy.settings.trace} == {id(predictor)}
    assert found(lambda: desk(words=["A", "B"]).shouts) == "['A', 'B']", "the graph is as it was"
    graph = learned.apply()
    assert found(lambda: GraphModule(graph, outputs=["found"])(**INPUTS).found) == better


def test_to_any_depth_and_twice() -> None:
    """Two programs that share a graph have modules of their own."""
    desk = program()
    other = desk.deepcopy()
    builder = StateGraph(Words)
    builder.add_node("first", dspy_node(desk))
    builder.add_node("second", dspy_node(other, input_fields={"words": "shouts"}))
    middle = GraphModule(
        connect(builder, START, "first", "second", END).compile(name="middle"), outputs=["shouts"]
    )
    outer = GraphModule(graph_of(dspy_node(middle, name="outer")), outputs=["shouts"])
    assert list(outer.nodes) == ["outer/first/shout/Predict", "outer/second/shout/Predict"]
    outer.nodes["outer/second/shout/Predict"].demos = [dspy.Example(word="x", shout="X")]
    with dspy.context(lm=FakeLM(model)):
        assert outer(words=["a"]).shouts == ["A!"]
        outer.nodes["outer/first/shout/Predict"].demos = [dspy.Example(word="x", shout="X")] * 2
        assert outer(words=["a"]).shouts == ["A!!!"]
        assert middle(words=["a"]).shouts == ["A"]
        outer.apply()
        assert outer.graph.invoke({"words": ["a"]})["shouts"] == ["A!!!"]
        frozen = GraphModule(outer.graph, outputs=["shouts"], frozen=["outer/first"])
        assert list(frozen.nodes) == ["outer/second/shout/Predict"]
        assert frozen(words=["a"]).shouts == ["A!!!"]


def test_it_takes_what_its_graph_takes() -> None:
    assert dspy_node(program()).reads == {"words", "shouts", "log"}
    assert dspy_node(program(outputs=["shouts"])).writes == {"shouts"}
    with dspy.context(lm=FakeLM(model)):
        mapped = dspy_node(program(), input_fields={"words": "texts"}, output_fields={"shouts": "found"})
        assert mapped.invoke({"texts": ["a"]}) == {"found": ["A"]}
    assert dspy_node(program(None)).name == "GraphModule"


def test_what_the_run_has_changed_is_given_also_if_it_was_an_input() -> None:
    with dspy.context(lm=FakeLM(model)):
        given = {"words": ["a"], "shouts": ["old"], "log": ["old"]}
        assert dspy_node(program()).invoke(given) == {"shouts": ["A"]}


class Kwargs(dspy.Module):
    """Its inputs are a guess: those of the one signature in it."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("word -> shout")

    def forward(self, **given: Any) -> Any:
        return self.ask(word="".join(given.values()))


class SeveralKwargs(Kwargs):
    def __init__(self) -> None:
        super().__init__()
        self.more = dspy.Predict("word -> shout")


@pytest.mark.parametrize("mode", MODES)
def test_what_takes_any_inputs_is_told_which(mode: str) -> None:
    with dspy.context(lm=FakeLM(model)):
        assert run(dspy_node(Kwargs()), {"word": "a"}, mode) == {"shout": "A"}
        assert run(dspy_node(Kwargs(), input_fields=["one", "two"]), {"one": "a", "two": "b"}, mode) == {
            "shout": "AB"
        }
        assert run(dspy_node(SeveralKwargs(), input_fields=["one"]), {"one": "a"}, mode) == {"shout": "A"}
        with pytest.raises(MissingKeyError, match="input_fields"):
            run(dspy_node(Kwargs()), {"one": "a"}, mode)
    with pytest.raises(NodeError, match=r"forward names no inputs.*Pass input_fields"):
        dspy_node(SeveralKwargs())


@pytest.mark.parametrize("mode", MODES)
def test_it_remembers_nothing_of_a_graph_around(mode: str) -> None:
    """Nor of an attempt before: a saver of the graph around is none of its own."""

    def note(state: Any) -> Any:
        return {"log": ["noted"]}

    failing = [True]

    def fails(state: Any) -> Any:
        if failing[0]:
            raise ValueError("no")
        return {}

    inner = connect(StateGraph(Words), START, shout(), note, fails, END).compile(
        name="desk", checkpointer=InMemorySaver()
    )
    graph = graph_of(dspy_node(GraphModule(inner, outputs=["log"])), Words, checkpointer=InMemorySaver())
    with dspy.context(lm=FakeLM(model)):
        with pytest.raises(ValueError, match="no"):
            run(graph, {"words": ["a"]}, mode, thread())
        failing[0] = False
        assert run(graph, None, mode, thread())["log"] == ["noted"]


def test_copies() -> None:
    one = program()
    shallow, deep = copy.copy(one), copy.deepcopy(one)
    assert shallow.nodes == one.nodes
    assert shallow.nodes is not one.nodes
    assert deep.nodes["shout/Predict"] is not one.nodes["shout/Predict"]
    with pytest.raises(GraphError, match="cannot be pickled"):
        copy.copy(one).__reduce__()


def test_learned_state_is_saved_by_path(tmp_path: Any) -> None:
    outer = GraphModule(WAYS["node"][0](program()), outputs=["found"])
    outer.predictors()[0].demos = [dspy.Example(word="x", shout="X")]
    outer.save(tmp_path / "outer.json")
    again = GraphModule(WAYS["node"][0](program()), outputs=["found"])
    again.load(tmp_path / "outer.json")
    with dspy.context(lm=FakeLM(model)):
        assert again(words=["a"]).found == ["A!"]
