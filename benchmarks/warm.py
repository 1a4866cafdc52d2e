"""What `warm=1` does for a provider's prompt cache: the share of the common beginning of the prompts that is
read from it, the price, and the seconds, beside the same run without it.

The provider is a server on loopback, which caches as OpenAI's and Anthropic's do: a beginning is in the cache
once an answer to it is there.
"""

import time
from typing import Any

import dspy

from benchmarks.report import Figure
from mahsm import dspy_node, usage, vmap
from mahsm.testing import Bill, ModelServer, PromptCache

Rows = list[list[str]]

PREFIX_TOKENS = 2_000
CHARACTERS = 4
MODELS = {"OpenAI": "openai/fake", "Anthropic": "anthropic/claude-fake"}


def once(model: str, warm: int, items: int, at_once: int, latency: float) -> dict[str, float]:
    """One run: what the edge counted, and what the provider charged."""
    handbook = ("The handbook has this to say. " * PREFIX_TOKENS)[: PREFIX_TOKENS * CHARACTERS]
    ask = dspy_node(dspy.Predict("item -> answer"), prompt_prefix=handbook)
    edge = vmap(ask, batch_key="questions", out_key="answers", max_concurrency=at_once, warm=warm)
    bill, began = Bill(), time.perf_counter()
    server = ModelServer({"answer": "yes"}, latency=latency, bill=bill, prompt_cache=PromptCache())
    with server, dspy.context(lm=server.lm(model)), usage() as used:
        edge.invoke({"questions": [f"question {number}" for number in range(items)]})
    cached = [charge.cached_tokens for charge in bill]
    assert used.cache_read_tokens == sum(cached)
    return {
        "seconds": time.perf_counter() - began,
        "share": sum(cached) / (max(cached) * (items - 1)),
        "missed": cached.count(0),
        "input_tokens": used.input_tokens,
        "cache_read_tokens": used.cache_read_tokens,
        "cache_creation_tokens": used.cache_creation_tokens,
        "usd": bill.usd,
    }


def run(*, quick: bool = False) -> tuple[list[Figure], Rows, dict[str, Any]]:
    """Figures, a table, and what was measured, for both providers, with and without `warm=1`."""
    items, at_once, latency = (12, 4, 0.1) if quick else (200, 64, 1.0)
    found = {
        name: {f"warm={warm}": once(model, warm, items, at_once, latency) for warm in (0, 1)}
        for name, model in MODELS.items()
    }
    figures, rows = list[Figure](), [["prompt cache", "", "missed", "read, of what can be", "USD", "s"]]
    for name, runs in found.items():
        cold, warm = runs["warm=0"], runs["warm=1"]
        figures += [
            Figure(f"{name}: read from the cache, of what can be", warm["share"], 0.99, "", at_least=True),
            Figure(f"{name}: price, warm=1 / warm=0", warm["usd"] / cold["usd"], 1.0),
        ]
        rows += [
            [
                name,
                how,
                f"{one['missed']}",
                f"{one['share']:.3f}",
                f"{one['usd']:.4f}",
                f"{one['seconds']:.1f}",
            ]
            for how, one in runs.items()
        ]
    return figures, rows, found
