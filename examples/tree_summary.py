"""Summarise many documents, never more than four in one prompt."""

import argparse
import json
from typing import TypedDict

import dspy
from langgraph.graph import END, START, StateGraph

from mahsm import connect, reduce_edge, vmap
from mahsm.reducers import tree_reduce
from mahsm.testing import ModelServer


class State(TypedDict):
    docs: list[str]
    summaries: list[str]
    summary: str


each = vmap(
    dspy.Predict("doc -> summary"),
    batch_key="docs",
    out_key="summaries",
    item_to_state=lambda doc: {"doc": doc},
    result="summary",
)
merge = tree_reduce(
    merge=dspy.Predict("parts: list[str] -> summary"), input_key="parts", result="summary", arity=4
)
graph = connect(
    StateGraph(State),
    START,
    each,
    reduce_edge(input_key="summaries", output_key="summary", reducer=merge),
    END,
).compile()

most = 0


def answer(call):  # stands in for a model that counts what it has read
    global most
    if "parts" not in call.text:
        return {"summary": "1 document"}
    parts = json.loads(call.field("parts"))
    most = max(most, len(parts))
    return {"summary": f"{sum(int(part.split()[0]) for part in parts)} documents"}


parser = argparse.ArgumentParser()
parser.add_argument("--model", help="a real model, as openai/gpt-4o-mini")
model = parser.parse_args().model

with ModelServer(answer) as server, dspy.context(lm=dspy.LM(model) if model else server.lm()):
    print(graph.invoke({"docs": [f"Document {number}." for number in range(50)]})["summary"])
if not model:
    print(len(server.calls) - 50, "merges of at most", most)

# Output:
# 50 documents
# 17 merges of at most 4
