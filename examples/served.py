"""A graph with edges for `langgraph dev`.

    python -m pip install 'langgraph-cli[inmem]' && langgraph dev --config examples/langgraph.json

Its clients get the tokens of models in items, and what items write by `get_stream_writer()`, as of any node.
Without a server the graph runs as it is.
"""

from typing import Any, TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph

from mahsm import connect, reduce_edge, vmap
from mahsm.testing import FakeChatModel


class State(TypedDict):
    topics: list[str]
    notes: list[str]
    longest: str


model = FakeChatModel(lambda call: f"a note on {call.text}")


async def research(state: dict[str, Any]) -> str:
    get_stream_writer()({"reading": state["item"]})
    return (await model.ainvoke(state["item"])).text


notes = vmap(research, batch_key="topics", out_key="notes", max_concurrency=4, name="research")
longest = reduce_edge(
    input_key="notes", output_key="longest", reducer=lambda notes: max(notes, key=len), name="longest"
)
graph = connect(StateGraph(State), START, notes, longest, END).compile()

if __name__ == "__main__":
    print(graph.invoke({"topics": ["leaks", "buckets"]})["longest"])

# Output:
# a note on buckets
