"""Agents of LangChain, and what they are made of, as targets: by a `Send` to each and with `vmap`."""

import operator
from functools import partial
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Send
from typing_extensions import TypedDict

from mahsm import connect, parallel, vmap
from tests.helpers import MODES, run, thread
from tests.machines.chat import Chat, plain, tool_calls


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


def answer(messages: list[BaseMessage]) -> Any:
    """Asks for the weather of the last city that a person has named, and then tells it."""
    last = messages[-1]
    return (
        f"I see {last.text} and bring a coat"
        if isinstance(last, ToolMessage)
        else tool_calls(("weather", {"city": last.text}))
    )


class Cities(MessagesState):
    cities: list[str]


def given_to_agent(city: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(city)]}


def by_send(agent: Any, **options: Any) -> Any:
    builder = StateGraph(Cities)
    builder.add_node("agent", agent)
    builder.add_conditional_edges(
        START, lambda state: [Send("agent", given_to_agent(city)) for city in state["cities"]], ["agent"]
    )
    return builder.compile(**options)


def by_edge(agent: Any, **options: Any) -> Any:
    edge = vmap(agent, batch_key="cities", out_key=["messages"], item_to_state=given_to_agent, name="agent")
    return connect(StateGraph(Cities), START, edge, END).compile(**options)


GIVEN = {"cities": ["Kiel", "Jena"], "messages": [HumanMessage("What to wear?")]}


@pytest.mark.parametrize("mode", MODES)
def test_agents_say_and_ask_the_same(mode: str) -> None:
    models = Chat(answer), Chat(answer)
    sent = plain(run(by_send(create_agent(models[0], [weather], name="agent")), GIVEN, mode))
    assert plain(run(by_edge(create_agent(models[1], [weather], name="agent")), GIVEN, mode)) == sent
    assert [text for _, _, text, _ in sent["messages"]][-1] == "I see rain in Jena and bring a coat"
    assert len(sent["messages"]) == 1 + 2 * 4
    assert (
        sorted(models[0].asked) == sorted(models[1].asked) == ["Jena", "Kiel", "rain in Jena", "rain in Kiel"]
    )


@pytest.mark.parametrize("mode", MODES)
async def test_each_agent_streams_its_messages_in_a_namespace_of_its_own(mode: str) -> None:
    seen: list[Any] = []
    for graph in (
        by_send(create_agent(Chat(answer), [weather])),
        by_edge(create_agent(Chat(answer), [weather])),
    ):
        options = {"stream_mode": "messages", "subgraphs": True}
        chunks = (
            list(graph.stream(GIVEN, **options))
            if mode == "sync"
            else [c async for c in graph.astream(GIVEN, **options)]
        )
        said: dict[Any, list[str]] = {}
        for namespace, (message, metadata) in chunks:
            if metadata.get("langgraph_node") in ("model", "tools"):
                said.setdefault(namespace, []).append(message.text)
        seen.append(sorted(said.values()))
    assert seen[0] == seen[1]
    assert len(seen[0]) == 2
    assert "".join(seen[0][0]).startswith("rain in JenaI see rain in Jena")


@pytest.mark.parametrize("mode", MODES)
def test_a_person_approves_the_calls_of_each_agent(mode: str) -> None:
    ends: list[Any] = []
    for build in (by_send, by_edge):
        model = Chat(answer)
        review: Any = HumanInTheLoopMiddleware(interrupt_on={"weather": True})
        graph = build(create_agent(model, [weather], middleware=[review]), checkpointer=InMemorySaver())
        asked = {
            one.value["action_requests"][0]["args"]["city"]: one.id
            for one in run(graph, GIVEN, mode, thread())["__interrupt__"]
        }
        assert len(set(asked.values())) == 2
        no: Any = {"decisions": [{"type": "reject", "message": "none of your business"}]}
        yes: Any = {"decisions": [{"type": "approve"}]}
        first = run(graph, Command(resume={asked["Jena"]: no}), mode, thread())
        assert [one.id for one in first["__interrupt__"]] == [asked["Kiel"]]
        ends.append(
            (
                plain(run(graph, Command(resume={asked["Kiel"]: yes}), mode, thread())["messages"]),
                sorted(model.asked),
            )
        )
    assert ends[0] == ends[1]
    texts = [text for _, _, text, _ in ends[0][0]]
    assert "I see rain in Kiel and bring a coat" in texts
    assert "none of your business" in str(texts)
    assert len(ends[0][1]) == 4


