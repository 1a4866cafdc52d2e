"""`mahsm usage`: what runs have cost, by their records."""

import json as jsons
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mahsm.cli._outcome import Json, Output, UsageError

if TYPE_CHECKING:
    from rich.table import Table

RECORDS = "usage.jsonl"
"""The file in the folder of a run that has a line for each time that it was run."""

_SUMS = ("calls", "failed", "cached", "input_tokens", "output_tokens", "usd", "unpriced")


@dataclass
class Totals:
    """What a run has used.

    Attributes:
        total: The sums: calls, tokens, US dollars.
        by_model: The same for each model.
        by_edge: The same for each edge, with the edges inside it.
    """

    total: dict[str, Any] = field(default_factory=dict[str, Any])
    by_model: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    by_edge: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def add(self, record: dict[str, Any]) -> None:
        """Add what was noted of a run."""
        _add(self.total, record["total"])
        for mine, theirs in ((self.by_model, record["by_model"]), (self.by_edge, record["by_edge"])):
            for name, sums in theirs.items():
                _add(mine.setdefault(name, {}), sums)


def _add(sums: dict[str, Any], more: dict[str, Any]) -> None:
    for name in _SUMS:
        sums[name] = sums.get(name, 0) + more.get(name, 0)


def _sums(used: Any) -> dict[str, Any]:
    return {name: getattr(used, name) for name in _SUMS}


@contextmanager
def note(totals: Totals, folder: Path) -> Generator[None, None, None]:
    """Add up the usage of the block, and note it in a folder at its end, also after an error."""
    from mahsm import usage
    from mahsm.data._internal import MANIFEST

    began, is_done = time.time(), False
    with usage() as used:
        try:
            yield
            is_done = True
        finally:
            record = _record_of(used, began)
            totals.add(record)
            # A run that is refused has made no call, and its folder may be that of another run.
            if is_done or (any(record["total"].values()) and (folder / MANIFEST).is_file()):
                with open(folder / RECORDS, "a") as file:
                    file.write(jsons.dumps(record) + "\n")


def _record_of(used: Any, began: float) -> dict[str, Any]:
    by_edge: dict[str, dict[str, Any]] = {}
    for run in used.runs:
        _add(by_edge.setdefault(run.edge, {}), _sums(run.usage))
    return {
        "began": round(began, 3),
        "seconds": round(time.time() - began, 3),
        "total": _sums(used),
        "by_model": {name: _sums(each) for name, each in used.by_model.items()},
        "by_edge": by_edge,
    }


def summary(sums: dict[str, Any]) -> str:
    """Return calls, tokens and cost as words."""
    tokens = sums["input_tokens"] + sums["output_tokens"]
    cost = f"${sums['usd']:,.4f}" + (" and calls of unknown price" if sums["unpriced"] else "")
    return f"{sums['calls']:,} model calls, {tokens:,} tokens, {cost}"


def usage(folder: Path = Path(), /, *, json: Json = False) -> Output:
    """Show what runs cost, by model and edge, from the records in their folders.

    Args:
        folder: The folder of a run, or one that has such folders in it.
    """
    files = sorted(folder.glob(RECORDS)) or sorted(folder.glob(f"**/{RECORDS}"))
    if not files:
        raise UsageError(
            f"{str(folder)!r} has no {RECORDS}; expected the --out of a 'mahsm run', or a folder around some."
        )
    totals = Totals()
    runs = 0
    for file in files:
        for line in file.read_text(errors="replace").splitlines():
            try:
                totals.add(jsons.loads(line))
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise UsageError(f"{str(file)!r} has a broken line, {line[:80]!r}. Remove it.") from error
            runs += 1
    document = {
        "runs": runs,
        "total": totals.total,
        "by_model": totals.by_model,
        "by_edge": totals.by_edge,
    }
    shown = [f"{runs} {'run' if runs == 1 else 'runs'}: {summary(totals.total)}"]
    found = {"model": totals.by_model, "edge": totals.by_edge}
    tables = [_table(what, sums) for what, sums in found.items() if sums]
    return Output(document, [*shown, *tables], json)


def _table(what: str, found: dict[str, dict[str, Any]]) -> "Table":
    from rich.table import Table

    table = Table()
    table.add_column(what, overflow="fold")
    for head in ("calls", "failed", "cached", "input tokens", "output tokens", "US dollars"):
        table.add_column(head, justify="right")
    for name, sums in sorted(found.items(), key=lambda each: -each[1]["usd"]):
        numbers = [f"{sums[key]:,}" for key in _SUMS[:5]]
        table.add_row(name, *numbers, f"{sums['usd']:,.4f}" + ("?" if sums["unpriced"] else ""))
    return table
