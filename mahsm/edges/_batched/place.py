"""DSPy's calls inside of an item: they are asked for in the next job, in place of being made."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from mahsm._batches import (
    CONNECTION_OPTIONS,
    Abilities,
    Ask,
    AtFullPrice,
    Endpoint,
    Rounds,
    Seat,
    abilities_of,
    endpoint_of,
)
from mahsm._model_calls import calls, meters
from mahsm._waiting import TASK, THREAD, Closed, Way, left_behind, run_blocking
from mahsm.edges._shared.items import current_item, lent
from mahsm.errors import BudgetExceeded, EdgeError


@dataclass
class Use:
    """What a run has made of its place.

    Attributes:
        calls: True when a model has been called, though its answer may have come from DSPy's cache.
    """

    calls: bool = False


@dataclass(frozen=True)
class Place:
    """Where an item is: its run's rounds, and its seat.

    Attributes:
        rounds: The rounds.
        seat: The seat.
        use: What its run has made of it.
    """

    rounds: Rounds
    seat: Seat
    use: Use = field(default_factory=Use)

    def inside(self) -> "Place":
        """Return a place for an item inside; `leave` it at its end."""
        return Place(self.rounds, self.seat.inside(), self.use)

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
        return not self.use.calls

    @contextmanager
    def call(self) -> Generator[None, None, None]:
        """Return a block that is one call of a model. Errors of mahsm come out of DSPy as they are."""
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
        # Also if it is refused: then items say why.
        self.use.calls = True
        if isinstance(getattr(lm, "engine", None), _Engine):
            return lm
        endpoint = endpoint_of(lm, self.rounds.endpoints)
        engine = _Engine(self, endpoint, partial(abilities_of, lm, endpoint, self.rounds.abilities))
        unset = {key: None for key in CONNECTION_OPTIONS if key in lm.kwargs}
        found = lm.copy(engine=engine, async_engine=_AsyncEngine(self, endpoint), **unset)
        found.history = lm.history
        return found

    async def ask(self, way: Way, endpoint: Endpoint, request: Any) -> Any:
        """Ask for an answer, and wait for it without a slot."""
        item = current_item()
        order = () if item is None else item.order
        ask = Ask(endpoint, request, self.seat, list(meters()), way.turn(), order)
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


def _no_stream() -> NoReturn:
    raise EdgeError(
        "batch_api=: an answer of a batch job comes as a whole, and cannot be streamed. Leave the listener "
        "out, or batch_api=."
    )


class _Engine:
    """An engine of DSPy's for code that blocks. Adapters ask it what the model can do."""

    def __init__(self, place: Place, endpoint: Endpoint, abilities: Callable[[], Abilities]) -> None:
        self._place = place
        self._endpoint = endpoint
        self._abilities = abilities

    @property
    def supports_function_calling(self) -> bool:
        return self._abilities().supports_function_calling

    @property
    def supports_reasoning(self) -> bool:
        return self._abilities().supports_reasoning

    @property
    def supports_response_schema(self) -> bool:
        return self._abilities().supports_response_schema

    @property
    def supported_params(self) -> frozenset[str]:
        return self._abilities().supported_params

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
