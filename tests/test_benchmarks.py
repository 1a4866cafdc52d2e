"""The benchmarks run, and their table and results have what they say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import sharers
from benchmarks.__main__ import SCENARIOS
from benchmarks.report import Figure

ROOT = Path(__file__).parent.parent


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("scenario", "figures"),
    [
        ("cpu", 16),
        ("fanout", 12),
        ("limits", 24),
        ("branches", 7),
        ("jit", 21),
        ("tracing", 5),
        ("compose", 6),
        ("models", 3),
        ("streams", 8),
        ("dspy", 7),
        ("xcs", 15),
        ("scale", 31),
        ("batch", 16),
        ("learn", 15),
    ],
)
def test_a_scenario_runs_in_small(scenario: str, figures: int) -> None:
    if scenario == "scale" and not sharers.installed():
        pytest.skip("no redis-server; Debian has it in the package redis-server")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", scenario, "--quick"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((ROOT / "benchmarks" / "results" / "quick" / f"{scenario}.json").read_text())
    assert len(results["figures"]) == figures


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_readme_shows_the_figures_of_the_results(scenario: str) -> None:
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    if f"<!-- {scenario} -->\n\n<!-- /{scenario} -->" in readme:
        pytest.skip("not measured yet")
    results = json.loads((ROOT / "benchmarks" / "results" / f"{scenario}.json").read_text())
    for figure in results["figures"]:
        assert f"| {figure['what']} |" in readme
        assert f"| {figure['measured']:.3g} {figure['unit']} |" in readme


def test_figures_are_met_from_their_side() -> None:
    assert Figure("at most", 1.0, 2.0).met
    assert not Figure("at least", 1.0, 2.0, at_least=True).met


def test_results_are_compared(tmp_path: Path) -> None:
    def results(name: str, noise: dict[str, float], **figures: float) -> str:
        told = [{"what": what, "measured": measured, "unit": "x"} for what, measured in figures.items()]
        path = tmp_path / name
        path.write_text(json.dumps({"figures": told, "measurements": {"part": {"noise": noise}}}))
        return str(path)

    old, new = (
        results("old", {}, same=1.0, grown=2.0, gone=3.0),
        results("new", {"grown": 0.04}, same=1.0, grown=3.0),
    )
    command = [sys.executable, "-m", "benchmarks", "--compare", old, new]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line.replace("│", " ").split() for line in done.stdout.splitlines()]
    assert ["same", "1", "x", "1", "x", "+0%"] in lines
    assert ["grown", "2", "x", "3", "x", "+50%", "4%"] in lines
    assert ["gone", "3", "x", "gone"] in lines
