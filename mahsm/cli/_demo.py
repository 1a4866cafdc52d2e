"""`mahsm demo`: rank documents by their relevance to a question."""

import asyncio
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from mahsm.cli._numbers import Count
from mahsm.cli._outcome import Failed, Flag, Json, Output, UsageError
from mahsm.errors import TooFewSucceeded

if TYPE_CHECKING:
    import dspy
    from rich.table import Table

    from mahsm.cli._ranking import State

QUESTION = "Which of them does token-bucket rate limiting?"


def demo(
    *,
    question: str = QUESTION,
    files: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    model: str | None = None,
    api_base: str | None = None,
    top: Count = 5,
    max_concurrency: Count = 16,
    graph: Flag = False,
    json: Json = False,
) -> Output:
    """Rank documents by how well they answer a question, with a vmap and a reduce edge.

    Args:
        question: What is asked of the documents.
        files: Your own documents: files, folders, patterns such as 'docs/*.md'; by default the packages that
            are installed.
        model: Have this model read each document, such as openai/gpt-4o-mini; by default BM25 scores them.
        api_base: Where the model is served, such as http://127.0.0.1:8000/v1.
        top: Documents to show.
        max_concurrency: Documents at the same time.
        graph: Print the state machine too, as Mermaid.
    """
    if not question.strip():
        raise UsageError(
            f"--question {question!r} is empty; expected a question, or leave it out for {QUESTION!r}"
        )
    if files == []:
        raise UsageError("--files has no files; expected files, folders or patterns, such as 'docs/*.md'.")
    lm = _lm(model, api_base) if model else None
    with _traced():
        began = time.perf_counter()
        state, mermaid = _ranked(question, files, lm, model, top=top, max_concurrency=max_concurrency)
        seconds = time.perf_counter() - began
    return _output(state, lm, seconds, mermaid if graph else None, as_json=json)


def _ranked(
    question: str,
    files: list[str] | None,
    lm: "dspy.LM | None",
    model: str | None,
    *,
    top: int,
    max_concurrency: int,
) -> "tuple[State, str]":
    """Return the state after the run, and the graph as Mermaid."""
    from mahsm._progress import progress
    from mahsm.cli import _documents, _ranking

    graph = _ranking.build(
        load=(lambda: _documents.matching(files)) if files else _documents.installed,
        read=_ranking.by_relevance() if lm is None else [_ranking.by_model(lm, max_concurrency)],
        top=top,
    ).compile(name="demo")
    try:
        with progress():
            state: Any = asyncio.run(graph.ainvoke({"question": question}))
    except TooFewSucceeded as error:
        raise Failed(f"model {model!r} failed: {error.__cause__}") from error
    return state, graph.get_graph(xray=True).draw_mermaid()


def _output(
    state: "State", lm: "dspy.LM | None", seconds: float, mermaid: str | None, *, as_json: bool
) -> Output:
    calls: list[dict[str, Any]] = lm.history if lm else []
    tokens = sum(call["usage"].get("total_tokens", 0) for call in calls)
    documents, failed = len(state["documents"]), len(state.get("failed", ()))
    document = {
        "question": state["question"],
        "best": [{key: entry[key] for key in ("name", "score", "why")} for entry in state["best"]],
        "documents": documents,
        "seconds": seconds,
        "model_calls": len(calls),
        "tokens": tokens,
        "failed": failed,
        **({} if mermaid is None else {"mermaid": mermaid}),
    }
    counts = f"{_counted(len(calls), 'model call')}, {_counted(tokens, 'token')}, {failed} failed"
    done = f"{_counted(documents, 'document')}: {seconds:.2f} s, {counts}"
    drawn = [] if mermaid is None else [mermaid]
    return Output(document, [_table(state), *drawn, done], as_json)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _lm(model: str, api_base: str | None) -> "dspy.LM":
    # LiteLLM then reads prices from its package, not from the network.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    provider, _, name = model.partition("/")
    if not provider or not name:
        raise UsageError(
            f"--model {model!r} has no provider; expected provider/model, such as openai/gpt-4o-mini."
        )
    import dspy

    if api_base is None:
        return dspy.LM(model)
    # Local servers often need no key, but the client does.
    key = os.environ.get(f"{provider.upper()}_API_KEY", "none")
    return dspy.LM(model, api_base=api_base, api_key=key)


def _table(state: "State") -> "Table":
    from rich.table import Table
    from rich.text import Text

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


@contextmanager
def _traced() -> Generator[None, None, None]:
    """Trace the block to Langfuse if its keys are in the environment, and flush at the end."""
    if not os.environ.get("LANGFUSE_PUBLIC_KEY"):
        yield
        return
    from mahsm import tracing

    tracing.init()
    try:
        with tracing.span("mahsm demo"):
            yield
    finally:
        tracing.flush()
        tracing.off()
