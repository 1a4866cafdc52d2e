"""A fan-out by `Send` to a subgraph that has schemas of its own and a loop, and the same with `vmap`."""

import asyncio
import operator
from collections import Counter
from typing import Annotated, Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from mahsm import connect, vmap
from tests.helpers import MODES, run, thread


class Poems(TypedDict):
    topics: list[str]
    poems: Annotated[list[str], operator.add]
    bound: str


class Topic(TypedDict):
    topic: str


class Poem(TypedDict):
    poems: list[str]


class Draft(Topic, Poem):
    lines: int


class Poet:
    """Writes a poem in a loop of lines; notes each step, and fails once for the topics in `fails`."""

    def __init__(self, *fails: str) -> None:
        self.steps: Counter[str] = Counter()
        self.fails = set(fails)

    def think(self, state: Topic) -> dict[str, Any]:
        self.steps[f"think {state['topic']}"] += 1
        return {"topic": state["topic"].title(), "lines": 0}

    def write(self, state: Draft) -> dict[str, Any]:
        self.steps[f"write {state['topic']}"] += 1
        if state["topic"] in self.fails:
            self.fails.remove(state["topic"])
            raise ConnectionError(state["topic"])
        return {"poems": [f"{state['topic']}:{'la' * state['lines']}"], "lines": state["lines"] + 1}

    def graph(self) -> Any:
        builder = StateGraph(Draft, input_schema=Topic, output_schema=Poem)
        builder.add_node("think", self.think)
        builder.add_node("write", self.write)
        builder.add_edge(START, "think")
        builder.add_edge("think", "write")
        builder.add_conditional_edges(
            "write", lambda state: END if state["lines"] == 4 else "write", ["write", END]
        )
        return builder.compile(name="poet")


def bind(state: Poems) -> dict[str, str]:
    return {"bound": ", ".join(state["poems"]) or "an empty book"}


def by_send(poet: Poet) -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(Poems)
    builder.add_node("poet", poet.graph())
    builder.add_node("bind", bind)
    builder.add_conditional_edges(
        START, lambda state: [Send("poet", {"topic": topic}) for topic in state["topics"]], ["poet"]
    )
    builder.add_edge("poet", "bind")
    return builder


def by_edge(poet: Poet, **options: Any) -> StateGraph[Any, Any, Any, Any]:
    edge = vmap(
        poet.graph(),
        batch_key="topics",
        out_key=["poems"],
        item_to_state=lambda topic: {"topic": topic},
        name="poet",
        **options,
    )
    return connect(StateGraph(Poems), START, edge, bind, END)


def topics(*names: str) -> Any:
    return {"topics": [*names], "poems": ["Prologue"]}


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_the_state_is_the_same(mode: str, saved: bool) -> None:
    given = topics(*(f"topic {number}" for number in range(20)))
    poets = Poet(), Poet()
    options: Any = {"checkpointer": InMemorySaver()} if saved else {}
    sent = run(by_send(poets[0]).compile(**options), given, mode, thread("send"))
    assert run(by_edge(poets[1]).compile(**options), given, mode, thread("edge")) == sent
    assert len(sent["poems"]) == 21
    assert poets[0].steps == poets[1].steps


@pytest.mark.parametrize("mode", MODES)
def test_without_items_the_graph_goes_on(mode: str) -> None:
    """No `Send` is the end of the graph."""
    assert "bound" not in run(by_send(Poet()).compile(), topics(), mode)
    assert run(by_edge(Poet()).compile(), topics(), mode)["bound"] == "Prologue"


@pytest.mark.parametrize("mode", MODES)
def test_after_a_failure_the_same_is_done_again(mode: str) -> None:
    poets = [Poet("C"), Poet("C")]
    states: list[Any] = []
    for builder in (by_send(poets[0]), by_edge(poets[1], max_concurrency=1)):
        graph, config = builder.compile(checkpointer=InMemorySaver()), thread(max_concurrency=1)
        with pytest.raises(ConnectionError, match="C"):
            run(graph, topics("a", "b", "c"), mode, config)
        states.append(run(graph, None, mode, config))
    assert states[0] == states[1]
    assert (
        poets[0].steps
        == poets[1].steps
        == Counter({"think a": 1, "think b": 1, "think c": 1, "write A": 4, "write B": 4, "write C": 5})
    )


