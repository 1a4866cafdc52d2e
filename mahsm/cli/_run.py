"""`mahsm run`: a graph, edge, node, operator or function for each row of a file, with results in a folder."""

import asyncio
import logging
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from mahsm.cli._estimate import estimated, first_of
from mahsm.cli._numbers import Amount, Count, Number
from mahsm.cli._outcome import FAILED, Flag, Json, Output, UsageError
from mahsm.cli._rows import rows_of, state_of
from mahsm.cli._target import load
from mahsm.cli._usage import Totals, note, summary

Rows = Annotated[list[str], Parameter(name=["--input", "-i"], consume_multiple=True, negative=())]


@dataclass(frozen=True)
class _Options:
    max_concurrency: int
    rps: float | None
    tpm: float | None
    tokens_per_row: int | None
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
    limit: Number | None = None,
    max_concurrency: Count = 8,
    rps: Amount | None = None,
    tpm: Amount | None = None,
    tokens_per_row: Count | None = None,
    provider: str | None = None,
    attempts: Count = 1,
    timeout: Amount | None = None,
    max_usd: Amount | None = None,
    max_tokens: Count | None = None,
    on_error: Literal["collect", "drop", "raise"] = "collect",
    rows_per_part: Count | None = None,
    dry_run: Flag = False,
    sample: Count | None = None,
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
        field: Call the target with the value of this field in place of the row, such as item of errors.jsonl.
        limit: Only so many rows, from the first on.
        max_concurrency: Rows at a time.
        rps: Requests per second.
        tpm: Tokens per minute, in and out.
        tokens_per_row: Tokens that a row takes of --tpm: for a function, which does not report them. By
            default an estimate, which is corrected by what the models report.
        provider: The provider whose limit --rps and --tpm are, such as openai; by default that of the
            target's DSPy model, or else the target has a limit of its own.
        attempts: How often a row is tried, with pauses that grow.
        timeout: Seconds that an attempt may take.
        max_usd: End the run when it has spent so many US dollars since this start.
        max_tokens: End the run when it has used so many tokens since this start.
        on_error: What becomes of a row that fails: it is in errors.jsonl, or ends the run.
        rows_per_part: Rows in a file of the results; by default as many as make 4 MB, at most 8192.
        dry_run: Call the target only for a few rows, write nothing, and estimate tokens and cost of the rest.
        sample: The number of these rows, by default 5.
    """
    options = _Options(
        max_concurrency,
        rps,
        tpm,
        tokens_per_row,
        provider,
        attempts,
        timeout,
        max_usd,
        max_tokens,
        on_error,
        rows_per_part,
    )
    found = load(target)
    rows = rows_of(input, field, limit)
    if sample is not None and not dry_run:
        raise UsageError(f"--sample is for --dry-run; add it, or pass --limit {sample} for the first rows.")
    if dry_run:
        # Rows that fail are counted, so they are not left out.
        kept = options if on_error == "raise" else replace(options, on_error="collect")
        return estimated(_edge(target, found, kept, field, rows), rows, sample or 5, as_json=json)
    from mahsm.data import sinks
    from mahsm.data._internal import manifest_of

    sink = {"jsonl": sinks.Jsonl, "parquet": sinks.Parquet}[format](out)
    edge = _edge(target, found, options, field, rows, sink=sink)
    had_ended = bool((manifest_of(str(sink.path)) or {}).get("report"))
    began, totals = time.monotonic(), Totals()
    with note(totals, Path(sink.path)), nullcontext() if json else _bars():
        try:
            report = asyncio.run(edge.ainvoke({"rows": rows}))["report"]
        except SystemExit:
            # The process ends. What asyncio says of the other tasks then is not the message.
            logging.getLogger("asyncio").disabled = True
            raise
        except KeyboardInterrupt:
            message = "interrupted; the same command goes on from here. Ctrl+C again ends rows in progress."
            raise KeyboardInterrupt(message) from None
    output = _output(report, totals, time.monotonic() - began, as_json=json)
    if had_ended:
        told = f"note: this run had ended before, so no row was called. To call them, remove {out}"
        print(told, file=sys.stderr)  # noqa: T201
    return output


def _output(report: Any, totals: Totals, seconds: float, *, as_json: bool) -> Output:
    document = {**report, "seconds": round(seconds, 3), **totals.total}
    lines = [
        f"{report['rows']:,} rows in {report['path']}, {report['errors']:,} failed; "
        f"{seconds:,.1f} s, {summary(totals.total)}"
    ]
    if report["errors"]:
        from mahsm.data import stream

        errors = Path(report["path"]) / "errors.jsonl"
        (first,) = stream(errors).limit(1)
        lines.append(f"The rows that failed are in {errors}; {first_of(first)}")
    return Output(document, lines, as_json, code=FAILED if report["errors"] and not report["rows"] else 0)


def _edge(target: str, found: Any, options: _Options, field: str | None, rows: Any, **more: Any) -> Any:
    from mahsm import Budget, Retry, vmap

    budget = None
    if options.max_usd is not None or options.max_tokens is not None:
        budget = Budget(usd=options.max_usd, tokens=options.max_tokens)
    return vmap(
        found,
        batch_key="rows",
        out_key="report",
        item_to_state=None if _takes_value(target, found, field, rows) else state_of,
        name=f"vmap_{target.rpartition(':')[2].rpartition('.')[2]}",
        inherit=False,
        max_concurrency=options.max_concurrency,
        chunk_size=options.rows_per_part,
        retry=Retry(attempts=options.attempts) if options.attempts > 1 else None,
        timeout=options.timeout,
        rate_limit=_limit(target, found, options),
        budget=budget,
        on_error=options.on_error,
        **more,
    )


def _limit(target: str, found: Any, options: _Options) -> Any:
    """Return the limit of the options, if any.

    Raises:
        NodeError: if it is no target.
        UsageError: if options are missing.
    """
    from mahsm import RateLimit
    from mahsm.errors import LimitError
    from mahsm.nodes._internal import as_target, provider_of

    if options.tokens_per_row is not None and options.tpm is None:
        raise UsageError(f"--tokens-per-row {options.tokens_per_row} has no limit; add --tpm.")
    if options.rps is None and options.tpm is None:
        if options.provider is not None:
            raise UsageError(f"--provider {options.provider} has no limit; add --rps or --tpm.")
        return None
    item = as_target(found, reader=target, of_items=True)
    if options.tpm is not None and options.tokens_per_row is None and not item.reports:
        raise UsageError(
            f"--tpm {options.tpm:g}: {target!r} is a function, which does not report the tokens of a row; "
            "pass --tokens-per-row with their number, such as --tokens-per-row 1000."
        )
    try:
        provider = options.provider or provider_of(item.model) or target
    except LimitError as error:
        raise UsageError(f"{error} On the command line: --provider openai.") from error
    return RateLimit(provider, rps=options.rps, tpm=options.tpm, tokens=options.tokens_per_row)


def _takes_value(target: str, found: Any, field: str | None, rows: Any) -> bool:
    """Return whether the target is called with a value, a field's or the row itself, and not with a state.

    Raises:
        NodeError: if it is no target.
        UsageError: if there is no value.
    """
    from mahsm.nodes._internal import as_target

    item = as_target(found, reader=target, of_items=True).item
    if item is not None and field is None and any(isinstance(row, Mapping) for row in rows.limit(1)):
        raise UsageError(f"{target!r} takes one {item}, not a row; pass --field with the name of a field.")
    return item is not None


def _bars() -> Any:
    from mahsm import progress

    return progress()
