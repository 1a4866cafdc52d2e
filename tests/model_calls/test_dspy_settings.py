"""`dspy.configure` has the effect inside of blocks that watch calls that it has outside."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import dspy
import pytest
from dspy.utils.callback import BaseCallback

import mahsm
from mahsm import RateLimit, budget, limits, tracing
from mahsm.testing import Call, FakeLM
from tests.tracing.spans import recorded

BLOCKS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "none": nullcontext,
    "usage": mahsm.usage,
    "span": lambda: tracing.span("block"),
    "budget": lambda: budget(calls=100),
    "admit": lambda: limits.admit(RateLimit("configure", rps=1000)),
}
blocks = pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = dict(dspy.settings.config)
    yield
    dspy.configure(**before)


def model(name: str) -> FakeLM:
    return FakeLM(lambda call: dict.fromkeys(call.outputs, name) if call.outputs else name)


def answer() -> str:
    return dspy.Predict("question -> answer")(question="?").answer


@blocks
def test_a_model_that_is_configured_inside(block: Any) -> None:
    dspy.configure(lm=model("old"))
    with recorded(), block():
        assert answer() == "old"
        dspy.configure(lm=model("new"))
        assert (answer(), dspy.settings.lm("?")[0]) == ("new", "new")
        with dspy.context(lm=model("context")):
            assert answer() == "context"
        assert [
            call.answer for call in dspy.Parallel()([(dspy.Predict("question -> answer"), {"question": "?"})])
        ] == ["new"]
    assert answer() == "new"


@blocks
def test_a_model_that_is_configured_where_there_was_none(block: Any) -> None:
    dspy.configure(lm=None)
    with recorded(), block():
        dspy.configure(lm=model("first"))
        assert answer() == "first"
        assert asyncio.run(dspy.Predict("question -> answer").acall(question="?")).answer == "first"


class Seen(BaseCallback):
    def __init__(self) -> None:
        self.count = 0

    def on_lm_start(self, *args: Any, **kwargs: Any) -> None:
        self.count += 1


@blocks
def test_adapters_callbacks_and_all_else(block: Any) -> None:
    seen, lm = Seen(), model("x")
    dspy.configure(lm=lm)
    with recorded(), block():
        dspy.configure(adapter=dspy.JSONAdapter(), callbacks=[seen], max_trace_size=5, track_usage=True)
        answer()
        assert dspy.settings.callbacks[0] is seen
        assert "JSON" in str(lm.calls[-1].messages)
        assert (seen.count, dspy.settings.max_trace_size, dspy.settings.track_usage) == (1, 5, True)
        dspy.settings.callbacks.append(Seen())
        assert len([one for one in dspy.settings.callbacks if isinstance(one, Seen)]) == 2


@blocks
def test_what_is_configured_inside_is_counted(block: Any) -> None:
    def priced(call: Call) -> Any:
        return {"answer": "x"}

    with mahsm.usage() as used, block():
        dspy.configure(lm=FakeLM(priced))
        answer()
        dspy.settings.lm("?")
    assert used.calls == 2


@blocks
def test_settings_can_be_read_and_copied(block: Any) -> None:
    dspy.configure(lm=model("x"))
    names = set(dspy.settings.config)
    with recorded(), block():
        assert set(dspy.settings.config) == names
        assert dspy.settings.get("lm").model == dspy.settings.config["lm"].model
        assert "lm" in dspy.settings
        assert dspy.settings.lm is dspy.settings.lm
        assert dspy.settings.adapter is dspy.settings.adapter


@blocks
def test_settings_that_were_copied_in_a_block_count_nothing_after_it(block: Any) -> None:
    """So does a fixture that restores settings: `configure(**copy)`."""
    dspy.configure(lm=model("x"))
    with mahsm.usage() as used, block():
        copied = dspy.settings.copy()
        answer()
    dspy.configure(**copied)
    answer()
    assert used.calls == 1
    with mahsm.usage() as again:
        answer()
    assert (used.calls, again.calls) == (1, 1)
