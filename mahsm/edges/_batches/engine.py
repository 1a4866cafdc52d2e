"""DSPy's calls inside of an item: they are asked for in the next job, in place of being made."""

import asyncio
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, NoReturn

from mahsm._model_calls import calls, meters
from mahsm._waiting import TASK, THREAD, Closed, Way, left_behind, run_blocking
from mahsm.edges._batches.client import Client
from mahsm.edges._batches.requests import Ask, AtFullPrice, Endpoint
from mahsm.edges._batches.rounds import Rounds
from mahsm.edges._batches.seats import Seat
from mahsm.edges._shared.items import current_item, lent
from mahsm.errors import BudgetExceeded, EdgeError

_CLIENT_KEYS = (
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


@dataclass(frozen=True)
class Place:
    """Where an item is: its run's rounds, and its seat.

    Attributes:
        rounds: The rounds.
        seat: The seat.
    """

    rounds: Rounds
    seat: Seat

    def inside(self) -> "Place":
        """Return a place for an item inside; `leave` it at its end."""
        return Place(self.rounds, self.seat.inside())

    def leave(self) -> None:
        self.seat.leave()

    def busy(self) -> AbstractContextManager[None]:
        """Return a block that goes on without an answer, such as one that begins items."""
        return self.seat.busy()

    def idle(self) -> AbstractContextManager[None]:
        """Return a block, in a busy one, that waits for items."""
        return self.seat.idle()

    @property
    def is_unused(self) -> bool:
        """True if no model was called so far."""
        return not self.rounds.calls

    @contextmanager
    def call(self) -> Generator[None, None, None]:
        """Return a block that is one call of a model. Errors of mahsm come out of DSPy as they are."""
        self.rounds.calls = True
        with self.seat.busy():
            try:
                yield
            except Exception as error:
                if isinstance(error.__cause__, BudgetExceeded | EdgeError | Closed):
                    # A copy: DSPy's error is its context, and may not be its effect as well.
                    raise copy(error.__cause__) from None
                raise

    def model(self, lm: Any) -> Any:
        """Return a copy of a language model whose requests are asked for in jobs.

        Raises:
            EdgeError: if it cannot be batched.
        """
        if isinstance(getattr(lm, "engine", None), _Engine):
            return lm
        endpoint = self._endpoint(lm)
        engine = _Engine(self, endpoint)
        unset = {key: None for key in _CLIENT_KEYS if key in lm.kwargs}
        found = lm.copy(engine=engine, async_engine=_AsyncEngine(self, endpoint), **unset)
        found.history = lm.history
        return found

    def _endpoint(self, lm: Any) -> Endpoint:
        import dspy

        if not isinstance(lm, dspy.LM):
            _refuse(lm, f"it is a {type(lm).__name__}, and no dspy.LM")
        if not isinstance(lm.engine, str):
            _refuse(lm, f"it has an engine of its own, {type(lm.engine).__name__}")
        if lm.model_type == "text":
            _refuse(lm, "it completes texts (model_type='text')")
        options = {key: lm.kwargs[key] for key in _CLIENT_KEYS if lm.kwargs.get(key) is not None}
        if others := sorted(options.keys() - set(_CARRIED)):
            _refuse(lm, f"its options {', '.join(others)} do not reach the batch API")
        provider, model = self._resolved(lm)
        return self._checked(
            lm,
            Endpoint(
                provider,
                model,
                options.get("api_base") or options.get("base_url"),
                options.get("api_key"),
                options.get("timeout"),
            ),
        )

    @staticmethod
    def _resolved(lm: Any) -> tuple[str, str]:
        from dspy.lm15 import AsyncLMRouter, LM15Error, RouterConfig

        head, slash, rest = lm.model.partition("/")
        try:
            found: Any = AsyncLMRouter(RouterConfig(env={})).resolve(f"{head}:{rest}" if slash else lm.model)
        except LM15Error as error:
            _refuse(lm, f"its provider is unknown to dspy.lm15 ({error})")
        return found.provider.removesuffix("-chat"), found.model

    def _checked(self, lm: Any, endpoint: Endpoint) -> Endpoint:
        if endpoint not in self.rounds.checked:
            if not Client(endpoint).has_jobs:
                _refuse(lm, f"dspy.lm15 knows no batch API of {endpoint.provider}")
            self.rounds.checked.add(endpoint)
        return endpoint

    async def ask(self, way: Way, endpoint: Endpoint, request: Any) -> Any:
        """Ask for an answer, and wait for it without a slot."""
        ask = Ask(endpoint, request, self.seat, list(meters()), way.turn())
        async with lent(way):
            self.rounds.join(ask)
            try:
                await self._wait(way, ask)
            except BaseException:
                ask.leave()
                raise
        if isinstance(ask.failure, AtFullPrice):
            future = self.rounds.complete(ask)
            return future.result() if way is THREAD else await asyncio.wrap_future(future)
        if ask.failure is not None:
            raise ask.failure
        if (call := calls.here().call) is not None:
            call[0].job = ask.job
        return ask.answer

    @staticmethod
    async def _wait(way: Way, ask: Ask) -> None:
        item = current_item()
        if way is TASK or item is None:
            # A task is cancelled.
            await ask.turn.wait()
            return
        with (
            item.running.on_stop(lambda _: ask.turn.wake()),
            left_behind.on_stop(lambda _: ask.turn.wake()),
        ):
            await ask.turn.wait()
        if not ask.is_over:
            ask.leave()
            left_behind.check()
            raise Closed(item.running.reason or RuntimeError("the run was stopped"))


def _refuse(lm: Any, why: str) -> NoReturn:
    name = getattr(lm, "model", type(lm).__name__)
    raise EdgeError(
        f"batch_api=: calls of the model {name!r} cannot be batched: {why}. Use a dspy.LM of OpenAI, "
        "Anthropic or Gemini with its default engine, or leave batch_api= out."
    )


def _no_stream() -> NoReturn:
    raise EdgeError(
        "batch_api=: an answer of a batch job comes as a whole, and cannot be streamed. Leave the listener "
        "out, or batch_api=."
    )


class _Engine:
    """An engine of DSPy's for code that blocks."""

    def __init__(self, place: Place, endpoint: Endpoint) -> None:
        self._place = place
        self._endpoint = endpoint

    def complete(self, request: Any) -> Any:
        return run_blocking(self._place.ask(THREAD, self._endpoint, request))

    def stream(self, request: Any) -> Any:
        """Refuse to stream."""
        _no_stream()

    def close(self) -> None:
        """No-op: the rounds own the connections."""


class _AsyncEngine:
    """An engine of DSPy's for code that awaits."""

    def __init__(self, place: Place, endpoint: Endpoint) -> None:
        self._place = place
        self._endpoint = endpoint

    async def complete(self, request: Any) -> Any:
        return await self._place.ask(TASK, self._endpoint, request)

    def stream(self, request: Any) -> Any:
        """Refuse to stream."""
        _no_stream()

    async def aclose(self) -> None:
        """No-op: the rounds own the connections."""
