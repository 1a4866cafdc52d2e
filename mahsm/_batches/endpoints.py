"""The endpoint of a DSPy model, where its jobs go."""

from dataclasses import replace
from typing import Any, NoReturn

from mahsm._batches.client import Client
from mahsm._batches.requests import Endpoint
from mahsm.errors import EdgeError

CONNECTION_OPTIONS = (
    "api_key",
    "api_base",
    "base_url",
    "timeout",
    "headers",
    "extra_headers",
    "api_version",
    "organization",
    "project",
    "extra_query",
)
"""Options of a DSPy model that belong to its connection."""

_CARRIED = ("api_key", "api_base", "base_url", "timeout")
"""Those of them that DSPy's client of the batch API takes."""


def endpoint_of(lm: Any, known: dict[Endpoint, Endpoint]) -> Endpoint:
    """Return where the requests of a model go.

    Args:
        lm: The model.
        known: Endpoints that were found before, which this one is added to.

    Raises:
        EdgeError: if its requests cannot be batched.
    """
    import dspy

    if not isinstance(lm, dspy.LM):
        _refuse(lm, f"it is a {type(lm).__name__}, and no dspy.LM")
    if not isinstance(lm.engine, str):
        _refuse(lm, f"it has an engine of its own, {type(lm.engine).__name__}")
    given: Any = lm
    if given.model_type == "text":
        _refuse(lm, "it completes texts (model_type='text')")
    options = {key: given.kwargs[key] for key in CONNECTION_OPTIONS if given.kwargs.get(key) is not None}
    if others := sorted(options.keys() - set(_CARRIED)):
        _refuse(lm, f"its options {', '.join(others)} do not reach the batch API")
    base_url = options.get("api_base") or options.get("base_url")
    asked = Endpoint("", given.model, base_url, options.get("api_key"), _seconds(options.get("timeout")))
    if asked not in known:
        known[asked] = _found(lm, asked)
    return known[asked]


def _seconds(timeout: Any) -> float | None:
    """Return the seconds of a timeout; one of httpx has several, of which those to read count."""
    seconds = getattr(timeout, "read", timeout)
    return seconds if isinstance(seconds, int | float) else None


def _found(lm: Any, asked: Endpoint) -> Endpoint:
    """Return an endpoint with its provider and the name that the model has there.

    Raises:
        EdgeError: if the provider is unknown, or takes no jobs.
    """
    from dspy.lm15 import AsyncLMRouter, LM15Error, RouterConfig

    head, slash, rest = asked.model.partition("/")
    try:
        found: Any = AsyncLMRouter(RouterConfig(env={})).resolve(f"{head}:{rest}" if slash else asked.model)
    except LM15Error as error:
        _refuse(lm, f"its provider is unknown to dspy.lm15 ({error})")
    # The batch API is that of OpenAI's Responses, also for a model that is called by the chat API.
    endpoint = replace(asked, provider=found.provider.removesuffix("-chat"), model=found.model)
    if not Client(endpoint).has_jobs:
        _refuse(lm, f"dspy.lm15 knows no batch API of {endpoint.provider}")
    return endpoint


def _refuse(lm: Any, why: str) -> NoReturn:
    name = getattr(lm, "model", type(lm).__name__)
    raise EdgeError(
        f"batch_api=: calls of the model {name!r} cannot be batched: {why}. Use a dspy.LM of OpenAI, "
        "Anthropic or Gemini with its default engine, or leave batch_api= out."
    )
