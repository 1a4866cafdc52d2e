"""The bars of `mahsm.progress()`."""

import io
from typing import Any

import pytest
from rich.console import Console

from mahsm import progress, vmap
from tests.helpers import MODES, run


def odd_fails(state: dict[str, Any]) -> float:
    return 1 / (1 - state["item"] % 2)


@pytest.mark.parametrize("mode", MODES)
def test_a_bar_for_each_edge(mode: str) -> None:
    console = Console(file=io.StringIO(), width=100)
    edge = vmap(odd_fails, batch_key="xs", out_key="ys", on_error="drop", name="reads")
    with progress(console):
        run(edge, {"xs": range(4)}, mode)
        run(edge, {"xs": range(6)}, mode)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count("reads") == 1, "runs of one edge share a bar"
    assert "10/10" in shown
    assert "5 failed" in shown


def test_progress_true_draws_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    vmap(odd_fails, batch_key="xs", out_key="ys", progress=True, name="reads").invoke({"xs": [0, 2]})
    assert "2/2" in capsys.readouterr().err


def test_without_it_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    vmap(odd_fails, batch_key="xs", out_key="ys").invoke({"xs": [0, 2]})
    assert capsys.readouterr() == ("", "")
