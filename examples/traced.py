"""A graph whose trace is printed as a tree; with Langfuse's keys in the environment it is sent there
instead."""

import os
from typing import TypedDict

import dspy
from langfuse import Langfuse
from langfuse.langchain import CallbackHandler
from langgraph.graph import END, START, StateGraph
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mahsm import connect, reduce_edge, tracing, vmap
from mahsm.reducers import score_and_select
from mahsm.testing import ModelServer


class State(TypedDict):
    docs: list[str]
    scored: list[dict]
    best: dict


def show(spans, parent=None, depth=0):
    for span in sorted(
        (s for s in spans if (s.parent and s.parent.span_id) == parent), key=lambda s: s.start_time
    ):
        tokens = span.attributes.get("langfuse.observation.metadata.mahsm.input_tokens")
        print("  " * depth + span.name + (f"  {tokens} tokens in" if tokens else ""))
        show(spans, span.context.span_id, depth + 1)


exporter = InMemorySpanExporter()
if os.environ.get("LANGFUSE_PUBLIC_KEY"):
    handler = tracing.init()
else:
    key = {"public_key": "pk-example", "secret_key": "sk-example", "base_url": "http://127.0.0.1:9"}
    tracing.use(Langfuse(**key, tracer_provider=TracerProvider(), span_exporter=exporter))
    handler = CallbackHandler(public_key="pk-example")

# Fmt: skip.
summarize = vmap(
    dspy.Predict("item -> summary"),
    batch_key="docs",
    out_key="scored",
    max_concurrency=1,
    name="summarize",
    result=lambda update: {"text": update["summary"], "score": len(update["summary"])},
)
best = reduce_edge(
    input_key="scored", output_key="best", reducer=score_and_select(score_key="score"), name="best"
)
graph = connect(StateGraph(State), START, summarize, best, END).compile(name="papers")

with ModelServer({"summary": "Buckets hold tokens."}) as server, dspy.context(lm=server.lm()):
    print(graph.invoke({"docs": ["a", "b"]}, {"callbacks": [handler]})["best"]["text"])
tracing.flush()
show(exporter.get_finished_spans())

# Output:
# Buckets hold tokens.
# papers
#   summarize
#     vmap:summarize  314 tokens in
#       Predict
#         Predict
#           fake
#       Predict
#         Predict
#           fake
#   best
#     reduce:best
