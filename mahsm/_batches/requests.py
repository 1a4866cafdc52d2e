"""A request that waits for its answer, and how requests are told apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from operator import methodcaller
from typing import Any, TypeAlias

from mahsm._batches.seats import Seat
from mahsm._waiting import Turn

Wake: TypeAlias = Callable[[Turn], object]


Where: TypeAlias = tuple[str, str, str | None]
"""The provider, the model and the URL: what an endpoint and a noted job have in common."""

At: TypeAlias = tuple[int, int]
"""Where a request is: the number of its job in the run, and its place in the job."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model's jobs go.

    Attributes:
        provider: The provider, such as `"openai"`.
        model: The model's name there.
        base_url: Its URL, or None for the provider's own.
        api_key: The key, a function that returns it, or None for that of the environment.
        timeout: Seconds for one HTTP request, or None for the client's default.
    """

    provider: str
    model: str
    base_url: str | None = None
    api_key: Any = field(default=None, repr=False)
    timeout: float | None = None

    @property
    def where(self) -> Where:
        return self.provider, self.model, self.base_url

    @property
    def label(self) -> str:
        return f"{self.provider}/{self.model}"


class Ask:
    """One request, and the call that waits for its answer.

    Attributes:
        endpoint: Where it goes.
        request: The request, of DSPy's type.
        key: What it has in common with equal requests of the same item, in this process and in later ones.
        seat: The seat of the item that asks.
        meters: What counts the call.
        turn: Wakes the call.
        answer: The answer, once there.
        failure: In place of an answer, the error; or an `AtFullPrice`.
        job: The id of the job that answered, once there.
        is_over: True when the call waits no more.
    """

    __slots__ = (
        "answer",
        "endpoint",
        "failure",
        "is_over",
        "job",
        "key",
        "meters",
        "request",
        "seat",
        "turn",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        request: Any,
        seat: Seat,
        meters: Sequence[Any],
        turn: Turn,
        item: Sequence[int] = (),
    ) -> None:
        self.endpoint = endpoint
        self.request = request
        # With the item: the answer to an equal request may be in the result of another one already, and each
        # of several samples is to have an answer of its own.
        self.key = sha256(repr((tuple(item), request)).encode()).hexdigest()[:24]
        self.seat = seat
        self.meters = meters
        self.turn = turn
        self.answer: Any = None
        self.failure: BaseException | None = None
        self.job: str | None = None
        self.is_over = False

    def settle(
        self, answer: Any = None, failure: BaseException | None = None, wake: Wake = methodcaller("wake")
    ) -> bool:
        """Give the call its answer or error, and let it go on; return False if it waits no more.

        Args:
            answer: The answer.
            failure: The error, if there is no answer.
            wake: Wakes the call's turn, now or later.
        """
        if not self._end():
            return False
        self.answer, self.failure = answer, failure
        wake(self.turn)
        return True

    def leave(self) -> None:
        """Note that the call waits no more."""
        self._end()

    def _end(self) -> bool:
        with self.seat.lock:
            if self.is_over:
                return False
            self.is_over = True
            self.seat.goes_on()
            return True


class AtFullPrice(Exception):
    """The request is to be made as an ordinary call.

    Args:
        at: Where the request was: its job's number, and its place in it.
    """

    def __init__(self, at: At) -> None:
        super().__init__(at)
        self.at = at
