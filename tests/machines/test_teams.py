"""Teams of `langgraph-supervisor` and `langgraph-swarm`, with edges around them and inside of them."""

import operator
import warnings
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Send
from langgraph.warnings import LangGraphDeprecatedSinceV10
from langgraph_supervisor import create_supervisor
from langgraph_swarm import SwarmState, create_handoff_tool, create_swarm

from mahsm import connect, vmap
from tests.helpers import MODES, run, thread
from tests.machines.chat import Chat, plain, tool_calls


class Tasks(MessagesState):
    tasks: list[str]
    results: Annotated[list[str], operator.add]


def given_to_team(task: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(task)]}


def last_text(update: Any) -> str:
    return update["messages"][-1].text


def by_send(team: Any) -> Any:
    def ask(state: Any, config: RunnableConfig) -> dict[str, Any]:
        return {"results": [last_text(team.invoke(state, config))]}

    async def ask_later(state: Any, config: RunnableConfig) -> dict[str, Any]:
        return {"results": [last_text(await team.ainvoke(state, config))]}

    builder = StateGraph(Tasks)
    builder.add_node("team", RunnableLambda(ask, ask_later))
    builder.add_conditional_edges(
        START, lambda state: [Send("team", given_to_team(task)) for task in state["tasks"]], ["team"]
    )
    return builder.compile(checkpointer=InMemorySaver())


def by_edge(team: Any) -> Any:
    edge = vmap(
        team, batch_key="tasks", out_key="results", item_to_state=given_to_team, result=last_text, name="team"
    )
    return connect(StateGraph(Tasks), START, edge, END).compile(checkpointer=InMemorySaver())


GIVEN = {
    "tasks": ["add 2 3", "add 4 5"],
    "messages": [HumanMessage("a secret of the parent")],
    "results": ["-"],
}


# A supervisor.


def person(messages: list[BaseMessage]) -> str:
    """What was asked last by a person."""
    return next(message.text for message in reversed(messages) if isinstance(message, HumanMessage))


def lead(messages: list[BaseMessage]) -> Any:
    """Hands over to the expert, and tells what the expert has found."""
    said = [message.text for message in messages if message.name == "expert" and message.text]
    return f"It is {said[0]}." if said else tool_calls(("transfer_to_expert", {}))


def supervised(expert: Any, model: Chat, **options: Any) -> Any:
    # Of what it makes its agents by.
    with warnings.catch_warnings(action="ignore", category=LangGraphDeprecatedSinceV10):
        return create_supervisor([expert], model=model, **options).compile(name="team")


@tool
def add(numbers: str) -> str:
    """Add numbers."""
    return str(sum(int(number) for number in numbers.split()))


def expert(messages: list[BaseMessage]) -> Any:
    last = messages[-1]
    if isinstance(last, ToolMessage) and last.name in ("add", "add_all"):
        return last.text
    return tool_calls(("add", {"numbers": person(messages).removeprefix("add ")}))


@pytest.mark.parametrize("mode", MODES)
def test_a_supervisor_and_its_agents_for_each_item(mode: str) -> None:
    ends: list[Any] = []
    for build in (by_send, by_edge):
        models = Chat(lead), Chat(expert)
        graph = build(supervised(create_agent(models[1], [add], name="expert"), models[0]))
        state = run(graph, GIVEN, mode, thread())
        ends.append((plain(state), [sorted(model.asked) for model in models]))
    assert ends[0] == ends[1]
    assert ends[0][0]["results"] == ["-", "It is 5.", "It is 9."]
    assert "secret" not in str(ends[0][1])


