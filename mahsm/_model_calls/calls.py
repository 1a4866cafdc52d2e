"""One call of a model: let through where that takes a turn, and counted.

What holds for calls is set in context variables, for one edge run or one `with` block and for nothing else.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from mahsm._common import Answer
from mahsm._model_calls.meters import count_answer, count_call
from mahsm._model_calls.records import record_begin, record_end
from mahsm._waiting import left_behind
from mahsm.errors import JitError


class AdmittedCall(Protocol):
    """A call that has been let through."""

    def end(self, answer: Answer | None, error: BaseException | None) -> None:
        """It has ended: with an answer, if it gave one that says what it took; or with an error."""
        ...


class Gate(Protocol):
    """Lets calls through, such as a rate limit.

    Attributes:
        passed: Calls of LangChain's models that have been let through and have not ended, by their run.
    """

    passed: dict[UUID, AdmittedCall]

    def enter(self, characters: int) -> AdmittedCall:
        """Wait until a call with a prompt of so many characters may be made."""
        ...

    async def enter_async(self, characters: int) -> AdmittedCall:
        """The awaitable twin of `enter`."""
        ...


gate: ContextVar[Gate | None] = ContextVar("mahsm_gate", default=None)
"""What calls made here have to pass."""

clients_retry: ContextVar[bool] = ContextVar("mahsm_clients_retry", default=True)
"""Whether clients may try calls again by themselves."""


class Keeper(Protocol):
    """Keeps what calls of models give, so that they need not be made again."""

    def call(self, make: Callable[[], Any], given: Any) -> Any:
        """What the call gives, made or kept; `given` is what it is called with."""
        ...

    async def call_async(self, make: Callable[[], Awaitable[Any]], given: Any) -> Any:
        """The awaitable twin of `call`."""
        ...


keeper: ContextVar[Keeper | None] = ContextVar("mahsm_keeper", default=None)
"""Who keeps what DSPy's language models give here."""


@dataclass(frozen=True)
class Sample:
    """One of several answers to the same prompts.

    Attributes:
        number: Which one, from 0.
        total: Of how many.
    """

    number: int
    total: int

    def nested_in(self, outer: "Sample | None") -> "Sample":
        """The same within one sample of another fan-out: as one of all of them."""
        return (
            self
            if outer is None
            else Sample(outer.number * self.total + self.number, outer.total * self.total)
        )


unparsed: ContextVar[frozenset[str]] = ContextVar("mahsm_unparsed", default=frozenset())
"""Answers that attempts before this one could not be parsed from, which no cache should give again."""
sample: ContextVar[Sample | None] = ContextVar("mahsm_sample", default=None)
"""Which sample is drawn here, where a cache must not give one answer to all of them."""

_refused: ContextVar[str | None] = ContextVar("mahsm_calls_refused", default=None)


@contextmanager
def calls_refused(why: str) -> Generator[None, None, None]:
    """No model may be called in the block; whoever tries gets an error that says why."""
    token = _refused.set(why)
    try:
        yield
    finally:
        _refused.reset(token)


def check_refused() -> None:
    """Say why no model may be called here, if none may.

    Raises:
        JitError: if none may.
        Closed: if the call that it would be made in has been left behind.
    """
    left_behind.check()
    if (why := _refused.get()) is not None:
        raise JitError(why)


def begin_call() -> None:
    """A call of a model begins here. Whatever counts calls, in budgets, books, traces and events, is told so
    here.
    """
    count_call()
    record_begin()


def end_call(answer: Answer | None) -> None:
    """The call that `begin_call` was told of has ended: with an answer, or with an error."""
    if answer is not None:
        count_answer(answer)
    record_end(answer)


class SeenCall:
    """One call of a model.

    Attributes:
        answer: What it took, once that is known.
    """

    def __init__(self) -> None:
        self.answer: Answer | None = None


@contextmanager
def call(characters: Callable[[], int]) -> Generator[SeenCall, None, None]:
    """The block calls a model with so many characters: let it through, and count it."""
    check_refused()
    here = gate.get()
    passed = here.enter(characters()) if here else None
    with _counted(passed) as seen:
        yield seen


@asynccontextmanager
async def call_async(characters: Callable[[], int]) -> AsyncGenerator[SeenCall, None]:
    """The awaitable twin of `call`."""
    check_refused()
    here = gate.get()
    passed = await here.enter_async(characters()) if here else None
    with _counted(passed) as seen:
        yield seen


@contextmanager
def _counted(passed: AdmittedCall | None) -> Generator[SeenCall, None, None]:
    seen, failure = SeenCall(), None
    begin_call()
    try:
        yield seen
    except BaseException as error:
        failure = error
        raise
    finally:
        end_call(seen.answer)
        if passed is not None:
            passed.end(seen.answer, failure)
