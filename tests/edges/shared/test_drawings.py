"""Drawings: an edge is drawn as what it is, with what it holds, wherever it stands; and the names that it is
drawn with."""

import itertools
import operator
import re
from collections import Counter
from typing import Annotated, Any, Literal, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.graph import Graph
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command

import mahsm
from mahsm import Branch, connect, fuse, jit_edge, parallel, reduce_edge, vmap
from tests.helpers import MODES, WAVES, graph_of, run, thread
from tests.tracing.spans import recorded

XRAY: list[Any] = [False, 1, 2, 3, 4, True]


class State(TypedDict, total=False):
    xs: Any
    ys: Any
    item: Any
    best: Any
    log: Annotated[list[str], operator.add]


def work(state: Any) -> Any:
    return {"log": []}


def graph(*names: str, name: str | None = "sub", **held: Any) -> CompiledStateGraph[Any, Any, Any, Any]:
    """A graph of nodes in a row: functions, or what is held under their names."""
    builder = StateGraph(State)
    for node in names:
        builder.add_node(node, held.get(node, work))
    for source, target in itertools.pairwise([START, *names, END]):
        builder.add_edge(source, target)
    return builder.compile(name=name) if name else builder.compile()


def fan(target: Any, name: str | None = "fan", **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", "name": name, **options})


def best(name: str = "pick") -> Any:
    return reduce_edge(input_key="ys", output_key="best", reducer=max, name=name)


def arrows(drawn: Graph) -> set[str]:
    """Each arrow as a line, dotted or not, with its label."""
    return {
        f"{one.source} {'..' if one.conditional else '--'}{one.data or ''}> {one.target}"
        for one in drawn.edges
    }


def read(text: str) -> tuple[dict[str, str], list[tuple[str, str]], dict[str, list[str]]]:
    """The nodes with their labels, the arrows and the boxes of a Mermaid text, which has to declare whatever
    it uses."""
    nodes: dict[str, str] = {}
    lines: list[tuple[str, str]] = []
    boxes: dict[str, list[str]] = {}
    path: list[str] = []
    for line in text.partition("graph TD;\n")[2].splitlines():
        line = line.strip()
        if match := re.fullmatch(r"subgraph (.+)", line):
            assert match[1] not in boxes, "two boxes of one name are one"
            boxes[match[1]] = []
            path.append(match[1])
        elif line == "end":
            path.pop()
        elif match := re.fullmatch(r"([\w\\-]+) (?:-->|-\.->|-- .* -->|-\. .* \.->) ([\w\\-]+);", line):
            lines.append((match[1], match[2]))
        elif match := re.fullmatch(r"([\w\\-]+)\(\[?(?:<p>)?(.*?)(?:</p>)?\]?\)(?::::\w+)?", line):
            assert match[1] not in nodes
            nodes[match[1]] = match[2]
            if path:
                boxes[path[-1]].append(match[1])
        else:
            assert re.match(r"classDef |$", line), line
    assert not path
    assert {end for line in lines for end in line} <= nodes.keys(), "arrows lead to what is not declared"
    assert nodes.keys().isdisjoint(boxes), "a box and a node of one name are one"
    return nodes, lines, boxes


def check(drawn: Graph) -> dict[str, list[str]]:
    """See that the Mermaid text has all nodes and arrows of a drawing, and nothing else; its boxes, by the
    nodes' labels."""
    nodes, lines, boxes = read(drawn.draw_mermaid())
    assert Counter(nodes.values()) == Counter(node.name.rpartition(":")[2] for node in drawn.nodes.values())
    assert len(lines) == len(drawn.edges)
    assert {end for one in drawn.edges for end in (one.source, one.target)} <= drawn.nodes.keys()
    json = drawn.to_json()
    assert (len(json["nodes"]), len(json["edges"])) == (len(nodes), len(lines))
    return {box: [nodes[node] for node in inside] for box, inside in boxes.items()}


# One edge.


def test_a_vmap_is_a_fan_out_around_its_target() -> None:
    drawn = graph_of(fan(graph("edit", "bump")), best(), state=State).get_graph(xray=True)
    assert arrows(drawn) >= {
        "__start__ --> fan:__start__",
        "fan:__start__ ..each of xs> fan:fan/sub:edit",
        "fan:fan/sub:edit --> fan:fan/sub:bump",
        "fan:fan/sub:bump ..ys> fan:__end__",
        "fan:__end__ --> pick:__start__",
    }
    assert check(drawn) == {
        "fan": ["__start__", "__end__"],
        "fan/sub": ["edit", "bump"],
        "pick": ["__start__", "max", "__end__"],
    }


def test_a_reduce_edge_is_a_fan_in() -> None:
    assert arrows(best().get_graph()) == {"__start__ ..each of ys> max", "max --best> __end__"}


def test_samples_and_keys_that_mermaid_cannot_show() -> None:
    assert arrows(vmap(work, sample=3, out_key="y.s").get_graph()) == {
        "__start__ ..3 samples> work",
        "work ..> __end__",
    }


def test_numeric_edges_are_steps_between_keys() -> None:
    double = jit_edge(lambda x, k: x * k, in_keys=["x", "k"], out_key="y", name="double")
    total = jit_edge(lambda y: y.sum(), in_keys=["y"], out_key="z", name="total")
    steps = {"double --> total"}
    assert arrows(double.get_graph()) == {"__start__ --x, k> double", "double --y> __end__"}
    assert arrows(fuse(double, total).get_graph()) == {
        "__start__ --x, k> double",
        *steps,
        "total --z> __end__",
    }
    mapped = vmap(fuse(double, total), batch_key="rows", out_key="out", item_to_state=lambda row: {"x": row})
    assert arrows(mapped.get_graph()) == {"__start__ ..each of rows> double", *steps, "total ..out> __end__"}
    check(connect(StateGraph(dict), START, mapped, END).compile().get_graph(xray=True))


def branches(*names: str, **of: Any) -> list[Branch]:
    return [Branch(work, **{"name": name, **of.get(name, {})}) for name in names]


@pytest.mark.parametrize("options", WAVES)
def test_branches_with_what_they_depend_on(options: Any) -> None:
    team = branches(
        "plan",
        "check",
        "print",
        "aside",
        plan={"writes": ["a"]},
        check={"reads": ["a"]},
        print={"after": ["plan", "check"]},
    )
    assert arrows(parallel(team, **options).get_graph()) == {
        "__start__ --> plan",
        "plan --a> check",
        "check --> print",
        "print --> __end__",
        "__start__ --> aside",
        "aside --> __end__",
    }


def test_branches_at_once_in_order_and_in_waves_by_size() -> None:
    at_once = parallel(branches("a", "b")).get_graph()
    assert arrows(at_once) == {"__start__ --> a", "__start__ --> b", "a --> __end__", "b --> __end__"}
    in_order = parallel(
        branches("a", "b", "c", a={"writes": ["x"]}, c={"reads": ["x"]}), scheduler="sequential"
    ).get_graph()
    assert arrows(in_order) == {"__start__ --> a", "a --> b", "b --> c", "c --> __end__"}
    waves = parallel(branches("a", "b", "c"), scheduler="wave", wave_size=2).get_graph()
    assert arrows(waves) == {"__start__ --> a", "__start__ --> b", "a ..> c", "b ..> c", "c --> __end__"}


def test_graphs_in_branches_that_follow_each_other() -> None:
    team = parallel(
        [Branch(graph("x"), name="a"), Branch(graph("x"), name="b", after="a")], scheduler="wave", name="team"
    )
    drawn = graph_of(team, state=State).get_graph(xray=True)
    assert "team:team/a:__end__ --> team:team/b:__start__" in arrows(drawn)
    inside = ["__start__", "x", "__end__"]
    assert check(drawn) == {"team": ["__start__", "__end__"], "team/a": inside, "team/b": inside}


# Where it stands.


@pytest.mark.parametrize("xray", XRAY)
def test_as_deep_as_asked(xray: Any) -> None:
    inner = graph("first", "inner", inner=fan(graph("deep"), "inner"))
    drawn = graph_of(fan(inner), best(), state=State).get_graph(xray=xray)
    expected: dict[str, dict[str, list[str]]] = {
        "False": {},
        "1": {"fan": ["__start__", "sub", "__end__"]},
        "2": {"fan": ["__start__", "__end__"], "fan/sub": ["first", "inner"]},
        "3": {
            "fan": ["__start__", "__end__"],
            "fan/sub": ["first"],
            "fan/sub/inner": ["__start__", "sub", "__end__"],
        },
    }
    everything = {
        "fan": ["__start__", "__end__"],
        "fan/sub": ["first"],
        "fan/sub/inner": ["__start__", "__end__"],
        "fan/sub/inner/sub": ["__start__", "deep", "__end__"],
    }
    fan_in = {"pick": ["__start__", "max", "__end__"]} if xray else {}
    assert {name: sorted(inside) for name, inside in check(drawn).items()} == {
        name: sorted(inside) for name, inside in (expected.get(str(xray), everything) | fan_in).items()
    }


@pytest.mark.parametrize(
    "target",
    [
        fan(graph("deep"), "inner"),
        fan(graph("deep"), "inner").compile(name="inner"),
        fan(graph("deep"), "inner").compile(State, name="inner"),
        parallel({"a": fan(graph("deep"), "inner"), "b": work}, name="team"),
        graph("one", one=graph("two", two=graph("deep"))),
        RunnableLambda(lambda state: INSIDE.invoke(state), name="calls"),
        lambda state: INSIDE.invoke(state),
    ],
)
@pytest.mark.parametrize("name", ["fan", "other"])
def test_targets_that_hold_a_graph(target: Any, name: str) -> None:
    builder = StateGraph(State)
    builder.add_node(name, fan(target))
    builder.add_node("next", work)
    builder.add_edge(START, name)
    builder.add_edge(name, "next")
    drawn = builder.compile().get_graph(xray=True)
    check(drawn)
    assert [node.name for node in drawn.nodes.values()].count("deep") == 1


INSIDE = graph("deep")


def test_in_a_graph_inside_of_the_parent() -> None:
    drawn = graph("load", "part", part=graph("before", "fan", fan=fan(graph("deep")))).get_graph(xray=True)
    assert check(drawn)["fan/sub"] == ["__start__", "deep", "__end__"]
    for only in (fan(graph("deep")).compile(), fan(graph("deep")).compile(State)):
        drawn = graph("load", "part", part=only).get_graph(xray=True)
        assert check(drawn)["part"] == ["__start__", "__end__"]
        assert check(drawn)["fan/sub"] == ["__start__", "deep", "__end__"]


@pytest.mark.parametrize("held", [graph("deep", "more"), fan(graph("deep", "more"))])
def test_langgraph_leaves_out_what_is_in_a_graph_of_one_node(held: Any) -> None:
    """What the pages say of LangGraph's own drawings: with an edge it is as without. `Edge.compile` is drawn,
    see above."""
    drawn = graph("load", "part", part=graph("only", only=held)).get_graph(xray=True)
    assert {"deep", "more"} <= {node.name for node in drawn.nodes.values()}
    with pytest.raises(AssertionError, match="not declared"):
        check(drawn)


def test_one_graph_in_two_edges_and_one_edge_in_two_nodes() -> None:
    sub = graph("x", "inner", inner=graph("deep", "more"))
    drawn = graph_of(fan(sub, "one"), fan(sub, "two"), state=State).get_graph(xray=True)
    assert check(drawn).keys() == {"one", "one/sub", "one/sub/inner", "two", "two/sub", "two/sub/inner"}
    edge = fan(work)
    assert check(graph("a", "b", a=edge, b=edge).get_graph(xray=True)).keys() == {"a", "b"}


def test_a_graph_whose_nodes_say_where_to_go_on() -> None:
    def decide(state: Any) -> Command[Literal["again", "stop"]]:
        return Command(goto="stop")

    builder = StateGraph(State)
    builder.add_node("decide", decide)
    builder.add_node("again", lambda state: Command(goto="decide"))
    builder.add_node("stop", lambda state: Command(goto=END))
    builder.add_edge(START, "decide")
    drawn = graph_of(fan(builder.compile(name="sub")), state=State).get_graph(xray=True)
    check(drawn)
    assert {"fan:fan/sub:decide ..> fan:fan/sub:again", "fan:fan/sub:decide ..> fan:fan/sub:stop"} <= arrows(
        drawn
    )
    endless = StateGraph(State)
    endless.add_node("to", lambda state: {})
    endless.add_node("fro", lambda state: {})
    for source, target in [(START, "to"), (START, "fro"), ("to", "fro"), ("fro", "to")]:
        endless.add_edge(source, target)
    drawn = graph_of(fan(endless.compile(name="sub")), state=State).get_graph(xray=True)
    check(drawn)
    assert "fan:fan/sub:fro ..ys> fan:__end__" in arrows(drawn)


shapes = st.recursive(
    st.sampled_from(["work", "reduce"]),
    lambda inside: st.tuples(
        st.sampled_from(["vmap", "edge alone", "row", "at once", "parallel", "sequential"]),
        st.lists(inside, min_size=1, max_size=3),
    ),
    max_leaves=8,
)


class Made:
    """Makes what a shape says, and notes the names of the nodes that do the work."""

    def __init__(self) -> None:
        self.names = (f"n{number}" for number in itertools.count())
        self.leaves: list[str] = []

    def leaf(self) -> str:
        self.leaves.append(next(self.names))
        return self.leaves[-1]

    def of(self, shape: Any, *, below_an_edge: bool) -> Any:
        if shape == "reduce":
            reducer = lambda values: values[0]  # noqa: E731
            reducer.__name__ = self.leaf()
            return reduce_edge(input_key="ys", output_key="best", reducer=reducer, name=next(self.names))
        if shape == "work":
            return self.leaf()
        kind, inside = shape
        if kind in ("vmap", "edge alone"):
            edge = fan(self.target(inside[0]), next(self.names))
            return edge if kind == "vmap" else edge.compile()
        if kind in ("parallel", "sequential"):
            return parallel([self.target(one) for one in inside], scheduler=kind, name=next(self.names))
        return self.graph(
            inside if below_an_edge or len(inside) > 1 else [*inside, "work"],
            kind,
            below_an_edge=below_an_edge,
        )

    def target(self, shape: Any) -> Any:
        made = self.of(shape, below_an_edge=True)
        if not isinstance(made, str):
            return made
        target = lambda state: {}  # noqa: E731
        target.__name__ = made
        return target

    def graph(self, inside: list[Any], kind: str, *, below_an_edge: bool) -> Any:
        builder, nodes = StateGraph(State), list[str]()
        for shape in inside:
            made = self.of(shape, below_an_edge=below_an_edge)
            nodes.append(made if isinstance(made, str) else next(self.names))
            builder.add_node(nodes[-1], work if isinstance(made, str) else made)
        paths = [nodes] if kind == "row" else [[node] for node in nodes]
        for source, target in (pair for path in paths for pair in itertools.pairwise([START, *path, END])):
            builder.add_edge(source, target)
        return builder.compile(name=next(self.names))


@given(inside=st.lists(shapes, min_size=1, max_size=3), kind=st.sampled_from(["row", "at once"]))
@settings(max_examples=60, deadline=None)
def test_nothing_is_lost_in_any_shape(inside: Any, kind: str) -> None:
    made = Made()
    drawn = made.graph(inside, kind, below_an_edge=False).get_graph(xray=True)
    check(drawn)
    there = Counter(node.name.rpartition(":")[2] for node in drawn.nodes.values())
    assert {name: count for name, count in there.items() if name not in (START, END)} == dict.fromkeys(
        made.leaves, 1
    )


# Other ways to draw, and to show.


async def test_awaited() -> None:
    edge = fan(graph("deep"))
    parent = graph_of(edge, state=State)
    assert arrows(await parent.aget_graph(xray=True)) == arrows(parent.get_graph(xray=True))
    assert arrows(await edge.aget_graph(xray=True)) == arrows(edge.get_graph(xray=True))
    alone = edge.compile()
    assert (
        arrows(await alone.aget_graph(xray=1)) == arrows(alone.get_graph(xray=1)) == arrows(edge.get_graph())
    )


def test_in_letters() -> None:
    pytest.importorskip("grandalf")
    text = graph_of(fan(graph("deep")), best(), state=State).get_graph(xray=True).draw_ascii()
    assert all(name in text for name in ("__start__", "deep", "max"))


def test_a_copy_is_drawn_alike_and_runs() -> None:
    edge = fan(lambda state: state["item"] * 2)
    copied = edge.graph.with_config(tags=["x"])
    assert arrows(copied.get_graph()) == arrows(edge.get_graph())
    assert edge.compile().with_config(tags=["x"]).invoke({"xs": [1]}) == {"xs": [1], "ys": [2]}


def test_a_notebook_shows_the_drawing_without_a_network() -> None:
    edge = fan(graph("deep"))
    shown = edge._repr_mimebundle_()
    assert shown == {"text/plain": repr(edge), "text/vnd.mermaid": edge.get_graph(xray=True).draw_mermaid()}
    assert "fan/sub" in read(shown["text/vnd.mermaid"])[2]


def test_what_cannot_be_drawn_is_shown_as_text() -> None:
    class Undrawn(CompiledStateGraph):
        def get_graph(self, *_: Any, **__: Any) -> Any:
            raise ConnectionError("no network")

    sub = graph("deep")
    edge = fan(Undrawn(**vars(sub)))
    assert edge._repr_mimebundle_() == {"text/plain": f"{edge!r} (not drawn: ConnectionError: no network)"}


# Names.


def asks() -> CompiledStateGraph[Any, Any, Any, Any]:
    """A graph without a name that calls a model."""
    model = GenericFakeChatModel(messages=itertools.repeat(AIMessage("yes")))
    builder = StateGraph(State)
    builder.add_node("ask", lambda state: {"ys": model.invoke("?").content})
    builder.add_edge(START, "ask")
    return builder.compile()


@pytest.mark.parametrize("mode", MODES)
def test_a_graph_without_a_name_takes_that_of_its_edge(mode: str) -> None:
    edge = fan(asks(), "research")
    team = parallel(
        {"left": asks(), "right": Branch(asks(), retry=mahsm.Retry())},
        name="team",
        merge=lambda state, updates: {},
    )
    parent = graph_of(edge, team, state=State)
    with mahsm.usage() as used:
        run(parent, {"xs": [1, 2]}, mode)
    assert {node: one.calls for node, one in used.by_node.items()} == {
        "research/research/ask": 2,
        "team/left/ask": 1,
        "team/right/ask": 1,
    }
    with recorded() as recording:
        run(parent, {"xs": [1, 2]}, mode, {"callbacks": [recording.handler]})
        names = Counter(line.strip() for line in recording.tree())
    assert names["LangGraph"] == 1, "the graph around"
    assert (names["research"], names["left"], names["right"]) == (1 + 4, 2, 2), (
        "the node, and items with their graphs"
    )
    assert check(graph_of(edge, state=State).get_graph(xray=True)) == {
        "research": ["__start__", "__end__"],
        "research/research": ["__start__", "ask", "__end__"],
    }


def test_edges_around_graphs_without_a_name_are_told_apart() -> None:
    first, second = fan(asks(), None, out_key="notes"), fan(asks(), None, out_key="a:b")
    assert (first.name, second.name) == ("vmap_notes", "vmap_a_b")
    team = parallel([asks(), graph("x"), asks()])
    assert team.name == "parallel_branch_0_sub_branch_2"
    assert vmap(graph("x"), batch_key="xs", out_key="ys").name == "vmap_sub"


@pytest.mark.parametrize("mode", MODES)
def test_a_graph_without_a_name_is_resumed(mode: str) -> None:
    seen: list[str] = []

    def ask(state: Any) -> Any:
        seen.append(state["item"])
        if seen.count("b") == 1 and state["item"] == "b":
            raise ValueError("once")
        return {"ys": state["item"]}

    builder = StateGraph(State)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    edge = fan(builder.compile(), None, result="ys", max_concurrency=1)
    parent = graph_of(edge, state=State, checkpointer=InMemorySaver())
    with pytest.raises(ValueError, match="once"):
        run(parent, {"xs": ["a", "b"]}, mode, thread())
    assert run(parent, None, mode, thread())["ys"] == ["a", "b"]
    assert seen == ["a", "b", "b"]