@pytest.mark.parametrize("mode", MODES)
def test_a_tool_of_an_agent_calls_an_edge(mode: str) -> None:
    sums = vmap(lambda state: sum(state["item"]), batch_key="rows", out_key="sums", name="sums")

    @tool
    def add_all(rows: list[list[int]], config: RunnableConfig) -> str:
        """Add the numbers of each row."""
        return str(sums.invoke({"rows": rows}, config)["sums"])

    def ask(messages: list[BaseMessage]) -> Any:
        last = messages[-1]
        if isinstance(last, ToolMessage) and last.name == "add_all":
            return last.text
        return tool_calls(("add_all", {"rows": [[1, 2], [3, 4]]}))

    team = supervised(create_agent(Chat(ask), [add_all], name="expert"), Chat(lead))
    assert last_text(run(team, given_to_team("sum"), mode)) == "It is [3, 7]."


def edge_stream(state: MessagesState) -> list[int]:
    return [int(number) for number in state["messages"][0].text.removeprefix("add ").split()]


class Doubles(MessagesState):
    doubled: list[int]


def agent_with_an_edge() -> Any:
    """A graph with an edge inside, as one of the agents."""

    def say(state: Doubles) -> dict[str, Any]:
        return {"messages": [AIMessage(str(state["doubled"]), name="expert")]}

    edge = vmap(lambda state: state["item"] * 2, batch=edge_stream, out_key="doubled", name="double")
    return connect(StateGraph(Doubles), START, edge, say, END).compile(name="expert")


def agent_that_is_an_edge() -> Any:
    """An edge alone, compiled with the agent's schema."""

    def say(state: dict[str, Any]) -> Any:
        return AIMessage(f"{state['item'] * 2}", name="expert")

    return vmap(
        say,
        batch=edge_stream,
        out_key=["messages"],
        result=lambda message: {"messages": [message]},
        name="expert",
    ).compile(MessagesState)


@pytest.mark.parametrize(("agent", "said"), [(agent_with_an_edge, "[4, 6]"), (agent_that_is_an_edge, "4")])
@pytest.mark.parametrize("mode", MODES)
def test_an_edge_is_one_of_the_agents(mode: str, agent: Any, said: str) -> None:
    model = Chat(lead)
    team = supervised(agent(), model, output_mode="full_history")
    state = run(team, given_to_team("add 2 3"), mode)
    assert last_text(state) == f"It is {said}."
    assert len(model.asked) == 2


# A swarm.


def swarm(models: tuple[Chat, Chat]) -> Any:
    front = create_agent(models[0], [create_handoff_tool(agent_name="back")], name="front")
    back = create_agent(models[1], [add], name="back")
    return create_swarm([front, back], default_active_agent="front").compile(name="swarm")


class Shop(SwarmState):
    tasks: list[str]
    results: Annotated[list[str], operator.add]


@pytest.mark.parametrize("mode", MODES)
def test_a_swarm_for_each_item_begins_with_its_own_agent(mode: str) -> None:
    """The parent's `active_agent` and messages are no business of the swarms inside, as by a `Send`."""
    ends: list[Any] = []
    for build in (by_send, by_edge):
        models = Chat(lambda messages: tool_calls(("transfer_to_back", {}))), Chat(expert)
        graph = build(swarm(models))
        ends.append((plain(run(graph, GIVEN, mode, thread())), [sorted(model.asked) for model in models]))
    assert ends[0] == ends[1]
    assert ends[0][0]["results"] == ["-", "5", "9"]
    assert ends[0][1][0] == ["add 2 3", "add 4 5"]


@pytest.mark.parametrize(("inherit", "begins"), [(None, 1), (["active_agent"], 0)])
@pytest.mark.parametrize("mode", MODES)
def test_a_parents_active_agent_is_inherited_if_asked_for(mode: str, inherit: Any, begins: int) -> None:
    models = Chat(lambda messages: tool_calls(("transfer_to_back", {}))), Chat(expert)
    edge = vmap(
        swarm(models),
        batch_key="tasks",
        out_key="results",
        item_to_state=given_to_team,
        result=last_text,
        inherit=inherit,
    )
    graph = connect(StateGraph(Shop), START, edge, END).compile()
    assert run(graph, {"tasks": ["add 1 1"], "active_agent": "back"}, mode)["results"] == ["2"]
    assert len(models[0].asked) == begins
