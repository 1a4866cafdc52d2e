"""A run stops in the middle, and goes on from its checkpoint in another graph object, as another process
would."""

import tempfile
from pathlib import Path
from typing import Any, TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph

from mahsm import connect, vmap

calls: list[int] = []


class State(TypedDict):
    xs: list[int]
    ys: list[int]


def run(path: Path, works: bool, state: Any) -> Any:
    def square(state: Any) -> int:
        calls.append(state["item"])
        if state["item"] == 70 and not works:
            raise ConnectionError("the provider is down")
        return state["item"] ** 2

    edge = vmap(square, batch_key="xs", out_key="ys", max_concurrency=4)
    with SqliteSaver.from_conn_string(str(path)) as saver:
        graph = connect(StateGraph(State), START, edge, END).compile(checkpointer=saver)
        return graph.invoke(state, {"configurable": {"thread_id": "1"}})


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "checkpoints.sqlite"
    try:
        run(path, works=False, state={"xs": list(range(100))})
    except ConnectionError as error:
        print("stopped:", error)
    ys = run(path, works=True, state=None)["ys"]

print("complete:", ys == [x**2 for x in range(100)])
print("called twice, at most 5:", len(calls) - 100 <= 5)

# Output:
# stopped: the provider is down
# complete: True
# called twice, at most 5: True
