"""`mahsm usage`: what runs have cost, by their records."""

import json as jsons
import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mahsm.cli._outcome import Json, Output, UsageError

if TYPE_CHECKING:
    from rich.table import Table

RECORDS = "usage"
"""The folder in the folder of a run that has a record for each time that it was run."""

_SECONDS = 1.0
"""Seconds between two writings of the record of a run in progress; what a kill leaves is as old at most."""

_SHOWN = {
    "calls": "calls",
    "failed": "failed",
    "cached": "cached",
    "input_tokens": "input tokens",
    "cache_read_tokens": "from a cache",
    "output_tokens": "output tokens",
}
"""Columns of numbers."""

_SUMS = (*_SHOWN, "cache_creation_tokens", "usd", "unpriced")


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
    """Add up the usage of the block, and keep a record of it in a folder, also while the block runs."""
    from mahsm import usage
    from mahsm.data._internal import MANIFEST

    began, is_over, is_done = time.time(), threading.Event(), False
    file = folder / RECORDS / f"{time.time_ns()}.json"

    def write(record: dict[str, Any]) -> None:
        # A run that is refused has made no call, and its folder may be that of another run.
        if is_done or (any(record["total"].values()) and (folder / MANIFEST).is_file()):
            _write(file, record)

    def keep() -> None:
        pause = _SECONDS
        while not is_over.wait(pause):
            clock = time.monotonic()
            write(_record_of(used, began))
            pause = max(_SECONDS, 20 * (time.monotonic() - clock))

    with usage() as used:
        keeper = threading.Thread(target=keep, name="mahsm usage", daemon=True)
        keeper.start()
        try:
            yield
            is_done = True
        finally:
            is_over.set()
            keeper.join()
            record = _record_of(used, began)
            totals.add(record)
            write(record)


def _write(file: Path, record: dict[str, Any]) -> None:
    """Write a record as a whole, so that it is whole after a kill, too."""
    file.parent.mkdir(exist_ok=True)
    beside = file.with_suffix(".new")
    beside.write_text(jsons.dumps(record))
    os.replace(beside, file)


def _record_of(used: Any, began: float) -> dict[str, Any]:
    by_edge: dict[str, dict[str, Any]] = {}
    for run in list(used.runs):
        _add(by_edge.setdefault(run.edge, {}), _sums(run.usage))
    return {
        "began": round(began, 3),
        "seconds": round(time.time() - began, 3),
        "total": _sums(used),
        "by_model": {name: _sums(each) for name, each in list(used.by_model.items())},
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
    files = sorted(folder.glob(f"{RECORDS}/*.json")) or sorted(folder.glob(f"**/{RECORDS}/*.json"))
    if not files:
        raise UsageError(
            f"{str(folder)!r} has no records in {RECORDS}/; expected the --out of a 'mahsm run', or a folder "
            "around some."
        )
    totals = Totals()
    runs = len(files)
    for file in files:
        try:
            totals.add(jsons.loads(file.read_text()))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UsageError(f"{str(file)!r} is not the record of a run. Remove it.") from error
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
    for head in (*_SHOWN.values(), "US dollars"):
        table.add_column(head, justify="right")
    for name, sums in sorted(found.items(), key=lambda each: -each[1]["usd"]):
        numbers = [f"{sums[key]:,}" for key in _SHOWN]
        table.add_row(name, *numbers, f"{sums['usd']:,.4f}" + ("?" if sums["unpriced"] else ""))
    return table
