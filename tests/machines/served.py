"""Graphs for a `langgraph dev` server."""

import operator
from typing import Annotated, Any

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send, interrupt
from typing_extensions import TypedDict

from mahsm import connect, reduce_edge, vmap


class Review(TypedDict):
    topics: list[str]
    notes: list[str]
    grades: list[int]
    best: str


async def research(state: dict[str, Any]) -> str:
    """Tells tokens, and writes an event of its own."""
    get_stream_writer()({"about": state["item"]})
    model = GenericFakeChatModel(messages=iter([AIMessage(f"note on {state['item']}")]))
    return (await model.ainvoke(state["item"])).text


def grade(state: dict[str, Any]) -> int:
    return len(state["item"])


async def ask(state: dict[str, Any]) -> str:
    return f"{state['item']}: {interrupt(state['item'])}"


def by_send() -> Any:
    class Notes(TypedDict):
        topics: list[str]
        notes: Annotated[list[str], operator.add]

    async def note(state: dict[str, Any]) -> dict[str, Any]:
        return {"notes": [await research(state)]}

    builder = StateGraph(Notes)
    builder.add_node("research", note)
    builder.add_conditional_edges(
        START, lambda state: [Send("research", {"item": t}) for t in state["topics"]], ["research"]
    )
    return builder.compile()


researched = vmap(research, batch_key="topics", out_key="notes", max_concurrency=4, name="research")
graded = vmap(grade, batch_key="notes", out_key="grades", name="grade")
best = reduce_edge(
    input_key="grades",
    output_key="best",
    reducer=lambda grades, state: state["notes"][grades.index(max(grades))],
    name="best",
)

sent = by_send()
review = connect(StateGraph(Review), START, researched, graded, best, END).compile()
alone = vmap(research, batch_key="topics", out_key="notes", name="alone").compile(Review)
asking = vmap(ask, batch_key="topics", out_key="notes", name="asking").compile(Review)
