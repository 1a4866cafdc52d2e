"""A person answers for each item: interrupts in a fan-out, answered one by one."""

from typing import Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from mahsm import connect, vmap


class State(TypedDict):
    drafts: list[str]
    decisions: list[str]


def review(state: Any) -> str:
    verdict = interrupt(f"Publish {state['item']!r}?")
    return f"{state['item']}: {verdict}"


edge = vmap(review, batch_key="drafts", out_key="decisions", chunk_size=1)
graph = connect(StateGraph(State), START, edge, END).compile(checkpointer=InMemorySaver())
config: Any = {"configurable": {"thread_id": "1"}}

state = graph.invoke({"drafts": ["spring", "autumn"]}, config)
verdicts = {"Publish 'spring'?": "yes", "Publish 'autumn'?": "not yet"}
while asked := state.get("__interrupt__"):
    question = min(asked, key=lambda question: question.value)
    print(question.value)
    state = graph.invoke(Command(resume={question.id: verdicts[question.value]}), config)
print(state["decisions"])

# Output:
# Publish 'autumn'?
# Publish 'spring'?
# ['spring: yes', 'autumn: not yet']
