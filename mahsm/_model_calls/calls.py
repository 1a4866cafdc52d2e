"""One call of a model: let through, and made known where it begins and ends.

What holds for calls is one immutable object in a context variable: it holds for one edge run, one attempt or
one `with` block, in its tasks and threads, and nowhere else.
"""

from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from mahsm._common import Answer
from mahsm._model_calls.counting import count_call, count_end
from mahsm._waiting import Way, left_behind
from mahsm.errors import JitError


class AdmittedCall(Protocol):
    """A call that has been let through."""

    def end(self, answer: Answer | None, error: BaseException | None) -> None:
        """Settle it: it has ended with an answer, if what it took is known, or with an error."""
        ...


class Gate(Protocol):
    """A gate that calls pass, such as a rate limit.

    Attributes:
        passed: Calls of LangChain's models that have been let through and have not ended, by their run.
    """

    passed: dict[UUID, AdmittedCall]

    async def enter(self, way: Way, characters: int) -> AdmittedCall:
        """Wait until a call with a prompt of so many characters may be made."""
        ...


class Keeper(Protocol):
    """A store of what calls of models give, so that they need not be made again."""

    def call(self, make: Callable[[], Any], given: Any) -> Any:
        """Return what the call gives, made now or kept; `given` is what it is called with."""
        ...

    async def call_async(self, make: Callable[[], Awaitable[Any]], given: Any) -> Any:
        """Async version of `call`."""
        ...


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


class Here(NamedTuple):
    """What holds for calls of models that are made here.

    Attributes:
        gate: What they have to pass. Set by attempts with a rate limit and by `limits.admit`; read by `call`
            and by LangChain's handlers.
        clients_retry: Clients may retry them. Set by `observed`; read by views of language models and by
            clients.
        keeper: Keeps what DSPy's language models give. Set while a program's `forward` runs; read by views of
            language models, and by stands of modules.
        blocking: Makes blocking calls of language models. Set by streams; read by views of language models.
        unparsed: Answers that attempts before this one could not be parsed from, which no cache should give
            again. Set by attempts and by DSPy nodes; read by both, and by views of language models.
        sample: Which sample is drawn, where a cache must not give one answer to all of them. Set by
            `vmap(sample=)`; read by views of language models, and by fan-outs inside.
        prompt: Langfuse's prompt that they are made of. Set by `tracing.prompt`; read by traces.
        refused: Why no model may be called, if none may. Set where values are only traced.
        call: The call that is being made, and whether DSPy's history is off. Set by views of language models;
            read where DSPy adds to its history.
        langchain_observed: LangChain's calls are seen. Set by `observed`; read when LangChain looks for
            handlers.
        dspy_observed: DSPy's calls are seen. Set by `observed`; read by what would let them be seen.
    """

    gate: Gate | None = None
    clients_retry: bool = True
    keeper: Keeper | None = None
    blocking: Callable[[Callable[[], Any]], Any] | None = None
    unparsed: frozenset[str] = frozenset()
    sample: Sample | None = None
    prompt: Any = None
    refused: str | None = None
    call: "tuple[SeenCall, bool] | None" = None
    langchain_observed: bool = False
    dspy_observed: bool = False


_NOTHING = Here()
_here: ContextVar[Here] = ContextVar("mahsm_calls_here", default=_NOTHING)
"""Set by `change` and `changed`, read by `here`; `Here` says by whom."""

here: Callable[[], Here] = _here.get
"""What holds for calls of models that are made here."""


def change(**changes: Any) -> None:
    """Let something else hold in this context from now on. The changes are attributes of `Here`."""
    _here.set(_here.get()._replace(**changes))


class changed:
    """A block in which something else holds.

    Args:
        changes: Attributes of `Here`.
    """

    __slots__ = ("_changes", "_token")

    def __init__(self, **changes: Any) -> None:
        self._changes = changes

    def __enter__(self) -> None:
        self._token = _here.set(_here.get()._replace(**self._changes))

    def __exit__(self, *error: object) -> None:
        _here.reset(self._token)


def completed(context: Context) -> AbstractContextManager[None]:
    """A block in which what is not set here holds as in another context."""
    there = context.get(_here, _NOTHING)
    changes = {
        name: value
        for name, value, own, unset in zip(Here._fields, there, _here.get(), _NOTHING, strict=True)
        if own is unset
    }
    return changed(**changes)


def calls_refused(why: str) -> AbstractContextManager[None]:
    """A block in which calls of models raise an error that says why."""
    return changed(refused=why)


def check_refused() -> None:
    """Do nothing, if a model may be called here.

    Raises:
        JitError: if none may.
        Closed: if the call that it would be made in has been left behind.
    """
    left_behind.check()
    if (why := _here.get().refused) is not None:
        raise JitError(why)


def begin_call() -> None:
    """Make known that a call of a model begins here."""
    count_call()


def end_call(
    answer: Answer | None, error: BaseException | None = None, admitted: AdmittedCall | None = None
) -> None:
    """Make known that a call has ended that began here.

    This is the one place that counts what it took, in budgets, usage, traces and progress events, and that
    settles what it was admitted with.

    Args:
        answer: What it took; None if it failed, or if that is not known.
        error: Why it failed.
        admitted: What it was let through as.
    """
    count_end(answer)
    if admitted is not None:
        admitted.end(answer, error)


def record_call(answer: Answer) -> None:
    """Make a call known that has ended."""
    begin_call()
    end_call(answer)


class SeenCall:
    """One call of a model.

    Attributes:
        answer: What it took, once that is known.
    """

    def __init__(self) -> None:
        self.answer: Answer | None = None


async def admit(way: Way, characters: Callable[[], int]) -> AdmittedCall | None:
    """Wait until a call with so many characters may be made here.

    Raises:
        JitError: if no model may be called here.
    """
    check_refused()
    gate = _here.get().gate
    return await gate.enter(way, characters()) if gate else None


@contextmanager
def call(admitted: AdmittedCall | None) -> Generator[SeenCall, None, None]:
    """A block that is a call which has been admitted: it is counted, and settled at its end."""
    seen, failure = SeenCall(), None
    begin_call()
    try:
        yield seen
    except BaseException as error:
        failure = error
        raise
    finally:
        end_call(seen.answer, failure, admitted)
