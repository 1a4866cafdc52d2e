"""What it costs to stream the tokens of LangChain's models through a `vmap`, beside LangGraph's own
`Send`.
"""

import asyncio
import operator
import time
from typing import Annotated, Any

from langgraph.graph import START, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from mahsm import connect, vmap
from mahsm.testing import FakeChatModel

WORDS = 50
"""Tokens of each answer."""


class State(TypedDict):
    topics: list[str]
    notes: Annotated[list[str], operator.add]


model = FakeChatModel(" ".join(["word"] * WORDS))


async def write(state: dict[str, Any]) -> str:
    return (await model.ainvoke(state["item"])).text


async def write_note(state: dict[str, Any]) -> dict[str, Any]:
    return {"notes": [await write(state)]}


def with_sends() -> Any:
    builder = StateGraph(State)
    builder.add_node("write", write_note)
    builder.add_conditional_edges(
        START, lambda state: [Send("write", {"item": topic}) for topic in state["topics"]], ["write"]
    )
    return builder.compile()


def with_vmap() -> Any:
    edge = vmap(write, batch_key="topics", out_key="notes", name="write", max_concurrency=64)
    return connect(StateGraph(State), START, edge).compile()


async def tokens(graph: Any, items: int) -> int:
    given = {"topics": [str(number) for number in range(items)]}
    return sum([bool(chunk.text) async for chunk, _ in graph.astream(given, stream_mode="messages")])


def cost(graph: Any, items: int) -> float:
    """CPU seconds of a run; all tokens come."""
    began = time.process_time()
    came = asyncio.run(tokens(graph, items))
    assert came == items * WORDS, f"{came} tokens came"
    model.calls.clear()
    return time.process_time() - began


def streaming(items: int, rounds: int) -> dict[str, float]:
    """The best of several rounds in turns, in CPU microseconds per token."""
    graphs = {"Send": with_sends(), "vmap": with_vmap()}
    found: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(rounds):
        for name, graph in graphs.items():
            found[name].append(cost(graph, items))
    return {name: min(costs) / (items * WORDS) * 1e6 for name, costs in found.items()}
