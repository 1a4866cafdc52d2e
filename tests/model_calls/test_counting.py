"""What is counted of calls, and how they are seen."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import dspy
import pytest
from langchain_core.language_models import FakeListLLM
from langchain_core.runnables import RunnableLambda

import mahsm
from mahsm import RateLimit, budget, limits, vmap
from mahsm._common.answer import Answer
from mahsm._model_calls import calls
from mahsm._model_calls.counting import count_attempt, metered, meters
from mahsm._model_calls.dspy import observed_lm
from mahsm._model_calls.observe import observed
from mahsm._model_calls.records import AttemptCounter, Meter
from mahsm.testing import FakeLM, ModelServer, Reply
from tests.helpers import MODES, run_edge

BLOCKS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "usage": mahsm.usage,
    "budget": lambda: budget(calls=10),
    "admit": lambda: limits.admit(RateLimit("counting", rps=1000)),
}


def test_a_refused_attempt_is_counted_nowhere() -> None:
    outer, inner = Meter(), Meter()
    inner.most_calls = 1
    assert not meters()
    with metered(outer), metered(inner):
        assert count_attempt() is None
        assert count_attempt() is inner
    assert (outer.calls, inner.calls) == (1, 1)


def test_the_first_call_of_an_attempt_is_the_attempt() -> None:
    meter = Meter()
    with metered(meter):
        count_attempt()
        with metered(AttemptCounter(counted=True)):
            calls.begin_call()
            assert meter.calls == 1
            calls.begin_call()
            assert count_attempt() is None
    assert meter.calls == 3


def test_answers_add_up() -> None:
    meter = Meter()
    with metered(meter):
        calls.record_call(Answer("m", 10, 5, 0.5))
        calls.record_call(Answer("m", 10, 5, 0.5, cached=True))
        calls.begin_call()
        calls.end_call(None, ValueError("no"))
    assert (meter.calls, meter.failed, meter.answers, meter.cached) == (2, 1, 2, 1)
    assert (meter.tokens, meter.usd) == (15, 0.5)


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_that_are_opened_in_threads_of_dspy_hide_no_call(block: str) -> None:
    class Asks(dspy.Module):
        def forward(self, question: str) -> Any:
            with BLOCKS[block]():
                return dspy.Predict("question -> answer")(question=question)

    lm, asked = (
        FakeLM({"answer": "yes"}),
        [dspy.Example(question=one).with_inputs("question") for one in "ab"],
    )
    with dspy.context(lm=lm), budget(calls=10) as spent, mahsm.usage() as used:
        dspy.Parallel(num_threads=2, disable_progress_bar=True)([(Asks(), one) for one in asked])
    assert (len(lm.calls), spent.calls, used.calls) == (2, 2, 2)


@pytest.mark.parametrize("mode", MODES)
def test_usage_and_budgets_have_prices_of_their_own(mode: str) -> None:
    edge = vmap(lambda state: limits.report(input_tokens=10**6, model="m"), batch_key="xs", out_key="ys")
    own = budget(usd=100, prices={"m": (5.0, 0.0)})
    with mahsm.usage() as outer, own as spent, mahsm.usage(prices={"m": (2.0, 0.0)}) as used:
        run_edge(edge, [1], mode)
    assert (spent.usd, used.usd, used.runs[0].usage.usd, outer.usd) == (5.0, 2.0, 2.0, 2.0)


def test_texts_of_completion_models_count_as_calls() -> None:
    with budget(calls=10) as spent:
        FakeListLLM(responses=["yes"]).invoke("?")
    assert spent.calls == 1


@pytest.mark.parametrize("mode", MODES)
def test_several_models_in_one_item(mode: str) -> None:
    model = FakeListLLM(responses=["yes"])
    edge = vmap(RunnableLambda(str) | model | model, batch_key="xs", out_key="ys")
    with budget(calls=10) as spent:
        run_edge(edge, [1, 2], mode)
    assert spent.calls == 4


def test_a_view_of_a_language_model_is_the_model() -> None:
    with ModelServer(Reply({"answer": "yes"}, usage=(3, 2))) as server:
        lm = server.lm(num_retries=2)
        view = observed_lm(lm)
        assert isinstance(view, dspy.LM)
        assert (view.num_retries, view.model, observed_lm(view)) == (2, lm.model, view)
        view.num_retries = 1
        view.kwargs["temperature"] = 0.5
        assert (lm.num_retries, lm.kwargs["temperature"]) == (1, 0.5)
        assert view.dump_state() == lm.dump_state()
        assert observed_lm("no model") == "no model"
        with dspy.context(lm=lm, disable_history=True), observed():
            dspy.Predict("item -> answer")(item="?")
        with dspy.context(lm=lm), observed(), observed():
            dspy.Predict("item -> answer")(item="?")
            dspy.settings.lm("direct")
    assert len(lm.history) == 2
