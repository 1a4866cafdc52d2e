"""A server of OpenAI's and Anthropic's APIs on loopback, with scripted answers."""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mahsm.testing._answering import Answering
from mahsm.testing._answers import Answers, Model
from mahsm.testing._batch_jobs import BatchJobs
from mahsm.testing._bill import Bill
from mahsm.testing._call import Call
from mahsm.testing._http import Http, Site
from mahsm.testing._prompt_cache import PromptCache
from mahsm.testing._routes import routes_of

if TYPE_CHECKING:
    import dspy


@dataclass
class ModelServer:
    """A server of models on loopback, for tests without a network or a key.

    It has OpenAI's chat and Responses APIs, Anthropic's Messages API, files, and the batch jobs of both.

    Args:
        answers: Its answers: a single answer for every call; a list of answers, of which the last one is
            repeated; or a function of the `Call`. An answer is a string, a mapping (the fields of a DSPy
            answer), a `ToolCall` or a list of them, or a `Reply` for more.
        latency: Seconds until each answer; answers in batch jobs have none.
        jobs: The batch jobs: how long they take, and how they end.
        bill: The prices, and the charges so far.
        prompt_cache: A prompt cache, whose tokens the usage then has; by default none.

    Attributes:
        calls: The requests so far, in order of arrival; those of batch jobs when they are answered.
        answering: The number of requests in progress.
        most_at_once: The highest number of requests that were in progress at the same time.
        raised: Errors that the function of the answers has raised, such as failed assertions. Clients get a
            status of 500.

    Raises:
        Exception: at the end of the block, the first error that the function of the answers has raised.

    Example:
        >>> import dspy
        >>> from mahsm import vmap
        >>> from mahsm.testing import ModelServer
        >>> measure = dspy.Predict("item -> length: int")
        >>> edge = vmap(measure, batch_key="words", out_key="lengths", result="length")
        >>> server = ModelServer(lambda call: {"length": len(call.field("item"))})
        >>> with server, dspy.context(lm=server.lm()):
        ...     edge.invoke({"words": ["one", "three"]})
        {'lengths': [3, 5]}
        >>> len(server.calls)
        2
    """

    answers: Answers = ""
    latency: float = 0.0
    jobs: BatchJobs = field(default_factory=BatchJobs, kw_only=True)
    bill: Bill = field(default_factory=Bill, kw_only=True)
    prompt_cache: PromptCache | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._model = Model(self.answers, "ModelServer")
        answering = Answering(self._model, self.bill, self.prompt_cache)
        self.raised: list[Exception] = answering.raised
        registry = self.jobs._registry  # pyright: ignore[reportPrivateUsage]
        registry.answering = answering
        self.bill.before_reading(registry.update)
        site = Site(answering, lambda: self.latency, routes_of(registry), registry.faults)
        self._http = Http(site)
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.01,), name="mahsm-model-server", daemon=True
        )

    @property
    def calls(self) -> list[Call]:
        return self._model.calls

    @property
    def answering(self) -> int:
        return self._model.answering

    @property
    def most_at_once(self) -> int:
        return self._model.most_at_once

    @property
    def base_url(self) -> str:
        """The `api_base` or `base_url` for clients: of OpenAI's APIs and of Anthropic's."""
        return self._http.base_url

    def lm(self, model: str = "openai/fake", **options: Any) -> "dspy.LM":
        """Return a real DSPy client of this server, by default without cache and retries.

        Args:
            model: The model, with its provider, such as "openai/gpt-4o-mini" or "anthropic/claude-fake".
            options: Arguments of `dspy.LM`, such as `model_type="responses"` for the Responses API.
        """
        return client(self.base_url, model, options)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        if self.raised and error is None:
            raise self.raised[0]


def client(base_url: str, model: str, options: Mapping[str, Any]) -> "dspy.LM":
    """Return a DSPy client of a server on loopback, by default without cache and retries."""
    # LiteLLM then reads prices from its package, not from the network.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import dspy

    defaults: dict[str, Any] = {"api_base": base_url, "api_key": "test", "cache": False, "num_retries": 0}
    return dspy.LM(model, **{**defaults, **options})
