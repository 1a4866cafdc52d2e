"""The estimate of `mahsm run --dry-run`."""

import asyncio
import time
from typing import Any

from mahsm.cli._outcome import FAILED, Output


def estimated(edge: Any, rows: Any, sample: int, *, as_json: bool) -> Output:
    """Call the target for a few rows, and say what all of them would take.

    Args:
        edge: The edge over the rows, without a sink.
        rows: The rows, which are all read, to count them.
        sample: The number of rows that the target is called for.
        as_json: Print it as JSON.
    """
    from mahsm import is_item_error, usage

    first: list[Any] = []
    count = 0
    for row in rows:
        if len(first) < sample:
            first.append(row)
        count += 1
    asyncio.run(edge.ainvoke({"rows": []}))  # imports what it needs
    began = time.monotonic()
    with usage() as used:
        entries = asyncio.run(edge.ainvoke({"rows": first}))["report"]
    seconds, share = time.monotonic() - began, count / max(len(first), 1)
    errors = [entry for entry in entries if is_item_error(entry)]
    document = {
        "rows": count,
        "sampled": len(first),
        "errors": len(errors),
        "tokens": round(used.tokens * share),
        "usd": None if used.unpriced else round(used.usd * share, 6),
        "seconds": round(seconds * share, 1),
    }
    cost = "unknown cost" if used.unpriced else f"about ${used.usd * share:,.4f}"
    told = [
        f"{count:,} rows; by {len(first)} of them: about {document['tokens']:,} tokens, {cost}, at most "
        f"{seconds * share:,.0f} s. Nothing was written."
    ]
    if errors:
        told.append(f"{len(errors)} of these {len(first)} failed; {first_of(errors[0])}")
    return Output(document, told, as_json, code=FAILED if errors and len(errors) == len(first) else 0)


def first_of(error: Any) -> str:
    """Return the first of several errors of rows as a line."""
    return f"the first: {error['type']}: {' '.join(error['message'].split())}"
