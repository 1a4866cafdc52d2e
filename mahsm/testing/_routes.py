"""The paths of a server's endpoints."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from mahsm.testing._anthropic_batches import AnthropicBatches
from mahsm.testing._anthropic_messages import MESSAGES
from mahsm.testing._chat_completions import CHAT
from mahsm.testing._endpoint import Download, HttpRequest
from mahsm.testing._faults import Step
from mahsm.testing._job_registry import JobRegistry
from mahsm.testing._openai_batches import OpenAIBatches
from mahsm.testing._openai_files import OpenAIFiles
from mahsm.testing._responses import RESPONSES
from mahsm.testing._wire import Body, Vendor, Wire

Endpoint: TypeAlias = Callable[[HttpRequest], Body | Download]

# Clients put different prefixes before a path: LiteLLM repeats the version.
WIRES: tuple[tuple[str, Wire], ...] = (
    ("/chat/completions", CHAT),
    ("/responses", RESPONSES),
    ("/messages", MESSAGES),
)


@dataclass(frozen=True)
class Route:
    """An endpoint that is not for a model.

    Attributes:
        method: HTTP method.
        path: Its path; `{id}` stands for an id.
        vendor: The provider.
        endpoint: Answers a request.
        step: The step that faults and counts name, or None.
    """

    method: str
    path: str
    vendor: Vendor
    endpoint: Endpoint
    step: Step | None = None

    def match(self, method: str, path: str) -> str | None:
        """Return the id in a path, or "" if it has none; or None if the route is another one."""
        pattern = f".*/v1{self.path.replace('{id}', '(?P<id>[^/]+)')}"
        found = re.fullmatch(pattern, path) if method == self.method else None
        return None if found is None else found.groupdict().get("id", "")


def routes_of(registry: JobRegistry) -> tuple[Route, ...]:
    """Return the endpoints of files and batch jobs."""
    files = OpenAIFiles(registry)
    openai, anthropic = OpenAIBatches(registry, files), AnthropicBatches(registry)
    return (
        Route("POST", "/files", "openai", files.upload, "upload"),
        Route("GET", "/files", "openai", files.list),
        Route("GET", "/files/{id}", "openai", files.info),
        Route("DELETE", "/files/{id}", "openai", files.delete),
        Route("GET", "/files/{id}/content", "openai", files.content, "results"),
        Route("POST", "/messages/batches", "anthropic", anthropic.create, "submit"),
        Route("GET", "/messages/batches", "anthropic", anthropic.list, "list"),
        Route("GET", "/messages/batches/{id}", "anthropic", anthropic.get, "status"),
        Route("GET", "/messages/batches/{id}/results", "anthropic", anthropic.results, "results"),
        Route("POST", "/messages/batches/{id}/cancel", "anthropic", anthropic.cancel, "cancel"),
        Route("POST", "/batches", "openai", openai.create, "submit"),
        Route("GET", "/batches", "openai", openai.list, "list"),
        Route("GET", "/batches/{id}", "openai", openai.get, "status"),
        Route("POST", "/batches/{id}/cancel", "openai", openai.cancel, "cancel"),
    )
