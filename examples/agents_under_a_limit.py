"""Ten agents share the limit of a provider: each of their calls waits for its own request, and what they cost
is known."""

from typing import TypedDict

from langchain.agents import create_agent
from langgraph.graph import END, START, StateGraph

import mahsm
from mahsm import RateLimit, connect, limits, vmap
from mahsm.testing import FakeChatModel, Reply, ToolCall


class State(TypedDict):
    cities: list[str]
    reports: list[str]


def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


def answer(call):  # in place of the provider: a tool call first, and then a sentence
    if call.role == "tool":
        return Reply(f"There is {call.text}.", usage=(200, 20))
    return Reply(tool_calls=[ToolCall("weather", {"city": call.text})], usage=(100, 10))


agent = create_agent(FakeChatModel(answer, model="openai/gpt-4o-mini"), tools=[weather])
reports = vmap(
    agent,
    batch_key="cities",
    out_key="reports",
    item_to_state=lambda city: {"messages": [("user", city)]},
    result=lambda state: state["messages"][-1].content,
    rate_limit=RateLimit("openai", rps=100, burst=10),
)
graph = connect(StateGraph(State), START, reports, END).compile()

with mahsm.usage() as used:
    state = graph.invoke({"cities": [f"city {number}" for number in range(10)]})

print(state["reports"][0])
print(limits.stats()["openai"].admitted, "requests,", used.tokens, "tokens,", round(used.usd, 6), "USD")

# Output:
# There is rain in city 0.
# 20 requests, 3300 tokens, 0.00063 USD
