"""What all scenarios share: a table of what was asked and measured, and the machine that it was measured
on.
"""

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"


@dataclass(frozen=True)
class Figure:
    """One figure: a ratio within this run, and the most (or least) that it may be."""

    what: str
    measured: float
    asked: float
    unit: str = "x"
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.measured >= self.asked if self.at_least else self.measured <= self.asked


Part = Callable[[], tuple[Any, ...]]
"""Gives its figures, its tables, and what it measured."""


def show(figures: list[Figure]) -> None:
    table = Table("figure", "asked", "measured", "met")
    for figure in figures:
        sign = ">=" if figure.at_least else "<="
        met = "yes" if figure.met else "NO"
        table.add_row(
            figure.what, f"{sign} {figure.asked:g} {figure.unit}", f"{figure.measured:.3g} {figure.unit}", met
        )
    Console(width=140).print(table)


def show_table(rows: list[list[str]]) -> None:
    table = Table(*rows[0])
    for row in rows[1:]:
        table.add_row(*row)
    Console(width=140).print(table)


def markdown(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def machine(device: str = "") -> str:
    """The machine that this runs on, and the device of JAX if it is named."""
    named = f"{device}, " if device else ""
    return f"{named}{os.cpu_count()} cores, {platform.machine()}, Python {sys.version.split()[0]}"


def write_readme(scenario: str, figures: list[Figure], tables: list[str], device: str = "") -> None:
    """Put the results of a run between the scenario's marks in README.md."""
    rows = [
        f"| {figure.what} | {'>=' if figure.at_least else '<='} {figure.asked:g} {figure.unit} "
        f"| {figure.measured:.3g} {figure.unit} | {'yes' if figure.met else 'no'} |"
        for figure in figures
    ]
    table = "\n".join(["| figure | asked | measured | met |", "|---|---|---|---|", *rows])
    parts = [
        f"Measured on {date.today().isoformat()}: {machine(device)}.",
        *([table] if figures else []),
        *tables,
    ]
    text = "\n\n".join(parts)
    begin, end = f"<!-- {scenario} -->", f"<!-- /{scenario} -->"
    before, rest = README.read_text().split(begin)
    README.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}")


def run(scenario: str, parts: Mapping[str, Part], *, quick: bool, device: str = "") -> int:
    """Run the parts of a scenario, print what they found, and keep it. A device is named beside the
    machine.
    """
    figures: list[Figure] = []
    tables: list[list[list[str]]] = []
    measurements: dict[str, Any] = {}
    for name, part in parts.items():
        found, *rows, measurements[name] = part()
        figures += found
        tables += rows
    for table in tables:
        show_table(table)
    if figures:
        show(figures)
    save(scenario, figures, measurements, quick=quick, device=device)
    if not quick:
        write_readme(scenario, figures, [markdown(table) for table in tables], device)
    return 0


def show_part(parts: Mapping[str, Part], name: str) -> int:
    """Run one part of a scenario, and print what it found; nothing is kept."""
    if name not in parts:
        print(f"no part {name!r}; there are {', '.join(parts)}", file=sys.stderr)
        return 2
    figures, *tables, _ = parts[name]()
    for table in tables:
        show_table(table)
    show(figures)
    return 0


def _versions() -> dict[str, str]:
    """Of what is measured and measured against, if it is installed: a machine with a GPU may have less."""
    names = (
        "mahsm",
        "langgraph",
        "langchain-core",
        "langgraph-checkpoint-sqlite",
        "dspy",
        "aiolimiter",
        "jax",
    )
    found = {name: next(iter(distributions(name=name)), None) for name in names}
    return {name: distribution.version for name, distribution in found.items() if distribution is not None}


def save(scenario: str, figures: list[Figure], measurements: Any, *, quick: bool, device: str = "") -> Path:
    folder = RESULTS / "quick" if quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{scenario}.json"
    path.write_text(
        json.dumps(
            {
                "date": date.today().isoformat(),
                "machine": machine(device),
                "versions": _versions(),
                "figures": [{**asdict(figure), "met": figure.met} for figure in figures],
                "measurements": measurements,
            },
            indent=1,
        )
        + "\n"
    )
    return path
