"""The state machine of `mahsm demo`: it ranks documents by their relevance to a question."""

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from mahsm.cli import _relevance
from mahsm.cli._documents import Document
from mahsm.edges import Edge, jit_edge, reduce_edge, vmap
from mahsm.graph import connect
from mahsm.policies import ItemError
from mahsm.reducers import top_k

if TYPE_CHECKING:
    import dspy


class State(TypedDict):
    """State of the demo's graph."""

    question: str
    documents: list[Document]
    rarity: list[float]
    mean_length: float
    scores: list[float]
    scored: list[dict[str, Any]]
    failed: list[ItemError]
    best: list[dict[str, Any]]


def build(
    load: Callable[[], list[Document]], read: Sequence[Edge], top: int
) -> StateGraph[Any, Any, Any, Any]:
    """Build the state machine: load the documents, score each, keep the best, and say why.

    Args:
        load: Returns the documents.
        read: Edges from `documents` to `scored` and `failed`.
        top: The number of documents to keep, >= 1.
    """

    def load_documents(state: State) -> dict[str, Any]:
        documents = load()
        question = _relevance.terms(state["question"])
        for document in documents:
            document["counts"], document["length"] = _relevance.count(question, document["text"])
        rarity = _relevance.rarity(np.array([document["counts"] for document in documents], float))
        mean_length = max(1.0, float(np.mean([document["length"] for document in documents])))
        return {"documents": documents, "rarity": rarity.tolist(), "mean_length": mean_length}

    def quote(state: State) -> dict[str, Any]:
        question, rarity = _relevance.terms(state["question"]), np.array(state["rarity"])
        texts = {document["name"]: document["text"] for document in state["documents"]}
        return {
            "best": [
                entry
                if "why" in entry
                else {**entry, "why": _relevance.sentence(question, texts[entry["name"]], rarity)}
                for entry in state["best"]
            ]
        }

    builder = StateGraph(State)
    builder.add_node("load", load_documents)
    builder.add_node("quote", quote)
    best = reduce_edge(input_key="scored", output_key="best", reducer=top_k(k=top, key="score"))
    return connect(builder, START, "load", *read, best, "quote", END)


def by_relevance() -> list[Edge]:
    """Return edges that score all documents in one computation, which JAX compiles if it is installed."""

    def scored(scores: list[float], state: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {"name": document["name"], "score": score}
            for document, score in zip(state["documents"], scores, strict=True)
        ]

    # Without JAX, a `jit_edge` warns that it runs on NumPy, which is fast enough for a demo.
    with warnings.catch_warnings(action="ignore"):
        relevance = jit_edge(
            _relevance.bm25,
            in_keys=["counts", "length", "rarity", "mean_length"],
            out_key="score",
            name="relevance",
        )
    scores = vmap(
        relevance,
        batch_key="documents",
        out_key="scores",
        item_to_state=lambda document: {"counts": document["counts"], "length": document["length"]},
        result="score",
    )
    return [
        scores,
        reduce_edge(input_key="scores", output_key="scored", reducer=scored, name="scored_documents"),
    ]


def by_model(lm: "dspy.LM", max_concurrency: int) -> Edge:
    """Return an edge that has a model read each document, so many at the same time."""
    from mahsm.cli._reader import Reader

    reader = Reader()
    reader.set_lm(lm)
    return vmap(
        reader,
        batch_key="documents",
        out_key="scored",
        max_concurrency=max_concurrency,
        on_error="drop",
        errors_key="failed",
        min_success=0.9,
    )
