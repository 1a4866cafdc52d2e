"""A text in front of prompts of DSPy's language models, marked where a provider wants its cache marked."""

import dataclasses
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal, NamedTuple, cast

from mahsm._model_calls import calls

Mark = Literal["config", "block"]
"""How the end of a prefix is marked: by DSPy's `CacheConfig`, or, for LiteLLM, in the message itself."""


class Given(NamedTuple):
    """The arguments of a call of a language model.

    Attributes:
        prompt: A string, or a `dspy.lm15.Request`.
        messages: In place of it, messages.
        options: The other arguments.
    """

    prompt: Any
    messages: Any
    options: dict[str, Any]


def prefixed(lm: Any, given: Given) -> Given:
    """Return the arguments of a call with the text in front that is set here, if one is."""
    text = calls.here().prompt_prefix
    if text is None:
        return given
    if isinstance(given.prompt, str):
        # Without a system prompt there is nothing to mark the end of.
        return given._replace(prompt=f"{text}\n\n{given.prompt}")
    mark, config = _mark(lm, given.options), {"prompt_cache": _config()}
    request = given.options.get("request") if given.prompt is None else given.prompt
    if isinstance(request, cast("Any", sys.modules["dspy"]).lm15.Request):
        request, rest = _in_request(text, request, mark), {**given.options}
        rest.pop("request", None)
        return Given(request, None, rest)
    messages = given.messages
    if not messages:
        return given
    changed = _in_messages(text, messages, mark)
    if _are_of_an_adapter(messages):
        messages[:] = changed  # DSPy would not know another list, and warn
        changed = messages
    return Given(None, changed, {**given.options, **(config if mark == "config" else {})})


def _in_messages(text: str, messages: list[Any], mark: Mark | None) -> list[Any]:
    first: Mapping[str, Any] = messages[0]
    if first["role"] not in ("system", "developer"):
        return [{"role": "system", "content": _marked(text) if mark == "block" else text}, *messages]
    content = first["content"]
    if isinstance(content, str):
        joined = f"{text}\n\n{content}"
        content = _marked(joined) if mark == "block" else joined
    else:
        content = [{"type": "text", "text": text}, *content]
    return [{**first, "content": content}, *messages[1:]]


def _marked(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]


def _in_request(text: str, request: Any, mark: Mark | None) -> Any:
    part = cast("Any", sys.modules["dspy"]).lm15.TextPart
    system = request.system
    if isinstance(system, str) or not system:
        joined: Any = f"{text}\n\n{system}" if system else text
    else:
        joined = (part(text), *system)
    config = request.config
    if mark == "config" and config.cache is None:
        config = dataclasses.replace(config, cache=_config())
    return dataclasses.replace(request, system=joined, config=config)


def _config() -> Any:
    """Return the config by which DSPy marks the end of the system prompt."""
    return cast("Any", sys.modules["dspy"]).lm15.CacheConfig(prefix="stable")


def _mark(lm: Any, options: Mapping[str, Any]) -> Mark | None:
    """Return how the end of the prefix is marked; None if the provider's cache needs no mark, or has one.

    Only Anthropic's models need it. DSPy calls them itself, or by LiteLLM, which has no `CacheConfig`.
    """
    dspy: Any = sys.modules["dspy"]
    provider, _, model = lm.model.partition("/")
    is_claude = "anthropic" in provider or "claude" in model
    own = {**lm.kwargs, **options}.get("prompt_cache") is not None
    if not is_claude or own or not isinstance(lm, dspy.LM) or lm.model_type == "text":
        return None
    kind = cast("type[Any]", type(lm))
    if kind.forward is not dspy.LM.forward or kind.aforward is not dspy.LM.aforward:
        return None
    if lm.engine != "auto":
        return "block" if lm.engine == "litellm" else "config"
    # DSPy has no public name for what it does before each call.
    selection: Any = import_module("dspy.clients.backend_selection")
    return "config" if selection.select_backend(lm, options).native else "block"


def _are_of_an_adapter(messages: Any) -> bool:
    """Return whether an adapter of DSPy's has made a list of messages for this call."""
    made: Any = getattr(sys.modules.get("dspy.clients._deprecation"), "_adapter_call", None)
    call: Any = None if made is None else made.get()
    return call is not None and call[1] is messages
