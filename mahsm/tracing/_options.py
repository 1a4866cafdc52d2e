"""Which options of models a trace shows: those that are known to hold no secrets."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mahsm._redact import redacted

_SHOWN = frozenset(
    {
        "best_of",
        "cache",
        "frequency_penalty",
        "logprobs",
        "max_completion_tokens",
        "max_output_tokens",
        "max_tokens",
        "min_p",
        "n",
        "num_retries",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning_effort",
        "repetition_penalty",
        "rollout_id",
        "seed",
        "service_tier",
        "stop",
        "stream",
        "temperature",
        "timeout",
        "tool_choice",
        "top_k",
        "top_logprobs",
        "top_p",
        "truncation",
        "verbosity",
    }
)
_MOST = 200
"""Characters of a text, entries of a list."""


def shown_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that a trace shows: plain values, and the type of a response format."""
    found = {name: _plain(options[name]) for name in sorted(_SHOWN & options.keys())}
    if "response_format" in options:
        found["response_format"] = _type(options["response_format"])
    return {name: value for name, value in found.items() if value is not None}


def _plain(value: Any) -> Any:
    """The value, if it is a number, a text or a list of texts."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redacted(value)[:_MOST]
    if isinstance(value, list | tuple):
        texts = [redacted(text)[:_MOST] for text in cast("Sequence[Any]", value)[:_MOST] if isinstance(text, str)]
        return texts or None
    return None


def _type(value: Any) -> str | None:
    """What kind of answer is asked for: "json_object", or the name of a model's class."""
    kind: Any = (
        cast("Mapping[str, Any]", value).get("type") if isinstance(value, Mapping) else getattr(value, "__name__", value)
    )
    return _plain(kind) if isinstance(kind, str) else None
