"""Retries of the providers' own clients, which are off where an edge retries.

LangChain's chat models hold such clients; agents, functions and other libraries hold chat models, or make
them when they are called. So nobody looks for them. A client reads its `max_retries` when a request begins:
it reads 0 where an edge retries, and everywhere else what it was made with.
"""

import sys
from typing import Any

from mahsm._model_calls import calls

_CLIENTS = {"anthropic": "Anthropic", "groq": "Groq", "openai": "OpenAI"}
"""Modules and their client; each has an async version, `AsyncOpenAI`."""


class _MaxRetries:
    """`max_retries` of a client."""

    def __get__(self, client: Any, kind: type[Any]) -> Any:
        if client is None:
            return self
        return client.__dict__["max_retries"] if calls.here().clients_retry else 0

    def __set__(self, client: Any, value: int) -> None:
        client.__dict__["max_retries"] = value


_MAX_RETRIES = _MaxRetries()


def obey_edges() -> None:
    """Have the clients that are imported by now look whether an edge retries."""
    for module, name in _CLIENTS.items():
        for kind in (
            getattr(sys.modules.get(module), name, None),
            getattr(sys.modules.get(module), f"Async{name}", None),
        ):
            if kind is not None and "max_retries" not in vars(kind):
                kind.max_retries = _MAX_RETRIES
