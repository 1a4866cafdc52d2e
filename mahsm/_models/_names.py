"""Names of models: aliases, the default of the context, and the full name that a client takes."""

import re
from typing import Any, cast

from mahsm import _context
from mahsm._common import nearest, shown
from mahsm._model_calls import priced_models
from mahsm._models import _providers
from mahsm.errors import ModelError

_FAMILIES = (
    (re.compile(r"(gpt|chatgpt|o[1-9]|text-embedding|davinci|babbage)\b"), "openai"),
    (re.compile(r"claude\b"), "anthropic"),
    (re.compile(r"gemini\b"), "gemini"),
    (re.compile(r"deepseek\b"), "deepseek"),
    (re.compile(r"grok\b"), "xai"),
    (re.compile(r"(mistral|codestral|magistral|ministral|pixtral)\b"), "mistral"),
    (re.compile(r"command\b"), "cohere"),
)
"""Names that begin like this need no provider: `gpt-4` is `openai/gpt-4`."""


def default() -> str:
    """Return the default model of the context.

    Raises:
        ModelError: if there is none.
    """
    name = _context.config("models.default")
    if name is None:
        raise ModelError(
            "models: no model is given, and the context has no default. Pass one, "
            "models('openai/gpt-4o-mini', prompt); or set it: with_context(models={'default': "
            "'openai/gpt-4o-mini'}), the environment variable MAHSM_MODEL, or `mahsm configure set "
            "models.default openai/gpt-4o-mini`."
        )
    if not isinstance(name, str) or not name:
        raise ModelError(
            f"models: the context's models.default is {shown(name)}; expected a name, such as "
            "'openai/gpt-4o-mini'."
        )
    return name


def full(name: str) -> str:
    """Return the full name of a model: "gpt-4" is "openai/gpt-4".

    Raises:
        ModelError: if the provider is unknown, or cannot be told from the name.
    """
    seen = [name]
    while isinstance(alias := _alias(seen[-1]), str):
        if alias in seen:
            raise ModelError(f"models: the alias {name!r} leads to itself: {' -> '.join([*seen, alias])}.")
        seen.append(alias)
    name = seen[-1]
    if alias is not None:
        return name
    provider, slash, model = name.partition("/")
    if slash:
        if not model or not provider:
            raise ModelError(f"models: {name!r} is not a name; expected 'provider/model'.")
        _providers.check(provider, name)
        return name
    if (family := _family(name)) is not None:
        return f"{family}/{name}"
    found = sorted(f"{provider}/{model}" for provider, model in priced_models() if model == name)
    known = {model for _, model in priced_models()} | set(_providers.registry.names())
    hint = f"Write one of {', '.join(map(repr, found[:3]))}." if found else nearest(name, known)
    raise ModelError(f"models: {name!r} has no provider; expected 'provider/model'. {hint}".rstrip())


def _alias(name: str) -> Any:
    """Return what a name stands for: another name, or what is registered under it; None for neither."""
    aliases: Any = _context.config("models.aliases")
    alias: Any = cast("dict[str, Any]", aliases).get(name) if isinstance(aliases, dict) else None
    if isinstance(alias, str):
        return alias
    return _providers.registry.registered(name) if _family(name) else _providers.find(name)


def _family(name: str) -> str | None:
    """Return the provider of the family that a name belongs to, if it needs no provider."""
    return next((provider for family, provider in _FAMILIES if family.match(name)), None)
