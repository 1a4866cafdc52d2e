"""Input tokens that providers read from their prompt caches, or wrote to them: in usage, budgets, prices."""

from typing import Any

import dspy
import pytest
from dspy import lm15
from dspy.clients.call_result import usage_dict
from langchain_core.messages import AIMessage

from mahsm import Budget, budget, dspy_node, usage, vmap
from mahsm._model_calls.dspy.answers import answer_of
from mahsm._model_calls.langchain import answer_of_message
from mahsm.testing import Bill, ModelServer, PromptCache
from tests.helpers import chat_model, graph_of

TEXT = "The handbook says so. " * 400


def edge_of(**options: Any) -> Any:
    ask = dspy_node(dspy.Predict("item -> answer"), prompt_prefix=TEXT)
    return vmap(ask, batch_key="xs", out_key="ys", name="ask", warm=1, **options)


@pytest.mark.parametrize(
    ("model", "options", "reads", "writes"),
    [
        ("openai/fake", {}, 2, 0),
        ("openai/fake", {"model_type": "responses"}, 2, 0),
        ("openai/fake", {"engine": "litellm"}, 2, 0),
        ("anthropic/claude-fake", {}, 2, 1),
        ("anthropic/claude-fake", {"engine": "litellm"}, 2, 1),
    ],
)
def test_usage_is_what_the_provider_charges(
    model: str, options: dict[str, Any], reads: int, writes: int
) -> None:
    server = ModelServer({"answer": "yes"}, prompt_cache=PromptCache())
    with server, dspy.context(lm=server.lm(model, **options)), usage() as used:
        graph_of(edge_of()).invoke({"xs": ["a?", "b?", "c?"]})
    read = sum(charge.cached_tokens for charge in server.bill)
    written = sum(charge.written_tokens for charge in server.bill)
    assert (read > reads * 2_000, written > writes * 2_000 - 1) == (True, bool(writes) or written == 0)
    parts = [used, used.by_node["ask/Predict"], *used.by_model.values(), used.runs[0].usage]
    assert [(one.cache_read_tokens, one.cache_creation_tokens) for one in parts] == [(read, written)] * 4
    assert used.input_tokens == sum(charge.input_tokens for charge in server.bill)
    assert f"cache_read_tokens={read}" in repr(used)


@pytest.mark.parametrize(
    ("model", "discount"),
    [("openai/gpt-4o-mini", {"openai_read": 0.5}), ("anthropic/claude-sonnet-4-5", {})],
)
def test_the_price_is_what_the_provider_charges(model: str, discount: dict[str, float]) -> None:
    prices = {"gpt-4o-mini": (0.15, 0.6), "claude-sonnet-4-5": (3.0, 15.0)}
    server = ModelServer({"answer": "yes"}, bill=Bill(prices, **discount), prompt_cache=PromptCache())
    with server, dspy.context(lm=server.lm(model)), usage() as used, budget(usd=1) as spent:
        edge_of().invoke({"xs": ["a?", "b?", "c?"]})
    assert used.usd == pytest.approx(server.bill.usd)
    assert spent.usd == pytest.approx(server.bill.usd)
    assert spent.cache_read_tokens == used.cache_read_tokens > 0


def test_langchain_models_are_counted() -> None:
    server = ModelServer("yes", bill=Bill({"gpt-4o-mini": (0.15, 0.6)}), prompt_cache=PromptCache())
    with server, usage() as used:
        model = chat_model(server.base_url)
        for question in ("a?", "b?"):
            model.invoke(TEXT + question)
    assert used.cache_read_tokens == server.bill[1].cached_tokens > 2_000
    assert used.usd == pytest.approx(server.bill.usd)


def test_answers_of_the_clients_cache_take_no_tokens() -> None:
    server = ModelServer({"answer": "yes"}, prompt_cache=PromptCache())
    with server, dspy.context(lm=server.lm(cache=True, rollout_id=7, temperature=1.0)):
        edge_of().invoke({"xs": ["a?", "b?"]})
        with usage() as used:
            edge_of().invoke({"xs": ["a?", "b?"]})
    assert (used.cached, used.cache_read_tokens) == (2, 0)


@pytest.mark.parametrize(
    ("provider", "reported", "inputs"),
    [
        ("openai", {"input_tokens": 1000, "cache_read_tokens": 600, "cache_write_tokens": 300}, 1000),
        ("anthropic", {"input_tokens": 100, "cache_read_tokens": 600, "cache_write_tokens": 300}, 1000),
        ("gemini", {"input_tokens": 1000, "cache_read_tokens": 600}, 1000),
    ],
)
def test_providers_report_them_differently(provider: str, reported: dict[str, int], inputs: int) -> None:
    used = lm15.Usage(output_tokens=10, **reported)
    message = lm15.Message.assistant([lm15.TextPart("x")])
    response = lm15.Response(id=None, model="m", message=message, finish_reason="stop", usage=used)
    answer = answer_of({"usage": usage_dict(response, provider), "model": "m"}, may_be_cached=False)
    written = reported.get("cache_write_tokens", 0)
    assert (answer.input_tokens, answer.cache_read_tokens, answer.cache_creation_tokens) == (
        inputs,
        600,
        written,
    )


@pytest.mark.parametrize(
    "reported",
    [
        {"prompt_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 300}},
        {"cache_read_input_tokens": 600, "cache_creation_input_tokens": 300},
    ],
)
def test_clients_of_users_own(reported: dict[str, Any]) -> None:
    answer = answer_of({"usage": {"prompt_tokens": 1000, **reported}}, may_be_cached=False)
    assert (answer.cache_read_tokens, answer.cache_creation_tokens) == (600, 300)


@pytest.mark.parametrize(
    ("details", "cached"),
    [
        ({"cache_read": 600, "cache_creation": 300}, (600, 300)),
        ({"cache_read": 600, "cache_creation": 0, "ephemeral_5m_input_tokens": 300}, (600, 300)),
        ({"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200}, (0, 300)),
        ({"flex_cache_read": 600, "flex": 400}, (600, 0)),
        ({"audio": 5}, (0, 0)),
    ],
)
def test_details_of_langchains(details: Any, cached: tuple[int, int]) -> None:
    tokens: Any = {"input_tokens": 1000, "output_tokens": 10, "total_tokens": 1010}
    message = AIMessage("x", usage_metadata={**tokens, "input_token_details": details})
    answer = answer_of_message(message, fresh=True, asked={})
    assert (answer.cache_read_tokens, answer.cache_creation_tokens) == cached


def test_prices_of_the_users_own_may_have_one_for_cached_tokens() -> None:
    server = ModelServer({"answer": "yes"}, prompt_cache=PromptCache())
    full, read = {"fake": (1.0, 4.0)}, {"fake": (1.0, 4.0, 0.25)}
    with server, dspy.context(lm=server.lm()), usage(full) as dear, budget(usd=1, prices=read) as cheap:
        edge_of().invoke({"xs": ["a?", "b?"]})
    assert dear.usd == pytest.approx((dear.input_tokens + 4 * dear.output_tokens) / 1e6)
    assert cheap.usd == pytest.approx(dear.usd - 0.75 * dear.cache_read_tokens / 1e6)
    with pytest.raises(Exception, match="expected US dollars per million"):
        Budget(usd=1, prices={"fake": (1.0, 2.0, 3.0, 4.0)})  # type: ignore[dict-item]
