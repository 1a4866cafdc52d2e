"""`mahsm demo`: a LangGraph state machine that ranks documents by their relevance to a question."""

import argparse
import asyncio
import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from langgraph.graph import END, START, StateGraph
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typing_extensions import TypedDict

from mahsm._progress import progress
from mahsm.cli import _documents, _relevance
from mahsm.cli._documents import Document
from mahsm.edges import Edge, jit_edge, reduce_edge, vmap
from mahsm.errors import EdgeError, TooFewSucceeded
from mahsm.graph import connect
from mahsm.policies import ItemError
from mahsm.reducers import top_k

if TYPE_CHECKING:
    import dspy

QUESTION = "Which of them does token-bucket rate limiting?"


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


def demo(options: argparse.Namespace) -> None:
    """Run the demo and print its results.

    Raises:
        MahsmError: for an invalid option, or a model that fails; the message says what to change.
    """
    question: str = QUESTION if options.question is None else options.question
    if not question.strip():
        raise EdgeError(
            f"--question {question!r} is empty; expected a question, or leave it out for {QUESTION!r}"
        )
    files, lm = options.files, _lm(options.model, options.api_base) if options.model else None
    graph = build(
        load=(lambda: _documents.matching(files)) if files else _documents.installed,
        read=_by_relevance() if lm is None else [_by_model(lm, options.max_concurrency)],
        top=options.top,
    ).compile(name="demo")

    began = time.perf_counter()
    try:
        with progress():
            state = cast("State", asyncio.run(graph.ainvoke({"question": question})))
    except TooFewSucceeded as error:
        raise EdgeError(f"model {options.model!r} failed: {error.__cause__}") from error
    seconds = time.perf_counter() - began

    console = Console()
    console.print(_table(state))
    if options.graph:
        console.print(
            graph.get_graph(xray=True).draw_mermaid(), markup=False, highlight=False, soft_wrap=True
        )
    calls = cast("list[dict[str, Any]]", lm.history) if lm else []
    tokens = sum(call["usage"].get("total_tokens", 0) for call in calls)
    counts = [
        _counted(len(calls), "model call"),
        _counted(tokens, "token"),
        f"{len(state.get('failed', ()))} failed",
    ]
    done = _counted(len(state["documents"]), "document")
    console.print(f"{done}: {seconds:.2f} s, {', '.join(counts)}", highlight=False)


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


def _by_relevance() -> list[Edge]:
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


def _by_model(lm: "dspy.LM", max_concurrency: int) -> Edge:
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


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _lm(model: str, api_base: str | None) -> "dspy.LM":
    # LiteLLM then reads prices from its package, not from the network.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    provider, _, name = model.partition("/")
    if not provider or not name:
        raise EdgeError(
            f"--model {model!r} has no provider; expected provider/model, such as openai/gpt-4o-mini."
        )
    import dspy

    if api_base is None:
        return dspy.LM(model)
    # Local servers often need no key, but the client does.
    key = os.environ.get(f"{provider.upper()}_API_KEY", "none")
    return dspy.LM(model, api_base=api_base, api_key=key)


def _table(state: State) -> Table:
    best = state["best"][0]
    found = f"Best match: {best['name']}" if best["score"] > 0 else "No document matches."
    # In a plain string, rich would interpret its own markup.
    table = Table(title=Text(state["question"]), caption=Text(found))
    table.add_column("document", overflow="fold", max_width=32)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("why")
    for entry in state["best"]:
        table.add_row(Text(entry["name"]), f"{entry['score']:.2f}", Text(str(entry["why"])))
    return table
