"""Edges in LangGraph: interrupts, streams, drawings, wiring."""

from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from mahsm import connect, reduce_edge, vmap
from mahsm.errors import EdgeError
from tests.helpers import MODES, DictState, graph_of, run, thread


def ask(state: dict[str, Any]) -> str:
    return f"{state['item']}={interrupt(state['item'])}"


async def ask_async(state: dict[str, Any]) -> str:
    return ask(state)


def square(state: dict[str, Any]) -> int:
    return state["item"] ** 2


def edge_of(target: Any = square, **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", **options})


# Interrupts.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", [ask, ask_async])
def test_each_item_resumes_with_its_own_answer(target: Any, mode: str) -> None:
    graph = graph_of(edge_of(target, chunk_size=1, max_concurrency=2), checkpointer=InMemorySaver())
    state = run(graph, {"xs": ["a", "b", "c"]}, mode, thread())
    asked = {question.id: question.value for question in state["__interrupt__"]}
    assert sorted(asked.values()) == ["a", "b", "c"]
    some = {id: value.upper() for id, value in asked.items() if value != "b"}
    state = run(graph, Command(resume=some), mode, thread())
    assert [question.value for question in state["__interrupt__"]] == ["b"]
    assert run(graph, Command(resume="B"), mode, thread())["ys"] == ["a=A", "b=B", "c=C"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("on_error", ["collect", "drop"])
def test_an_interrupt_is_no_failure(on_error: Any, mode: str) -> None:
    graph = graph_of(edge_of(ask, chunk_size=1, on_error=on_error), checkpointer=InMemorySaver())
    assert len(run(graph, {"xs": ["a", "b"]}, mode, thread())["__interrupt__"]) == 2


@pytest.mark.parametrize("mode", MODES)
def test_items_that_finished_do_not_run_again_after_an_interrupt(mode: str) -> None:
    calls: list[str] = []

    def some_ask(state: dict[str, Any]) -> str:
        calls.append(state["item"])
        return ask(state) if state["item"] == "b" else state["item"]

    graph = graph_of(edge_of(some_ask, chunk_size=1), checkpointer=InMemorySaver())
    run(graph, {"xs": ["a", "b", "c"]}, mode, thread())
    assert run(graph, Command(resume="B"), mode, thread())["ys"] == ["a", "b=B", "c"]
    assert sorted(calls) == ["a", "b", "b", "c"]


@pytest.mark.parametrize("mode", MODES)
def test_interrupts_in_an_edge_inside_an_edge(mode: str) -> None:
    inner = vmap(ask, batch_key="row", out_key="ys")
    outer = edge_of(inner, item_to_state=lambda row: {"row": row}, result="ys", max_concurrency=1)
    graph = graph_of(outer, checkpointer=InMemorySaver())
    state = run(graph, {"xs": [["a", "b"], ["c"]]}, mode, thread())
    answers = {question.id: question.value.upper() for question in state["__interrupt__"]}
    assert run(graph, Command(resume=answers), mode, thread())["ys"] == [["a=A", "b=B"], ["c=C"]]


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupt_where_items_share_a_task_says_what_to_do(mode: str) -> None:
    calls: list[str] = []

    def counted(state: dict[str, Any]) -> str:
        calls.append(state["item"])
        return ask(state)

    graph = graph_of(edge_of(counted, chunk_size=2, max_concurrency=2), checkpointer=InMemorySaver())
    with pytest.raises(EdgeError, match=r"called interrupt\(\), but 2 items share a task.*Pass chunk_size=1"):
        run(graph, {"xs": ["a"] * 100}, mode, thread())
    assert len(calls) <= 3, "the rest is not begun"


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupt_without_a_checkpointer_says_what_to_do(mode: str) -> None:
    with pytest.raises(
        EdgeError, match=r"runs alone, without a checkpointer\. Use edge\.compile\(checkpointer="
    ):
        run(edge_of(ask), {"xs": ["a"]}, mode)


def test_state_of_the_subgraph_while_it_is_interrupted() -> None:
    graph = graph_of(edge_of(ask, name="asks"), checkpointer=InMemorySaver())
    graph.invoke({"xs": ["a", "b"]}, thread())
    snapshot = graph.get_state(thread(), subgraphs=True)
    assert snapshot.next == ("asks",)
    inside = snapshot.tasks[0].state
    assert [task.name for task in inside.tasks] == ["ask", "ask"]
    assert sorted(task.interrupts[0].value for task in inside.tasks) == ["a", "b"]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("mode", MODES)
def test_every_durability_of_langgraph_works(mode: str, durability: Any) -> None:
    import asyncio

    graph = graph_of(
        edge_of(vmap(square, batch_key="item", out_key="ys"), result="ys"), checkpointer=InMemorySaver()
    )
    if mode == "sync":
        state = graph.invoke({"xs": [[1, 2], [3]]}, thread(), durability=durability)
    else:
        state = asyncio.run(graph.ainvoke({"xs": [[1, 2], [3]]}, thread(), durability=durability))
    assert state["ys"] == [[1, 4], [9]]


def test_going_back_in_time_runs_the_edge_again() -> None:
    graph = graph_of(edge_of(), checkpointer=InMemorySaver())
    graph.invoke({"xs": [1, 2]}, thread())
    before = next(
        snapshot for snapshot in graph.get_state_history(thread()) if snapshot.next == ("vmap_square",)
    )
    fork = graph.update_state(before.config, {"xs": [5]})
    assert graph.invoke(None, fork)["ys"] == [25]


# Streams.


@pytest.mark.parametrize("size", [3, 300])
def test_custom_stream_shows_progress(size: int) -> None:
    def odd_fails(state: dict[str, Any]) -> int:
        return 1 // (1 - state["item"] % 2)

    graph = graph_of(edge_of(odd_fails, on_error="drop", name="edge"))
    events = list(graph.stream({"xs": list(range(size))}, stream_mode="custom"))
    assert events[-1] == {
        "edge": "edge",
        "done": size,
        "total": size,
        "errors": size // 2,
        "tokens": 0,
        "usd": 0.0,
    }
    assert events[0]["done"] == 1
    assert [event["done"] for event in events] == sorted(event["done"] for event in events)


async def test_custom_stream_under_async() -> None:
    events = [event async for event in graph_of(edge_of()).astream({"xs": [1, 2]}, stream_mode="custom")]
    assert events[-1] == {"edge": "vmap_square", "done": 2, "total": 2, "errors": 0, "tokens": 0, "usd": 0.0}


def test_stream_of_subgraphs_shows_each_task() -> None:
    chunks = list(graph_of(edge_of(name="edge")).stream({"xs": [1, 2]}, subgraphs=True))
    inside = [chunk for namespace, chunk in chunks if namespace]
    assert [next(iter(chunk)) for chunk in inside] == ["square", "square"]
    assert chunks[-1] == ((), {"edge": {"ys": [1, 4]}})


async def test_an_edge_streams_alone() -> None:
    assert list(edge_of().stream({"xs": [2]}, stream_mode="values"))[-1] == {"xs": [2], "ys": [4]}
    assert [chunk async for chunk in edge_of().astream({"xs": [2]}, stream_mode="values")][-1] == {
        "xs": [2],
        "ys": [4],
    }


# Drawings.


def compiled() -> Any:
    builder = StateGraph(DictState)
    builder.add_node("first", lambda state: {})
    builder.add_node("last", lambda state: {"ys": 1})
    return connect(builder, START, "first", "last", END).compile(name="inside")


def test_xray_draws_what_is_inside() -> None:
    builder = StateGraph(DictState)
    reduce = reduce_edge(input_key="ys", output_key="bias", reducer=sum, name="reduce")
    graph = connect(builder, START, edge_of(compiled(), name="fan"), reduce, END).compile()
    nodes = set(graph.get_graph(xray=True).nodes)
    assert {"fan:fan/inside:first", "fan:fan/inside:last", "reduce:sum"} <= nodes
    assert set(graph.get_graph().nodes) == {"__start__", "fan", "reduce", "__end__"}


def test_an_edge_draws_itself() -> None:
    assert set(edge_of().get_graph().nodes) == {"__start__", "square", "__end__"}


# Running alone.


@pytest.mark.parametrize("mode", MODES)
def test_compile_keeps_whatever_keys_there_are(mode: str) -> None:
    graph = edge_of().compile(checkpointer=InMemorySaver())
    assert run(graph, {"xs": [3], "more": "kept"}, mode, thread()) == {"xs": [3], "more": "kept", "ys": [9]}
    assert graph.get_state(thread()).values["ys"] == [9]
    assert set(graph.get_graph(xray=True).nodes) == {"__start__", "square", "__end__"}
    assert set(graph.get_graph().nodes) == {"__start__", "vmap_square", "__end__"}


def test_compile_with_a_schema() -> None:
    assert edge_of().compile(DictState).invoke({"xs": [3], "bias": 1}) == {"xs": [3], "bias": 1, "ys": [9]}


def test_the_subgraph_does_not_run_without_its_edge() -> None:
    with pytest.raises(EdgeError, match="runs only inside its edge"):
        edge_of().graph.invoke({})


# Wiring.


def test_connect_adds_the_edges_and_returns_the_builder() -> None:
    builder = StateGraph(DictState)
    builder.add_node("load", lambda state: {"xs": [1, 2]})
    total = reduce_edge(input_key="ys", output_key="bias", reducer=sum)
    assert connect(builder, START, "load", edge_of(), total, END) is builder
    assert builder.compile().invoke({})["bias"] == 5


def test_connect_takes_an_edge_that_is_there_already() -> None:
    edge, builder = edge_of(), StateGraph(DictState)
    connect(builder, START, edge)
    connect(builder, edge, END)
    assert builder.compile().invoke({"xs": [2]})["ys"] == [4]


def test_connect_knows_no_keys_of_a_state_without_a_schema() -> None:
    builder: Any = StateGraph(dict)
    assert connect(builder, START, edge_of(), END).compile().invoke({"xs": [2]}) == {"ys": [4]}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (lambda: [START], r"got 1 steps; expected at least two"),
        (
            lambda: [START, 7],
            r"step 1 is 7; expected a node name, an edge, a function or a Runnable.*builder\.add_node",
        ),
        (lambda: [(edge := edge_of()), "x", edge], r"is given twice, which would make a loop.*two names"),
        (
            lambda: [edge_of(), edge_of()],
            r"the graph already has another node 'vmap_square'.*Give .* a name=",
        ),
        (
            lambda: [START, edge_of(out_key="zs")],
            r"uses 'zs', but the state schema DictState has only 'bias', 'errors', 'xs', 'ys'",
        ),
    ],
)
def test_connect_refuses_what_cannot_work(steps: Any, message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        connect(StateGraph(DictState), *steps())
