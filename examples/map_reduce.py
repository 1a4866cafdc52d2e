"""A DSPy module reads many documents, some reads fail, and the best is kept."""

from typing import Any, TypedDict

import dspy
from langgraph.graph import END, START, StateGraph

from mahsm import connect, reduce_edge, vmap
from mahsm.reducers import score_and_select
from mahsm.testing import ModelServer, Reply


class State(TypedDict):
    question: str
    docs: list[str]
    read: list[dict[str, Any]]
    failed: list[Any]
    best: dict[str, Any]


def answer(call: Any) -> Any:  # stands in for a model
    doc = call.field("doc")
    return Reply.failed(503) if "broken" in doc else {"quote": doc, "score": float(doc.count("bucket"))}


read = vmap(
    dspy.Predict("question, doc -> quote, score: float"),
    batch_key="docs",
    out_key="read",
    item_to_state=lambda doc: {"doc": doc},
    on_error="drop",
    errors_key="failed",
    min_success=0.5,
)
best = reduce_edge(input_key="read", output_key="best", reducer=score_and_select(score_key="score"))
graph = connect(StateGraph(State), START, read, best, END).compile()

with ModelServer(answer) as server, dspy.context(lm=server.lm()):
    docs = ["a roof", "a bucket", "a broken page", "a bucket in a bucket"]
    state = graph.invoke({"question": "Which has most buckets?", "docs": docs})

print(state["best"])
print([(error["index"], error["type"]) for error in state["failed"]])

# Output:
# {'quote': 'a bucket in a bucket', 'score': 2.0}
# [(2, 'dspy.utils.exceptions.LMServerError')]
