"""Prices of LangChain's models, from the table that DSPy's prices come from."""

from importlib.machinery import ModuleSpec
from typing import Any

import pytest
from dspy import lm15
from dspy.clients.costs import estimate_cost
from langchain_core.messages import AIMessage

from mahsm._model_calls import prices
from mahsm._model_calls.langchain import answer_of_message
from mahsm._model_calls.prices import price_of


def usage(
    tokens: tuple[int, int], inputs: dict[str, Any] | None = None, outputs: dict[str, Any] | None = None
) -> Any:
    details = {"input_token_details": inputs, "output_token_details": outputs}
    return {
        "input_tokens": tokens[0],
        "output_tokens": tokens[1],
        **{key: value for key, value in details.items() if value},
    }


@pytest.mark.parametrize("tokens", [1_000, 300_000])
@pytest.mark.parametrize("cached", [0, 600])
@pytest.mark.parametrize("reasoning", [0, 50])
@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-4.1", "o3", "gpt-5"])
def test_they_are_dspys(model: str, tokens: int, cached: int, reasoning: int) -> None:
    used = lm15.Usage(tokens, 100, cache_read_tokens=cached, reasoning_tokens=reasoning)
    message = lm15.Message.assistant([lm15.TextPart("x")])
    response = lm15.Response(id=None, model=model, message=message, finish_reason="stop", usage=used)
    theirs, _ = estimate_cost(response, provider="openai", requested_model=model)
    ours = price_of(
        "openai", (model,), usage((tokens, 100), {"cache_read": cached}, {"reasoning": reasoning})
    )
    assert theirs is not None
    assert ours == pytest.approx(theirs)


TABLE: dict[str, dict[str, Any]] = {
    "a/plain": {"input_cost_per_token": 1, "output_cost_per_token": 2},
    "bare": {"litellm_provider": "a", "input_cost_per_token": 1, "output_cost_per_token": 2},
    "vertex": {"litellm_provider": "vertex_ai-models", "input_cost_per_token": 3, "output_cost_per_token": 3},
    "a/all": {
        "input_cost_per_token": 1,
        "output_cost_per_token": 2,
        "output_cost_per_reasoning_token": 3,
        "output_cost_per_audio_token": 5,
        "input_cost_per_audio_token": 7,
        "cache_read_input_token_cost": 0.1,
        "cache_creation_input_token_cost": 1.25,
        "cache_creation_input_token_cost_above_1hr": 2.0,
        "input_cost_per_token_flex": 0.5,
        "output_cost_per_token_flex": 1,
        "cache_read_input_token_cost_flex": 0.05,
    },
    "a/long": {
        "input_cost_per_token": 1,
        "output_cost_per_token": 2,
        "input_cost_per_token_above_1k_tokens": 10,
        "output_cost_per_token_above_1k_tokens": 20,
        "input_cost_per_token_above_2k_tokens": 100,
        "output_cost_per_token_above_2k_tokens": 200,
    },
    "a/odd": {"input_cost_per_token": "unknown", "output_cost_per_token": 2},
}


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import json

    (tmp_path / "model_prices_and_context_window_backup.json").write_text(json.dumps(TABLE))
    spec = ModuleSpec("litellm", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(prices, "find_spec", lambda _: spec)
    monkeypatch.setattr(prices, "_table", prices._table.__wrapped__)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("provider", "model", "used", "usd"),
    [
        ("a", "plain", usage((10, 1)), 12),
        ("a", "bare", usage((10, 1)), 12),
        ("b", "bare", usage((10, 1)), None),
        ("a", "unknown", usage((10, 1)), None),
        ("google_vertexai", "vertex", usage((10, 1)), 33),
        ("a", "plain", usage((10, 1), {"cache_read": 4}, {"reasoning": 1}), 12),
        (
            "a",
            "all",
            usage((10, 10), {"cache_read": 4, "cache_creation": 2}, {"reasoning": 3}),
            4 + 0.4 + 2.5 + 14 + 9,
        ),
        ("a", "all", usage((10, 10), {"audio": 1}, {"audio": 1}), 9 + 7 + 18 + 5),
        (
            "a",
            "all",
            usage((10, 0), {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3}),
            5 + 2.5 + 6,
        ),
        ("a", "plain", usage((10, 0), {"ephemeral_1h_input_tokens": 3}), None),
        ("a", "all", usage((10, 1), {"flex_cache_read": 4, "flex": 6}, {"flex": 1}), 3 + 0.2 + 1),
        ("a", "plain", usage((10, 1), {"flex": 10}, {"flex": 1}), None),
        ("a", "long", usage((1000, 1)), 1002),
        ("a", "long", usage((1001, 1)), 10_030),
        ("a", "long", usage((2001, 1)), 200_300),
        ("a", "plain", usage((3, 1), {"cache_read": 4}), None),
        ("a", "odd", usage((10, 1)), None),
        ("a", "odd", usage((0, 1)), 2),
    ],
)
def test_what_a_call_costs(provider: str, model: str, used: Any, usd: float | None) -> None:
    found = price_of(provider, ("", "not-this", model), used)
    assert found == (None if usd is None else pytest.approx(usd))


def test_without_a_table_no_price_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(prices, "_table", prices._table.__wrapped__)
    monkeypatch.setattr(prices, "find_spec", lambda _: None)
    assert price_of("openai", ("gpt-4o-mini",), usage((10, 1))) is None


def test_what_a_message_says_of_its_model() -> None:
    message = AIMessage("x", usage_metadata={"input_tokens": 10, "output_tokens": 0, "total_tokens": 10})
    asked = {"ls_provider": "openai", "ls_model_name": "gpt-4o-mini"}
    told = answer_of_message(message, fresh=True, asked=asked)
    assert (told.model, told.usd) == ("gpt-4o-mini", pytest.approx(1.5e-6))
    message.response_metadata = {"model_name": "gpt-4o-mini-of-mine", "model_provider": "mine"}
    told = answer_of_message(message, fresh=True, asked=asked)
    assert (told.model, told.usd) == ("gpt-4o-mini-of-mine", pytest.approx(1.5e-6)), (
        "as DSPy does it: by what was asked for"
    )
    assert answer_of_message(message, fresh=True, asked={}).usd is None
    message.response_metadata = {"model": "gpt-4o-mini", "model_provider": "openai"}
    assert answer_of_message(message, fresh=True, asked={}).usd == pytest.approx(1.5e-6)