async def stream_of(graph: Any, mode: str, stream_mode: Any) -> list[Any]:
    given, options = topics("a", "b"), {"stream_mode": stream_mode, "subgraphs": True}
    if mode == "sync":
        return list(graph.stream(given, thread(), **options))
    return [chunk async for chunk in graph.astream(given, thread(), **options)]


def updates_of(chunks: list[Any]) -> Counter[str]:
    """What the subgraph's own nodes wrote; namespaces have ids in them, which differ."""
    return Counter(
        str({name: update})
        for namespace, chunk in chunks
        if namespace
        for name, update in chunk.items()
        if name in ("think", "write")
    )


@pytest.mark.parametrize("mode", MODES)
async def test_the_subgraphs_updates_are_the_same(mode: str) -> None:
    sent = await stream_of(by_send(Poet()).compile(), mode, "updates")
    chunks = await stream_of(by_edge(Poet()).compile(), mode, "updates")
    assert updates_of(chunks) == updates_of(sent)
    assert sum(updates_of(sent).values()) == 10
    assert chunks[-1] == sent[-1] == ((), {"bind": {"bound": "Prologue, A:lalala, B:lalala"}})


@pytest.mark.parametrize(
    "stream_mode", ["values", "debug", "checkpoints", "tasks", ["values", "updates", "custom", "messages"]]
)
@pytest.mark.parametrize("mode", MODES)
async def test_each_stream_mode_shows_every_item(mode: str, stream_mode: Any) -> None:
    graph = by_edge(Poet()).compile(checkpointer=InMemorySaver())
    chunks = await stream_of(graph, mode, stream_mode)
    inside = {
        namespace for namespace, *_ in chunks if any(part.startswith("poet:") for part in namespace[1:])
    }
    assert len(inside) == 2, "a namespace for each item"
    assert graph.get_state(thread()).values["bound"] == "Prologue, A:lalala, B:lalala"


@pytest.mark.parametrize("mode", MODES)
def test_history_replay_and_forks_are_the_same(mode: str) -> None:
    histories: list[Any] = []
    for builder in (by_send(Poet()), by_edge(Poet())):
        graph = builder.compile(checkpointer=InMemorySaver())
        run(graph, topics("a"), mode, thread())
        [start] = [snapshot for snapshot in graph.get_state_history(thread()) if snapshot.next == ("poet",)]
        replayed = run(graph, None, mode, start.config)
        forked = graph.update_state(start.config, {"topics": ["x", "y"]}, as_node=START)
        history = [(snapshot.values, {*snapshot.next}) for snapshot in graph.get_state_history(thread())]
        histories.append((history, replayed, run(graph, None, mode, forked)))
    assert histories[0] == histories[1]
    assert histories[0][-1]["bound"] == "Prologue, X:lalala, Y:lalala"


@pytest.mark.parametrize("mode", MODES)
def test_a_node_may_be_taken_for_the_edge(mode: str) -> None:
    """`update_state(as_node=)` writes what the edge would have written, and the graph goes on after it."""
    graph = by_edge(Poet()).compile(checkpointer=InMemorySaver(), interrupt_before=["poet"])
    run(graph, topics("a"), mode, thread())
    graph.update_state(thread(), {"poems": ["by hand"]}, as_node="poet")
    assert run(graph, None, mode, thread())["bound"] == "Prologue, by hand"


async def test_cancelled_in_the_middle_the_open_item_begins_again() -> None:
    reached = asyncio.Event()
    steps: list[str] = []

    async def write(state: Any) -> dict[str, Any]:
        steps.append(state["topic"])
        if state["topic"] == "c" and steps.count("c") == 1:
            reached.set()
            await asyncio.Event().wait()
        return {"poems": [state["topic"]]}

    child = StateGraph(Draft, input_schema=Topic, output_schema=Poem)
    child.add_node("write", write)
    child.add_edge(START, "write")
    edge = vmap(
        child.compile(name="poet"),
        batch_key="topics",
        out_key=["poems"],
        item_to_state=lambda topic: {"topic": topic},
        max_concurrency=1,
    )
    graph = connect(StateGraph(Poems), START, edge, bind, END).compile(checkpointer=InMemorySaver())
    running = asyncio.ensure_future(graph.ainvoke(topics("a", "b", "c"), thread()))
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await graph.ainvoke(None, thread()))["bound"] == "Prologue, a, b, c"
    assert steps == ["a", "b", "c", "c"]
