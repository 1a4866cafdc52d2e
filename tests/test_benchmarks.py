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
        ("fanout", 10),
        ("limits", 23),
        ("branches", 7),
        ("jit", 21),
        ("tracing", 5),
        ("compose", 6),
        ("models", 3),
        ("streams", 8),
        ("dspy", 7),
        ("xcs", 15),
        ("scale", 31),
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
