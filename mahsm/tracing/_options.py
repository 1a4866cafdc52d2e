"""Options of models for traces: an allowlist of generation parameters, by name and by shape of the value.

Other options are not shown, because clients take credentials under names that cannot be listed. A value of
another shape is not shown either, because a user may have passed a key as the wrong option.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from mahsm._common import MASK, redacted

_NUMBERS = (
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
    "repetition_penalty",
    "rollout_id",
    "seed",
    "stream",
    "temperature",
    "timeout",
    "top_k",
    "top_logprobs",
    "top_p",
)
"""Options whose values are numbers or booleans."""
_WORDS = ("reasoning_effort", "service_tier", "truncation", "verbosity")
_WORD = re.compile(r"[a-z_]{1,16}")
_STOP, _STOPS = 24, 16
"""The most characters of a stop sequence (fewer than a key has), and the most sequences."""


def shown_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a trace shows: numbers, booleans, short words, stop sequences, and names of
    types and tools.
    """
    found = {name: show(options[name]) for name, show in _SHOWN.items() if options.get(name) is not None}
    found["tool_choice"] = _tool(options)
    return {name: value for name, value in sorted(found.items()) if value is not None}


# Booleans are integers in Python, so they pass, too.
def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def _stops(value: Any) -> list[str] | None:
    texts = cast(
        "list[Any]", [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
    )
    return [_stop(text) for text in texts[:_STOPS] if isinstance(text, str)] or None


def _stop(text: str) -> str:
    return MASK if len(text) > _STOP or redacted(text) != text else text


def _type(value: Any) -> str | None:
    """Return the requested type of answer: the name of a class, or a word such as "json_object"."""
    if isinstance(value, type):
        return value.__name__
    return _word(cast("Mapping[str, Any]", value).get("type")) if isinstance(value, Mapping) else _word(value)


def _effort(value: Any) -> str | None:
    """Return the effort of a `reasoning` option of OpenAI's Responses API."""
    return _word(cast("Mapping[str, Any]", value).get("effort")) if isinstance(value, Mapping) else None


def _thinking(value: Any) -> float | None:
    """Return the token budget of Anthropic's `thinking` option."""
    return (
        _number(cast("Mapping[str, Any]", value).get("budget_tokens")) if isinstance(value, Mapping) else None
    )


def _tool(options: Mapping[str, Any]) -> str | None:
    """Return the tool choice: a word such as "auto", or the name of one of the tools."""
    choice: Any = options.get("tool_choice")
    name = _name(choice)
    tools: Any = options.get("tools")
    known = (
        isinstance(tools, list | tuple) and name is not None and name in map(_name, cast("list[Any]", tools))
    )
    return name if known else _word(choice)


def _name(tool: Any) -> str | None:
    """Return the name of a tool: `{"function": {"name": ...}}`, or `{"name": ...}`."""
    if not isinstance(tool, Mapping):
        return None
    given = cast("Mapping[str, Any]", tool)
    inner = given.get("function", given)
    name: Any = cast("Mapping[str, Any]", inner).get("name") if isinstance(inner, Mapping) else None
    return name if isinstance(name, str) and redacted(name) == name else None


_SHOWN: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_NUMBERS, _number),
    **dict.fromkeys(_WORDS, _word),
    "reasoning": _effort,
    "response_format": _type,
    "stop": _stops,
    "thinking": _thinking,
}
