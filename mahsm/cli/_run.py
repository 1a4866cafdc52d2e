"""`mahsm run`: a graph, edge, node, operator or function for each row of a file, with results in a folder."""

import asyncio
import operator
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from cyclopts import Parameter

from mahsm.cli._outcome import Flag, Json, Output, UsageError
from mahsm.cli._target import load
from mahsm.cli._usage import Totals, note, summary

Rows = Annotated[list[str], Parameter(name=["--input", "-i"], consume_multiple=True)]


@dataclass(frozen=True)
class _Options:
    max_concurrency: int
    rps: float | None
    tpm: float | None
    provider: str | None
    attempts: int
    timeout: float | None
    max_usd: float | None
    max_tokens: int | None
    on_error: Literal["collect", "drop", "raise"]
    rows_per_part: int | None


def run(
    target: str,
    /,
    *,
    input: Rows,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    format: Literal["jsonl", "parquet"] = "jsonl",
    field: str | None = None,
    limit: int | None = None,
    max_concurrency: int = 8,
    rps: float | None = None,
    tpm: float | None = None,
    provider: str | None = None,
    attempts: int = 1,
    timeout: float | None = None,
    max_usd: float | None = None,
    max_tokens: int | None = None,
    on_error: Literal["collect", "drop", "raise"] = "collect",
    rows_per_part: int | None = None,
    dry_run: Flag = False,
    sample: int = 5,
    json: Json = False,
) -> Output:
    """Call a graph, edge, node, operator or function for each row of a file; the results go to a folder.

    After a kill, an error or Ctrl+C, the same command goes on where the folder is. A row is the state that
    the target sees; the whole of it is there as `item`, too.

    Args:
        target: Such as app:graph or folder/app.py:graph; a function without parameters may return it.
        input: Files or patterns, such as rows.jsonl or 'data/*.csv.gz'; or the name of a loader.
        out: The folder of the results.
        format: The format of the results.
        field: Call the target with the value of this field in place of the row.
        limit: Only so many rows, from the first on.
        max_concurrency: Rows at a time.
        rps: Requests per second, with --provider or the target's own.
        tpm: Tokens per minute.
        provider: The provider that the limit is of, such as openai.
        attempts: How often a row is tried, with pauses that grow.
        timeout: Seconds that an attempt may take.
        max_usd: End the run when it has spent so many US dollars.
        max_tokens: End the run when it has used so many tokens.
        on_error: What becomes of a row that fails: it is in errors.jsonl, or ends the run.
        rows_per_part: Rows in a file of the results; by default as many as make 4 MB, at most 8192.
        dry_run: Call the target only for a few rows, write nothing, and estimate tokens and cost of the rest.
        sample: The number of these rows.
    """
    options = _Options(
        max_concurrency, rps, tpm, provider, attempts, timeout, max_usd, max_tokens, on_error, rows_per_part
    )
    found = load(target)
    rows = _rows(input, field, limit)
    if dry_run:
        return _estimated(found, rows, options, field, sample, as_json=json)
    from mahsm.data import sinks

    sink = {"jsonl": sinks.Jsonl, "parquet": sinks.Parquet}[format](out)
    edge = _edge(found, options, field, sink=sink)
    began, totals = time.monotonic(), Totals()
    with note(totals, Path(sink.path)), nullcontext() if json else _bars():
        try:
            report = asyncio.run(edge.ainvoke({"rows": rows}))["report"]
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; the same command goes on from here") from None
    seconds = time.monotonic() - began
    document = {**report, "seconds": round(seconds, 3), **totals.total}
    lines = [
        f"{report['rows']:,} rows in {report['path']}, {report['errors']:,} failed; "
        f"{seconds:,.1f} s, {summary(totals.total)}"
    ]
    if report["errors"]:
        lines.append(f"The rows that failed are in {report['path']}/errors.jsonl.")
    return Output(document, lines, json)


def _rows(names: list[str], field: str | None, limit: int | None) -> Any:
    from mahsm.data._internal import stream_of

    rows = stream_of(names)
    if limit is not None:
        rows = rows.limit(limit)
    return rows if field is None else rows.map(_field(field))


def _field(name: str) -> Callable[[Any], Any]:
    def field(row: Any) -> Any:
        try:
            return operator.itemgetter(name)(row)
        except (KeyError, TypeError, IndexError):
            keys = list(cast("Mapping[str, Any]", row)) if isinstance(row, Mapping) else type(row).__name__
            raise UsageError(f"--field {name}: a row has no such field, only {keys}.") from None

    field.__qualname__ = f"field {name}"
    return field


def _state(row: Any) -> dict[str, Any]:
    return {**cast("Mapping[str, Any]", row), "item": row} if isinstance(row, Mapping) else {"item": row}


def _edge(found: Any, options: _Options, field: str | None, **more: Any) -> Any:
    from mahsm import Budget, RateLimit, Retry, vmap

    limit = None
    if options.rps is not None or options.tpm is not None:
        limit = RateLimit(options.provider, rps=options.rps, tpm=options.tpm)
    budget = None
    if options.max_usd is not None or options.max_tokens is not None:
        budget = Budget(usd=options.max_usd, tokens=options.max_tokens)
    return vmap(
        found,
        batch_key="rows",
        out_key="report",
        item_to_state=None if field is not None else _state,
        inherit=False,
        max_concurrency=options.max_concurrency,
        chunk_size=options.rows_per_part,
        retry=Retry(attempts=options.attempts) if options.attempts > 1 else None,
        timeout=options.timeout,
        rate_limit=limit,
        budget=budget,
        on_error=options.on_error,
        **more,
    )


def _bars() -> Any:
    from mahsm import progress

    return progress()


def _estimated(
    found: Any, rows: Any, options: _Options, field: str | None, sample: int, *, as_json: bool
) -> Output:
    """Call the target for a few rows, and say what all of them would take."""
    if sample < 1:
        raise UsageError(f"--sample {sample}; expected a number >= 1.")
    from mahsm import usage

    first: list[Any] = []
    count = 0
    for row in rows:
        if len(first) < sample:
            first.append(row)
        count += 1
    edge = _edge(found, options, field)
    asyncio.run(edge.ainvoke({"rows": []}))  # imports what it needs
    began = time.monotonic()
    with usage() as used:
        asyncio.run(edge.ainvoke({"rows": first}))
    seconds, share = time.monotonic() - began, count / max(len(first), 1)
    document = {
        "rows": count,
        "sampled": len(first),
        "tokens": round(used.tokens * share),
        "usd": None if used.unpriced else round(used.usd * share, 6),
        "seconds": round(seconds * share, 1),
    }
    cost = "unknown cost" if used.unpriced else f"about ${used.usd * share:,.4f}"
    told = (
        f"{count:,} rows; by {len(first)} of them: about {document['tokens']:,} tokens, {cost}, at most "
        f"{seconds * share:,.0f} s. Nothing was written."
    )
    return Output(document, [told], as_json)
