"""Semantic top-k: all questions against all passages, as one compiled computation in a graph."""

from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from mahsm import connect, fuse, jit_edge, vmap


class State(TypedDict):
    questions: list[str]
    passages: list[str]
    vectors: Any
    k: int
    nearest: list[dict]


def embed(text):  # stands in for an embedding: how often each letter occurs
    return np.bincount(
        [ord(letter) - 97 for letter in text.lower() if letter.isascii() and letter.isalpha()], minlength=26
    )


similar = jit_edge(
    lambda question, vectors: (
        vectors @ question / (jnp.linalg.norm(vectors, axis=1) * jnp.linalg.norm(question))
    ),
    in_keys=["question", "vectors"],
    out_key="scores",
    name="similar",
)
best = jit_edge(
    lambda scores, k: jax.lax.top_k(scores, k),
    in_keys=["scores", "k"],
    out_key=["score", "place"],
    static_keys=["k"],
    name="best",
)
search = fuse(similar, best, name="search")  # the scores of all passages never leave the device
nearest = vmap(
    search,
    batch_key="questions",
    out_key="nearest",
    item_to_state=lambda question: {"question": embed(question).astype(float)},
)
graph = connect(StateGraph(State), START, nearest, END).compile(checkpointer=InMemorySaver())

passages = ["token bucket", "sea water", "leaky bucket", "fan out", "map and reduce"]
state = graph.invoke(
    {
        "questions": ["buckets of tokens", "maps, reduced", "water in the sea"],
        "passages": passages,
        "vectors": np.stack([embed(passage) for passage in passages]).astype(float),
        "k": 2,
    },
    {"configurable": {"thread_id": "1"}},
)
for question, found in zip(state["questions"], state["nearest"], strict=True):
    print(question, "->", ", ".join(passages[place] for place in found["place"]))
print(search.stats.calls, "call,", search.stats.compiles, "compilation")

# Output:
# buckets of tokens -> token bucket, leaky bucket
# maps, reduced -> map and reduce, sea water
# water in the sea -> sea water, map and reduce
# 1 call, 1 compilation
