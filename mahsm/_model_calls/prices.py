"""Prices of models whose clients do not report a cost, from the table of prices in LiteLLM's package.

DSPy uses the same table. It is read as a file, once, when the first answer needs a price: importing LiteLLM
takes seconds, and may access the network.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mahsm._common import Answer, reported

_TABLE = "model_prices_and_context_window_backup.json"

_NAMES: dict[str, tuple[str, ...]] = {
    "amazon_bedrock": ("bedrock", "bedrock_converse"),
    "azure_openai": ("azure",),
    "bedrock_converse": ("bedrock_converse", "bedrock"),
    "fireworks": ("fireworks_ai",),
    "google_anthropic_vertex": ("vertex_ai",),
    "google_genai": ("gemini",),
    "google_vertexai": ("vertex_ai", "gemini"),
    "mistralai": ("mistral",),
    "together": ("together_ai",),
}
"""From LangChain's names of providers to those in the table, where they differ."""

_INPUTS = {
    "cache_read": "cache_read_input_token_cost",
    "cache_creation": "cache_creation_input_token_cost",
    "ephemeral_5m_input_tokens": "cache_creation_input_token_cost",
    "ephemeral_1h_input_tokens": "cache_creation_input_token_cost_above_1hr",
    "audio": "input_cost_per_audio_token",
}
_OUTPUTS = {"reasoning": "output_cost_per_reasoning_token", "audio": "output_cost_per_audio_token"}
_WRITTEN = ("cache_creation", "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
_TIERS = ("flex", "priority")


def price_of(
    provider: str, models: tuple[str, ...], usage: Mapping[str, Any], *, tier: str | None = None
) -> float | None:
    """Return the price of a call in US dollars, or None if unknown.

    Args:
        provider: LangChain's name of the provider.
        models: Names of the model; the first one in the table is used.
        usage: LangChain's `usage_metadata`, with the details of its tokens.
        tier: The suffix of the prices in the table, such as `"_batches"`; by default that of the service tier
            in the details.

    Example:
        >>> usage = {"input_tokens": 1000, "output_tokens": 100, "input_token_details": {"cache_read": 600}}
        >>> price_of("openai", ("gpt-4o-mini",), usage)
        0.000165
        >>> price_of("openai", ("homemade",), usage)
    """
    entry = next((found for model in models if model and (found := _entry(provider, model))), None)
    if entry is None:
        return None
    total = reported(usage.get("input_tokens")) or 0.0
    tier, long = _tier(usage) if tier is None else tier, _long(entry, total)
    parts = [
        *_parts(total, usage.get("input_token_details"), "input_cost_per_token", _INPUTS),
        *_parts(
            usage.get("output_tokens"), usage.get("output_token_details"), "output_cost_per_token", _OUTPUTS
        ),
    ]
    usd = 0.0
    for tokens, own, plain in parts:
        rates = (entry.get(own + long + tier), entry.get(plain + long + tier))
        rate = next((rate for rate in rates if rate is not None), None)
        if tokens < 0 or (tokens and rate is None):
            return None
        usd += tokens * (rate or 0.0)
    return round(usd, 12)


BATCH_SHARE = 0.5
"""The price of a batch job's request as a share of an ordinary one, where the table has no price for it: the
discount that OpenAI, Anthropic and Gemini give."""


def own_price(answer: Answer, model: str, *, batch: bool) -> Answer:
    """Return an answer with its price from the table, and `share` set.

    Args:
        answer: The answer.
        model: The model as DSPy names it.
        batch: A batch job has answered.

    Example:
        >>> answer = Answer("gpt-4o-mini", input_tokens=1000, output_tokens=100)
        >>> own_price(answer, "openai/gpt-4o-mini", batch=True).usd
        0.000105
    """
    head, slash, rest = model.partition("/")
    provider, name = (head, rest) if slash else ("openai", model)
    share = BATCH_SHARE if batch else 1.0
    details = {"cache_read": answer.cache_read_tokens, "cache_creation": answer.cache_creation_tokens}
    usage = {
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        "input_token_details": {kind: tokens for kind, tokens in details.items() if tokens},
    }
    models = (answer.model, name)
    usd = price_of(provider, models, usage, tier="_batches") if batch and answer.known else None
    if usd is None and answer.known:
        full = price_of(provider, models, usage)
        usd = None if full is None else round(full * share, 12)
    return replace(answer, usd=usd, share=share)


def has_batch_price(provider: str, model: str) -> bool:
    """Return whether the table has prices of a model's batch jobs."""
    return "input_cost_per_token_batches" in (_entry(provider, model) or {})


def rates_of(provider: str, model: str) -> tuple[float | None, float | None]:
    """Return the prices of a million input and a million output tokens, in US dollars; None if unknown.

    Args:
        provider: Such as "openai".
        model: The name of the model, without its provider.

    Example:
        >>> rates_of("openai", "gpt-4o-mini")
        (0.15, 0.6)
    """
    entry = _entry(provider, model) or {}
    prices = (entry.get("input_cost_per_token"), entry.get("output_cost_per_token"))
    given, taken = (None if price is None else round(price * 1_000_000, 6) for price in prices)
    return given, taken


def cached_in(details: Mapping[str, Any] | None) -> tuple[int, int]:
    """Return the input tokens that a provider read from its cache, and those that it wrote to it.

    Args:
        details: LangChain's `input_token_details`. Some names have a service tier in front, and Anthropic's
            say for how long an entry is kept, in place of `cache_creation`.

    Example:
        >>> cached_in({"cache_read": 600, "cache_creation": 0, "ephemeral_1h_input_tokens": 300})
        (600, 300)
    """
    read, written = 0, 0
    for name, count in (details or {}).items():
        kind, tokens = _kind(name), int(reported(count) or 0)
        read += tokens * (kind == "cache_read")
        written += tokens * (kind in _WRITTEN)
    return read, written


def _kind(name: str) -> str:
    """Return a kind of tokens without the service tier."""
    return name.partition("_")[2] if name.startswith(_TIERS) else name


def _parts(
    total: Any, details: Any, plain: str, kinds: Mapping[str, str]
) -> Iterator[tuple[float, str, str]]:
    """Yield the tokens of each kind, the name of their price, and the name of the price to fall back to."""
    left, given = reported(total) or 0.0, dict[str, Any](details or {})
    for name, count in given.items():
        own = kinds.get(_kind(name))
        if own is not None and (tokens := reported(count) or 0.0):
            left -= tokens
            # Entries that are cached for longer cost more, so the plain price would be too low for them.
            yield tokens, own, own if own.endswith("_1hr") else plain
    yield left, plain, plain


def _tier(usage: Mapping[str, Any]) -> str:
    """Return the suffix of the prices of the service tier that answered."""
    details: Mapping[str, Any] = usage.get("input_token_details") or {}
    return next((f"_{tier}" for tier in _TIERS if any(name.startswith(tier) for name in details)), "")


def _long(entry: Mapping[str, float], tokens: float) -> str:
    """Return the suffix of the prices of a prompt of so many tokens."""
    found = (re.fullmatch(r"input_cost_per_token_above_(\d+)k_tokens", name) for name in entry)
    passed = [int(match[1]) for match in found if match and tokens > 1000 * int(match[1])]
    return f"_above_{max(passed)}k_tokens" if passed else ""


def _entry(provider: str, model: str) -> Mapping[str, float] | None:
    for name in _NAMES.get(provider, (provider,)):
        for key in (f"{name}/{model}", model):
            of, prices = _table().get(key, ("", {}))
            # The table has providers such as vertex_ai-language-models.
            if prices and (key != model or of == name or of.startswith(f"{name}-")):
                return prices
    return None


@cache
def _table() -> dict[str, tuple[str, dict[str, float]]]:
    """Return a dict from a model's name to its provider and the prices of each kind of token."""
    spec = find_spec("litellm")
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / _TABLE if folders else None
    if path is None or not path.is_file():
        return {}
    entries: dict[str, dict[str, Any]] = json.loads(path.read_bytes())
    return {
        model: (str(entry.get("litellm_provider", "")), _costs(entry)) for model, entry in entries.items()
    }


def _costs(entry: Mapping[str, Any]) -> dict[str, float]:
    given = {name: reported(value) for name, value in entry.items() if "cost" in name and "token" in name}
    return {name: value for name, value in given.items() if value is not None}


@cache
def priced_models() -> frozenset[tuple[str, str]]:
    """Return the pairs of provider and model whose tokens have a price, as DSPy names them."""
    return frozenset(
        _named(name, re.split(r"[-_][a-z0-9]+[-_]models", provider)[0])
        for name, (provider, prices) in _table().items()
        if re.fullmatch(r"[\w.-]+", provider) and "output_cost_per_token" in prices
    )


def _named(name: str, provider: str) -> tuple[str, str]:
    prefix, slash, model = name.partition("/")
    return (prefix, model) if slash and prefix == provider else (provider, name)
