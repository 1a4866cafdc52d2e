"""The bars of `mahsm.progress()`."""

import io
from contextlib import nullcontext
from typing import Any

import pytest
from rich.console import Console

import mahsm
from mahsm import progress, vmap
from mahsm.testing import FakeChatModel, Reply
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


PAID = FakeChatModel(lambda call: Reply("x", usage=(100, 10)), model="openai/gpt-4o-mini")


async def asks_later(state: Any) -> str:
    return (await PAID.ainvoke(str(state["item"]))).text


def asks(state: Any) -> str:
    return PAID.invoke(str(state["item"])).text


PAYING: dict[str, Any] = {
    "blocks": lambda: vmap(asks, batch_key="xs", out_key="ys"),
    "awaits": lambda: vmap(asks_later, batch_key="xs", out_key="ys"),
}


@pytest.mark.parametrize("edge", PAYING.values(), ids=PAYING)
@pytest.mark.parametrize("watching", [False, True])
def test_events_say_what_functions_have_spent(edge: Any, watching: bool) -> None:
    with mahsm.usage() if watching else nullcontext():
        events = list(edge().stream({"xs": [1, 2]}, stream_mode="custom"))
    assert (events[-1]["tokens"], round(events[-1]["usd"], 9)) == (220, 4.2e-05)
