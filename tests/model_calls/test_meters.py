"""What is counted of calls, and how they are seen."""

import dspy
import pytest
from langchain_core.language_models import FakeListLLM
from langchain_core.runnables import RunnableLambda

from mahsm import budget, vmap
from mahsm._common.answer import Answer
from mahsm._model_calls.dspy import observed_lm
from mahsm._model_calls.meters import (
    AttemptCounter,
    Meter,
    count_answer,
    count_attempt,
    count_call,
    is_metered,
    metered,
)
from mahsm._model_calls.observe import observed
from mahsm.testing import ModelServer, Reply
from tests.helpers import MODES, run_edge


def test_a_refused_attempt_is_counted_nowhere() -> None:
    outer, inner = Meter(), Meter()
    inner.most_calls = 1
    assert not is_metered()
    with metered(outer), metered(inner):
        assert count_attempt() is None
        assert count_attempt() is inner
    assert (outer.calls, inner.calls) == (1, 1)


def test_the_first_call_of_an_attempt_is_the_attempt() -> None:
    meter = Meter()
    with metered(meter):
        count_attempt()
        with metered(AttemptCounter(counted=True)):
            count_call()
            assert meter.calls == 1
            count_call()
            assert count_attempt() is None
    assert meter.calls == 3


def test_answers_add_up() -> None:
    meter = Meter()
    with metered(meter):
        count_call()
        count_answer(Answer("m", 10, 5, 0.5))
        count_call()
        count_answer(Answer("m", 10, 5, 0.5, cached=True))
    assert (meter.calls, meter.cached, meter.tokens, meter.usd) == (1, 1, 15, 0.5)


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
