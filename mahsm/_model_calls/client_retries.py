"""Turns off the retries of the providers' own clients where an edge retries.

Such clients are attributes of LangChain's chat models, which in turn are held by agents, functions and other
libraries, or created during a call. Searching for them would miss some. But a client reads its `max_retries`
when a request begins; a descriptor on its class returns 0 where an edge retries, and the client's own value
everywhere else.
"""

import sys
from typing import Any

from mahsm._model_calls import calls

_CLIENTS = {"anthropic": "Anthropic", "groq": "Groq", "openai": "OpenAI"}
"""From modules to their client class. Each has an async version, such as `AsyncOpenAI`."""


class _MaxRetries:
    """Descriptor for `max_retries` of a client class."""

    def __get__(self, client: Any, kind: type[Any]) -> Any:
        if client is None:
            return self
        return client.__dict__["max_retries"] if calls.here().clients_retry else 0

    def __set__(self, client: Any, value: int) -> None:
        client.__dict__["max_retries"] = value


_MAX_RETRIES = _MaxRetries()


def obey_edges() -> None:
    """Install the descriptor in the client classes that are imported by now."""
    for module, name in _CLIENTS.items():
        for kind in (
            getattr(sys.modules.get(module), name, None),
            getattr(sys.modules.get(module), f"Async{name}", None),
        ):
            if kind is not None and "max_retries" not in vars(kind):
                kind.max_retries = _MAX_RETRIES