@pytest.mark.parametrize("mode", MODES)
def test_a_tool_node_is_a_target(mode: str) -> None:
    called = [{"name": "weather", "args": {"city": city}, "id": city} for city in ("Kiel", "Jena", "Bonn")]
    asked = AIMessage("", tool_calls=called)
    alone = run(
        StateGraph(MessagesState).add_node("tools", ToolNode([weather])).add_edge(START, "tools").compile(),
        {"messages": [asked]},
        mode,
    )
    edge = vmap(
        ToolNode([weather]),
        batch=lambda state: state["messages"][-1].tool_calls,
        item_to_state=lambda call: {"messages": [AIMessage("", tool_calls=[call])]},
        out_key=["messages"],
        name="tools",
    )
    graph = connect(StateGraph(MessagesState), START, edge, END).compile()
    assert plain(run(graph, {"messages": [asked]}, mode)) == plain(alone)


class Polite:
    """Targets that are no plain functions."""

    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    def __call__(self, state: dict[str, Any]) -> str:
        return self.greet(state)

    def greet(self, state: dict[str, Any]) -> str:
        return f"{self.greeting} {state['item']}"


def greet(greeting: str, state: dict[str, Any]) -> str:
    return f"{greeting} {state['item']}"


CHAIN = (
    ChatPromptTemplate.from_template("hello {item}")
    | Chat(lambda messages: messages[-1].text)
    | StrOutputParser()
)


class Greeted(TypedDict):
    names: list[str]
    greetings: Annotated[list[str], operator.add]


@pytest.mark.parametrize(
    "target",
    [CHAIN, partial(greet, "hello"), Polite("hello").greet, Polite("hello")],
    ids=["chain", "partial", "method", "object"],
)
@pytest.mark.parametrize("mode", MODES)
def test_chains_partials_methods_and_objects_are_targets(mode: str, target: Any) -> None:
    edge = vmap(target, batch_key="names", out_key="greetings", name="greet")
    graph = connect(StateGraph(Greeted), START, edge, END).compile(checkpointer=InMemorySaver())
    state = run(graph, {"names": ["ann", "bo"], "greetings": ["-"]}, mode, thread())
    assert state["greetings"] == ["-", "hello ann", "hello bo"]


@pytest.mark.parametrize("mode", MODES)
def test_messages_as_the_key_of_a_fan_out_and_of_branches(mode: str) -> None:
    """Two edges that write messages in the same step, one of them several branches."""
    say = vmap(
        lambda state: AIMessage(state["item"], id=state["item"]),
        batch_key="cities",
        out_key="messages",
        name="say",
    )
    both = parallel(
        {
            name: lambda state, name=name: {"messages": [AIMessage(name, id=name)]}
            for name in ("left", "right")
        },
        name="both",
    )
    builder = StateGraph(Cities)
    connect(builder, START, say, END)
    connect(builder, START, both, END)
    texts = [
        text
        for _, _, text, _ in plain(run(builder.compile(checkpointer=InMemorySaver()), GIVEN, mode, thread()))[
            "messages"
        ]
    ]
    assert texts[0] == "What to wear?"
    assert sorted(texts[1:]) == ["Jena", "Kiel", "left", "right"]
    assert texts.index("Kiel") < texts.index("Jena")
    assert texts.index("left") < texts.index("right")
