"""Clients of models: the `dspy.LM` of a name, and what is registered under it."""

import sys
import threading
from collections.abc import Mapping
from typing import Any, cast

from mahsm import _context
from mahsm._common import shown, tagged
from mahsm._context import Secret
from mahsm._models import _names, _providers
from mahsm.errors import ModelError

OF_CLIENTS = frozenset(
    {
        "model_type",
        "num_retries",
        "callbacks",
        "provider",
        "finetuning_model",
        "launch_kwargs",
        "train_kwargs",
        "use_developer_role",
        "engine",
        "async_engine",
        "prompt_cache",
    }
)
"""Arguments of `dspy.LM` that a call cannot have, so a call with them gets a client of its own."""


def is_lm(client: Any) -> bool:
    """Return whether an object is a language model of DSPy's."""
    return not isinstance(client, type) and all(
        hasattr(client, name) for name in ("model", "kwargs", "acall")
    )


def is_chat_model(client: Any) -> bool:
    """Return whether an object is a chat model of LangChain's."""
    loaded: Any = sys.modules.get("langchain_core.language_models")
    return loaded is not None and isinstance(client, loaded.BaseChatModel)


def name_of(client: Any) -> str:
    """Return the name of a client's model."""
    if is_lm(client):
        return client.model
    names = (getattr(client, name, None) for name in ("model_name", "model"))
    return next((name for name in names if isinstance(name, str) and name), type(client).__name__)


def lm_of(client: Any) -> Any:
    """Return the client, if it is a language model of DSPy's.

    Raises:
        ModelError: if it is a chat model of LangChain's.
    """
    if not is_lm(client):
        raise ModelError(
            f"models: {type(client).__name__} is a chat model of LangChain's, and DSPy's modules need a "
            "dspy.LM. Bind a model by its name, such as 'openai/gpt-4o-mini'."
        )
    return client


def make(name: str, options: Mapping[str, Any]) -> Any:
    """Make the client of a model.

    Raises:
        ModelError: if the name is unknown.
    """
    name = _names.full(name)
    entry = _providers.find(name)
    if entry is None and "/" in name:
        entry = _providers.find(_providers.of(name))
    if entry is not None:
        return _made(entry, name, options)
    from mahsm._models._client import Client

    return Client(name, **options)


def _made(entry: Any, name: str, options: Mapping[str, Any]) -> Any:
    """Return the client of a registered entry: a client, or what makes one of a name and options."""
    if isinstance(key := options.get("api_key"), Secret):
        options = {**options, "api_key": key.get_secret_value()}
    if is_lm(entry):
        return entry.copy(**options) if options else entry
    if is_chat_model(entry):
        return entry.model_copy(update=options) if options else entry
    client = entry(name, **options)
    if not is_lm(client) and not is_chat_model(client):
        raise ModelError(
            f"models: what is registered as {_providers.of(name)!r} made {shown(client)} of {name!r}; "
            "expected a dspy.BaseLM or a chat model of LangChain's."
        )
    return client


class _Slot:
    """A client that is made once. The lock is reentrant: a registered function may call other models."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.client: Any = None


class Shared:
    """Clients by name and options, which direct calls share, and with them their connections. Thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._slots: dict[Any, _Slot] = {}

    def get(self, key: Any, name: str, options: Mapping[str, Any]) -> Any:
        """Return the client of a name and options, made if the key of both has none."""
        slot = self._slots.get(key) or self._slot(key)
        if slot.client is None:
            # Only calls of the same client wait while it is made, which may take long.
            with slot.lock:
                if slot.client is None:
                    slot.client = make(name, options)
        return slot.client

    def _slot(self, key: Any) -> _Slot:
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            while len(self._slots) > self._most:
                self._slots.pop(next(iter(self._slots)))
            return slot

    def clear(self) -> None:
        with self._lock:
            self._slots.clear()


shared = Shared(256)


def default(options: Mapping[str, Any]) -> Any:
    """Return the client of the context's default model.

    Raises:
        ModelError: if there is none.
    """
    name = _names.default()
    own = {name: options[name] for name in options.keys() & OF_CLIENTS}
    try:
        key = tagged(sorted(own.items()))
    except TypeError:
        return make(name, own)
    return shared.get((name, key), name, own)


def context_lm() -> Any:
    """Return the `dspy.LM` of the context's default model with the context's options; None without a default.

    Raises:
        ModelError: if the name is unknown, or a chat model of LangChain's.
    """
    if _context.config("models.default") is None:
        return None
    name = _names.full(_names.default())
    return lm_of(make(name, of_context(_providers.of(name))))


def of_context(provider: str) -> dict[str, Any]:
    """Return the options of the context for calls of a provider: below `providers`, and below `models`.

    Credentials are left out: clients look them up.
    """
    if not _context.sets_any("models", "providers"):
        return {}
    found: dict[str, Any] = {**_section(f"providers.{provider}"), **_section("models")}
    return {
        name: value
        for name, value in found.items()
        if name not in ("default", "aliases") and not isinstance(value, Secret)
    }


def _section(key: str) -> dict[str, Any]:
    found: Any = _context.config(key)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
