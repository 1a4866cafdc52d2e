"""The example of a router that learns from run to run: what it prints is a claim, and it draws a plot."""

import re
from pathlib import Path

import pytest

from tests import scripts

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_the_cost_of_a_right_answer_falls_and_a_plot_is_drawn(tmp_path: Path) -> None:
    before = {path.name for path in EXAMPLES.iterdir()}
    plot = tmp_path / "plot.html"
    status, printed, errors = scripts.run(EXAMPLES / "learned_router.py", tmp_path, 300, [str(plot)])
    assert status == 0, errors
    runs = [[float(number) for number in re.findall(r"[\d.]+", line)] for line in printed.splitlines()[1:]]
    costs, regrets = ([run[column] for run in runs] for column in (5, 6))
    assert len(runs) == 8
    assert sum(costs[-2:]) < 0.75 * sum(costs[:2])
    assert sum(regrets[-2:]) < 0.2 * sum(regrets[:2])
    assert runs[-1][4] > runs[0][4], "and more answers are right"
    text = plot.read_text()
    assert "cents for a right answer" in text
    assert "regret of a run" in text
    assert {path.name for path in EXAMPLES.iterdir()} - before <= {"__pycache__"}
