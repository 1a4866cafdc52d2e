"""What has moved between two results of a scenario, and whether the CPU of a row has grown too much."""

import json
from pathlib import Path
from typing import Any

from benchmarks import cpu
from benchmarks.report import RESULTS, show_table

MOST = 1.25
"""Times the committed ratio that a ratio of CPU may be."""

_TRIES = 5
"""A busy machine may spoil a measurement; one that is really worse is so each time."""


def compare(old: Path, new: Path) -> int:
    """Show each figure of both results, how far it moved, and the noise of the newer one."""
    before, after = (json.loads(path.read_text()) for path in (old, new))
    noise: dict[str, Any] = {}
    for part in after["measurements"].values():
        noise |= part.get("noise", {}) if isinstance(part, dict) else {}
    was = {figure["what"]: figure for figure in before["figures"]}
    rows = [["figure", "old", "new", "moved", "noise"]]
    for figure in after["figures"]:
        name, unit, now = figure["what"], figure["unit"], figure["measured"]
        then = was[name]["measured"] if name in was else None
        moved = "new" if then is None else f"{now / then - 1:+.0%}" if then else ""
        rows.append(
            [
                name,
                "" if then is None else f"{then:.3g} {unit}",
                f"{now:.3g} {unit}",
                moved,
                f"{noise[name]:.0%}" if name in noise else "",
            ]
        )
    rows += [
        [name, f"{figure['measured']:.3g} {figure['unit']}", "", "gone", ""]
        for name, figure in was.items()
        if name not in {figure["what"] for figure in after["figures"]}
    ]
    show_table(rows)
    return 0


def check(rounds: int = 3) -> int:
    """Return 1 if a ratio of CPU is by a quarter and the noise above the committed one, each time."""
    found = json.loads((RESULTS / "cpu.json").read_text())["measurements"]["cpu"]
    committed, noise = found["ratios"], found["noise"]
    worst: dict[str, float] = {}
    for _ in range(_TRIES):
        now = cpu.ratios(cpu.measured(rounds))
        worst = {name: min(ratio, worst.get(name, ratio)) for name, ratio in now.items()}
        grown = {
            name: ratio
            for name, ratio in worst.items()
            if ratio > MOST * (1 + noise.get(name, 0.0)) * committed.get(name, ratio)
        }
        if not grown:
            return 0
    rows = [["CPU, as a multiple", "committed", "now"]]
    rows += [[name, f"{committed[name]:.3g}", f"{ratio:.3g}"] for name, ratio in grown.items()]
    show_table(rows)
    return 1
