"""A supervisor's team and a swarm, each asked for every task of a list.

A compiled team is a target like any graph: each task is a run of the team, which sees this task alone.
"""

import warnings
from typing import Any, TypedDict

from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph_supervisor import create_supervisor
from langgraph_swarm import create_handoff_tool, create_swarm

from mahsm import connect, vmap
from mahsm.testing import Call, FakeChatModel, ToolCall


class State(TypedDict):
    tasks: list[str]
    supervised: list[str]
    swarmed: list[str]


@tool
def add(numbers: str) -> str:
    """Add numbers."""
    return str(sum(map(int, numbers.split())))


def expert(call: Call) -> Any:
    if call.role == "tool" and call.text.isdigit():
        return call.text
    asked = next(message for message in reversed(call.messages) if message["role"] == "user")
    return ToolCall("add", {"numbers": asked["content"]})


def lead(call: Call) -> Any:
    sums = [message["content"] for message in call.messages if str(message["content"]).isdigit()]
    return f"It is {sums[-1]}." if sums else ToolCall("transfer_to_expert")


def greeter(call: Call) -> Any:
    return ToolCall("transfer_to_expert")


def last(update: dict[str, Any]) -> str:
    return update["messages"][-1].text


agent = create_agent(FakeChatModel(expert), tools=[add], name="expert")
door = create_agent(FakeChatModel(greeter), tools=[create_handoff_tool(agent_name="expert")], name="door")
with warnings.catch_warnings(action="ignore"):  # of how langgraph-supervisor makes its agents
    team = create_supervisor([agent], model=FakeChatModel(lead)).compile(name="team")
swarm = create_swarm([door, agent], default_active_agent="door").compile(name="swarm")

supervised = vmap(
    team,
    batch_key="tasks",
    out_key="supervised",
    item_to_state=lambda task: {"messages": [task]},
    result=last,
)
swarmed = vmap(
    swarm, batch_key="tasks", out_key="swarmed", item_to_state=lambda task: {"messages": [task]}, result=last
)
graph = connect(StateGraph(State), START, supervised, swarmed, END).compile()

state = graph.invoke({"tasks": ["2 3", "4 5"]})
print(state["supervised"], state["swarmed"])

# Output:
# ['It is 5.', 'It is 9.'] ['5', '9']
