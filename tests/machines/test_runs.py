"""The ways in which LangGraph runs and streams a graph, with a fan-out in it."""

import asyncio
import operator
from collections import Counter
from typing import Annotated, Any

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.stream.transformers import CustomTransformer
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from mahsm import connect, vmap
from tests.helpers import MODES, run, thread


class State(TypedDict):
    topics: list[str]
    notes: Annotated[list[str], operator.add]


def research(state: dict[str, Any]) -> dict[str, Any]:
    get_stream_writer()({"about": state["item"]})
    model = GenericFakeChatModel(messages=iter([AIMessage(f"one {state['item']}")]))
    return {"notes": [model.invoke(state["item"]).text]}


async def research_later(state: dict[str, Any]) -> dict[str, Any]:
    get_stream_writer()({"about": state["item"]})
    model = GenericFakeChatModel(messages=iter([AIMessage(f"one {state['item']}")]))
    return {"notes": [(await model.ainvoke(state["item"])).text]}


def by_send(node: Any, **options: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("research", node)
    builder.add_conditional_edges(
        START, lambda state: [Send("research", {"item": topic}) for topic in state["topics"]], ["research"]
    )
    return builder.compile(**options)


def by_edge(node: Any, **options: Any) -> Any:
    edge = vmap(node, batch_key="topics", out_key=["notes"], name="research")
    return connect(StateGraph(State), START, edge, END).compile(**options)


BUILDERS = [by_send, by_edge]
GIVEN = {"topics": ["sea", "sky"]}
END_STATE = GIVEN | {"notes": ["one sea", "one sky"]}


EXPERIMENTAL = pytest.mark.filterwarnings("ignore:The v3 streaming protocol on Pregel is experimental")

# Streams.


@pytest.mark.parametrize(
    ("mode", "node"), [("sync", research), ("async", research), ("async", research_later)]
)
def test_a_stream_of_typed_parts(mode: str, node: Any) -> None:
    seen: list[Any] = []
    for build in BUILDERS:
        graph, options = (
            build(node),
            {"stream_mode": ["messages", "custom", "values", "updates"], "version": "v2"},
        )

        async def read(graph: Any = graph, options: Any = options) -> Any:
            return [part async for part in graph.astream(GIVEN, **options)]

        parts = list(graph.stream(GIVEN, **options)) if mode == "sync" else asyncio.run(read())
        assert {(*part["ns"],) for part in parts} == {()}
        tokens = Counter(part["data"][0].text for part in parts if part["type"] == "messages")
        wrote = Counter(
            str(part["data"]) for part in parts if part["type"] == "custom" and "about" in part["data"]
        )
        assert [part["data"] for part in parts if part["type"] == "values"][-1] == END_STATE
        seen.append((tokens, wrote))
    assert seen[0] == seen[1]
    assert seen[0][0] == Counter({"one": 2, " ": 2, "sea": 1, "sky": 1})
    assert seen[0][1].total() == 2


@EXPERIMENTAL
def test_a_stream_of_projections() -> None:
    seen: list[Any] = []
    for build in BUILDERS:
        events = build(research).stream_events(GIVEN, version="v3")
        said = ["".join(message.text) for message in events.messages]
        seen.append((sorted(said), events.output))
    assert seen[0] == seen[1] == (["one sea", "one sky"], END_STATE)


@EXPERIMENTAL
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("mode", MODES)
async def test_what_items_write_and_the_progress_are_projected(mode: str, nested: bool) -> None:
    edge = vmap(
        research,
        batch_key="topics",
        out_key="notes",
        result=lambda update: update["notes"][0],
        name="research",
    )
    if nested:
        edge = vmap(edge, sample=1, out_key="notes", result=lambda update: "", name="outer")
    graph = connect(StateGraph(State), START, edge, END).compile(transformers=[CustomTransformer])
    if mode == "sync":
        wrote = [*graph.stream_events(GIVEN, version="v3").custom]
    else:
        wrote = [event async for event in (await graph.astream_events(GIVEN, version="v3")).custom]
    assert sorted(event["about"] for event in wrote if "about" in event) == ["sea", "sky"]
    assert [event["done"] for event in wrote if "done" in event][-1] == (1 if nested else 2)
    assert {event["edge"] for event in wrote if "edge" in event} == {"outer" if nested else "research"}


@EXPERIMENTAL
@pytest.mark.parametrize("node", [research, research_later])
async def test_an_awaited_stream_of_projections(node: Any) -> None:
    seen: list[Any] = []
    for build in BUILDERS:
        events = await build(node).astream_events(GIVEN, version="v3")
        said = [await message.text async for message in events.messages]
        seen.append((sorted(said), await events.output()))
    assert seen[0] == seen[1] == (["one sea", "one sky"], END_STATE)


@pytest.mark.parametrize("node", [research, research_later])
async def test_a_stream_of_events(node: Any) -> None:
    seen: list[Any] = []
    for build in BUILDERS:
        events = [event async for event in build(node).astream_events(GIVEN, version="v2")]
        assert events[-1]["data"]["output"] == END_STATE
        seen.append(Counter(e["data"]["chunk"].text for e in events if e["event"] == "on_chat_model_stream"))
    assert seen[0] == seen[1]
    assert seen[0].total() == 6


# Runs.


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("mode", MODES)
def test_each_durability_resumes_after_a_failure(mode: str, durability: Any) -> None:
    ends: list[Any] = []
    for build in BUILDERS:
        called: list[str] = []

        def fails_once(state: dict[str, Any], called: list[str] = called) -> dict[str, Any]:
            called.append(state["item"])
            if called.count("sky") == 1 and state["item"] == "sky":
                raise ConnectionError("sky")
            return {"notes": [f"one {state['item']}"]}

        graph, config = build(fails_once, checkpointer=InMemorySaver()), thread(max_concurrency=1)

        def call(given: Any, graph: Any = graph, config: Any = config) -> Any:
            if mode == "sync":
                return graph.invoke(given, config, durability=durability)
            return asyncio.run(graph.ainvoke(given, config, durability=durability))

        with pytest.raises(ConnectionError, match="sky"):
            call(GIVEN)
        ends.append((call(None), called))
    assert ends[0] == ends[1] == (END_STATE, ["sea", "sky", "sky"])


@pytest.mark.parametrize("mode", MODES)
def test_a_function_that_is_a_graph_calls_an_edge(mode: str) -> None:
    """In an entrypoint and in a task, with a question after them."""
    called: list[int] = []

    def double(state: dict[str, Any]) -> int:
        called.append(state["item"])
        return state["item"] * 2

    edge = vmap(double, batch_key="xs", out_key="ys", name="double")
    if mode == "sync":

        @task
        def by_task(xs: list[int]) -> list[int]:
            return edge.invoke({"xs": xs})["ys"]

        @entrypoint(checkpointer=InMemorySaver())
        def flow(xs: list[int]) -> Any:
            inside = by_task([10 * x for x in xs]).result()
            return [*edge.invoke({"xs": xs})["ys"], *inside, interrupt("Go on?")]

        assert flow.invoke([1, 2, 3], thread())["__interrupt__"][0].value == "Go on?"
        done = sorted(called)
        result = flow.invoke(Command(resume="yes"), thread())
    else:

        @task
        async def by_awaited_task(xs: list[int]) -> list[int]:
            return (await edge.ainvoke({"xs": xs}))["ys"]

        @entrypoint(checkpointer=InMemorySaver())
        async def awaited_flow(xs: list[int]) -> Any:
            inside = await by_awaited_task([10 * x for x in xs])
            return [*(await edge.ainvoke({"xs": xs}))["ys"], *inside, interrupt("Go on?")]

        assert asyncio.run(awaited_flow.ainvoke([1, 2, 3], thread()))["__interrupt__"][0].value == "Go on?"
        done = sorted(called)
        result = asyncio.run(awaited_flow.ainvoke(Command(resume="yes"), thread()))
    assert done == [1, 2, 3, 10, 20, 30]
    assert result == [2, 4, 6, 20, 40, 60, "yes"]
    assert sorted(called) == done, "neither the task's nor the entrypoint's items run again"


@pytest.mark.parametrize("node", [research, research_later])
@pytest.mark.parametrize("saved", [True, False])
async def test_a_blocking_call_in_a_running_loop_as_in_a_notebook(saved: bool, node: Any) -> None:
    assert by_edge(node, checkpointer=InMemorySaver() if saved else None).invoke(GIVEN, thread()) == END_STATE


@pytest.mark.parametrize("mode", MODES)
def test_items_give_commands_and_the_graph_goes_and_sends_to_the_edge(mode: str) -> None:
    def note(state: dict[str, Any]) -> Command[Any]:
        return Command(update={"notes": [f"one {state['item']}"]})

    edge = vmap(note, batch_key="topics", out_key=["notes"], name="research")
    goes, sends = StateGraph(State), StateGraph(State)
    goes.add_node("plan", lambda state: Command(goto="research"), destinations=("research",))
    goes.add_edge(START, "plan")
    goes.add_node("research", edge.within(goes))
    sends.add_node("research", edge.within(sends))
    sends.add_conditional_edges(
        START, lambda state: [Send("research", {"topics": [one]}) for one in state["topics"]], ["research"]
    )
    for builder in (goes, sends):
        assert run(builder.compile(checkpointer=InMemorySaver()), GIVEN, mode, thread()) == END_STATE
