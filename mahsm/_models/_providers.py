"""Providers: their names, the variables of their credentials, and what is registered under a name."""

import re
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mahsm._common import Registry, nearest, shown
from mahsm._model_calls import priced_models
from mahsm.errors import ModelError

_VARIABLES = {
    "azure": ("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"),
    "bedrock": ("AWS_BEARER_TOKEN_BEDROCK",),
    "cohere": ("COHERE_API_KEY", "CO_API_KEY"),
    "fireworks_ai": ("FIREWORKS_AI_API_KEY", "FIREWORKS_API_KEY"),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "huggingface": ("HF_TOKEN", "HUGGINGFACE_API_KEY"),
    "moonshotai": ("MOONSHOTAI_API_KEY", "MOONSHOT_API_KEY"),
    "nvidia_nim": ("NVIDIA_NIM_API_KEY", "NVIDIA_API_KEY"),
    "perplexity": ("PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY"),
    "together_ai": ("TOGETHERAI_API_KEY", "TOGETHER_AI_API_KEY", "TOGETHER_API_KEY"),
    "vertex_ai": (),
}
"""The environment variables that DSPy's clients and LiteLLM read, where they are not `<PROVIDER>_API_KEY`."""

_HOSTED = {
    *("anthropic", "cerebras", "cohere", "deepseek", "fireworks_ai", "gemini", "groq", "meta", "mistral"),
    *("moonshotai", "openai", "openrouter", "perplexity", "together_ai", "xai", "zai"),
}
"""Providers that take no call without a key."""

_OWN = {"hosted_vllm", "litellm_proxy", "llamafile", "lm_studio", "ollama", "ollama_chat", "sglang", "vllm"}
"""Servers of your own, and gateways: they have no prices, and may take calls without a key."""


def of(model: str) -> str:
    """Return the provider of a model; as for DSPy, it is "openai" for a name without one."""
    return model.partition("/")[0] if "/" in model else "openai"


def variables(provider: str) -> tuple[str, ...]:
    """Return the environment variables of a provider's credential; the first one found is used."""
    if (declared := _declared().get(provider)) is not None and (names := tuple(declared.access.env_keys)):
        return names
    return _VARIABLES.get(provider, (f"{provider.upper().replace('-', '_')}_API_KEY",))


def needs_key(provider: str) -> bool:
    """Return whether the provider takes no call without a key."""
    return provider in _HOSTED and find(provider) is None


def known() -> set[str]:
    """Return the names of all providers: with prices, of your own servers, and registered ones."""
    registered = {name.partition("/")[0] for name in registry.names()}
    priced = {provider for provider, _ in priced_models()}
    return priced | _HOSTED | _OWN | set(_VARIABLES) | registered | _declared().keys()


def _declared() -> dict[str, Any]:
    """Return what was declared with `dspy.lm15.register_provider`, by ids and aliases."""
    # Code that declares a provider has imported DSPy.
    lm15: Any = sys.modules.get("dspy.lm15")
    definitions = [] if lm15 is None else [one.definition for one in lm15.registered_providers()]
    return {name: one for one in definitions for name in (one.id, *one.aliases)}


@cache
def _of_litellm() -> frozenset[str]:
    """Return the providers that LiteLLM lists. Its source is read, since importing it takes seconds."""
    spec = find_spec("litellm")
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / "types" / "utils.py" if folders else None
    if path is None or not path.is_file():
        return frozenset()
    listed = path.read_text(encoding="utf-8").partition("class LlmProviders(")[2].partition("\nclass ")[0]
    return frozenset(re.findall(r'^    [A-Z0-9_]+ = "([^"]+)"', listed, re.MULTILINE))


def check(provider: str, model: str) -> None:
    """Check that a provider is known.

    Raises:
        ModelError: if it is not, with the names that are nearest.
    """
    if provider in _HOSTED | _OWN or find(provider) is not None:
        return
    # LiteLLM lists many that are no providers of models, so errors and `models.providers` do not name them.
    if provider not in (names := known()) and provider not in _of_litellm():
        raise ModelError(
            f"models: {shown(model)} has the unknown provider {provider!r}; expected 'provider/model', such "
            f"as 'openai/gpt-4o-mini'. {nearest(provider, names)} Or register one: "
            f"models.register({provider!r}, ...)."
        )


registry = Registry("mahsm.providers")
"""Providers and models of your own. Their entry points need no `models.register`."""


def find(name: str) -> Any:
    """Return what is registered under the name of a provider or model, or None.

    An installed package cannot take the name of a provider that mahsm knows; only `models.register` can.

    Raises:
        RegistryError: if an entry point of this name cannot be loaded.
    """
    if name.partition("/")[0] in _HOSTED | _OWN:
        return registry.registered(name)
    return registry.find(name)
