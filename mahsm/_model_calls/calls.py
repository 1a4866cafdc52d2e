"""One call of a model: its options, its admission by a rate limit, and the reports of its start and end.

The options of calls are one immutable object in a context variable. So they apply to one edge run, one
attempt or one `with` block, in its tasks and threads, and nowhere else.
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
    """A call that a gate has admitted."""

    def end(self, answer: Answer | None, error: BaseException | None) -> None:
        """Settle the call, which ended with an answer, if its usage is known, or with an error."""
        ...


class Gate(Protocol):
    """A gate that admits calls, such as a rate limit.

    Attributes:
        passed: Admitted calls of LangChain's models that have not ended, by the id of their run.
    """

    passed: dict[UUID, AdmittedCall]

    async def enter(self, way: Way, characters: int) -> AdmittedCall:
        """Wait until a call whose prompt has so many characters is admitted."""
        ...


class Batched(Protocol):
    """An item whose model calls are collected for a job of the provider's batch API."""

    def model(self, lm: Any) -> Any:
        """Return a copy of a DSPy model whose requests are collected."""
        ...

    def call(self) -> AbstractContextManager[None]:
        """Return a block that is one call of it."""
        ...

    def busy(self) -> AbstractContextManager[None]:
        """Return a block that goes on without an answer, such as one that begins items."""
        ...

    def idle(self) -> AbstractContextManager[None]:
        """Return a block, in a busy one, that waits for items."""
        ...

    def inside(self) -> "Batched":
        """Return what holds for an item inside of this one."""
        ...

    def leave(self) -> None:
        """Note the end of the item."""
        ...


class Keeper(Protocol):
    """A store of model outputs, so that calls need not be made again."""

    def call(self, make: Callable[[], Any], given: Any) -> Any:
        """Return the kept output for the arguments `given`, or make the call and keep its output."""
        ...

    async def call_async(self, make: Callable[[], Awaitable[Any]], given: Any) -> Any:
        """Async version of `call`."""
        ...


@dataclass(frozen=True)
class Sample:
    """One of several answers to the same prompts.

    Attributes:
        number: Its number, from 0.
        total: The number of samples.
    """

    number: int
    total: int

    def nested_in(self, outer: "Sample | None") -> "Sample":
        """Return this sample of a fan-out inside the sample `outer`, numbered among all samples of both."""
        return (
            self
            if outer is None
            else Sample(outer.number * self.total + self.number, outer.total * self.total)
        )


class Here(NamedTuple):
    """The options of model calls that are made here.

    Attributes:
        gate: The gate that admits them. Set by attempts with a rate limit and by `limits.admit`; read by
            `admit` and by LangChain's handlers.
        clients_retry: True if clients may retry them. Set by `observed`; read by views of language models and
            by clients.
        keeper: Stores the outputs of DSPy's language models. Set while a program's `forward` runs; read by
            views of language models, and by placeholders of modules.
        blocking: Makes blocking calls of language models. Set by streams; read by views of language models.
        unparsed: Answers of earlier attempts that could not be parsed, so a cache should not give them again.
            Set by attempts and by DSPy nodes; read by both, and by views of language models.
        sample: The sample that is drawn, so that a cache does not give the same answer to all samples. Set by
            `vmap(sample=)`; read by views of language models, and by fan-outs inside.
        prompt_prefix: A text in front of their prompts. Set by DSPy nodes; read by views of language models.
        prompt: The Langfuse prompt that they use. Set by `tracing.prompt`; read by traces.
        refused: The reason why no model may be called, or None. Set where values are only traced.
        call: The call in progress, and True if the user has turned DSPy's history off. Set by views of
            language models; read where DSPy adds to its history.
        batched: Collects the calls for jobs of the provider's batch API. Set by `vmap(batch_api=)`, and by
            each item; read by views of language models, and by items.
        langchain_observed: True if LangChain's calls are observed. Set by `observed`; read when LangChain
            looks for handlers.
        dspy_observed: True if DSPy's calls are observed. Set by `observed`; read by code that would observe
            them, or restore an observed context.
    """

    gate: Gate | None = None
    clients_retry: bool = True
    keeper: Keeper | None = None
    blocking: Callable[[Callable[[], Any]], Any] | None = None
    unparsed: frozenset[str] = frozenset()
    sample: Sample | None = None
    prompt_prefix: str | None = None
    prompt: Any = None
    refused: str | None = None
    call: "tuple[SeenCall, bool] | None" = None
    batched: Batched | None = None
    langchain_observed: bool = False
    dspy_observed: bool = False


_NOTHING = Here()
_here: ContextVar[Here] = ContextVar("mahsm_calls_here", default=_NOTHING)
"""Set by `change` and `changed`, read by `here`. `Here` lists their callers for each option."""

here: Callable[[], Here] = _here.get
"""Return the options of model calls that are made here."""


def change(**changes: Any) -> None:
    """Change options in this context from now on. The changes are attributes of `Here`."""
    _here.set(_here.get()._replace(**changes))


class changed:
    """A block with changed options.

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
    """Return a block in which options that are not set here have their values from another context."""
    there = context.get(_here, _NOTHING)
    changes = {
        name: value
        for name, value, own, unset in zip(Here._fields, there, _here.get(), _NOTHING, strict=True)
        if own is unset
    }
    return changed(**changes)


def calls_refused(why: str) -> AbstractContextManager[None]:
    """Return a block in which calls of models raise an error with this reason."""
    return changed(refused=why)


def check_refused() -> None:
    """Raise an error if no model may be called here.

    Raises:
        JitError: if calls are refused.
        Closed: if the call that runs here has been left behind.
    """
    left_behind.check()
    if (why := _here.get().refused) is not None:
        raise JitError(why)


def begin_call() -> None:
    """Report that a call of a model begins here."""
    count_call()


def end_call(
    answer: Answer | None, error: BaseException | None = None, admitted: AdmittedCall | None = None
) -> None:
    """Report that a call that began here has ended.

    This is the one place that counts its usage, in budgets, `usage()`, traces and progress events, and that
    settles its rate limit.

    Args:
        answer: Its answer; None if it failed, or if its usage is unknown.
        error: The error that it failed with.
        admitted: The call as its gate admitted it.
    """
    count_end(answer)
    if admitted is not None:
        admitted.end(answer, error)


def record_call(answer: Answer) -> None:
    """Report a call that has ended, and whose start was not reported."""
    begin_call()
    end_call(answer)


class SeenCall:
    """One call of a model that is observed.

    Attributes:
        answer: Its answer, once known.
        job: The id of the batch job that answered it, or None for an ordinary call.
    """

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.job: str | None = None


async def admit(way: Way, characters: Callable[[], int]) -> AdmittedCall | None:
    """Wait until a call whose prompt has so many characters is admitted.

    Raises:
        JitError: if calls are refused here.
    """
    check_refused()
    here = _here.get()
    # The limits of the ordinary API do not hold for a batch job.
    gate = here.gate if here.batched is None else None
    return await gate.enter(way, characters()) if gate else None


@contextmanager
def call(admitted: AdmittedCall | None) -> Generator[SeenCall, None, None]:
    """Count the block as a call that has been admitted, and settle it at the end."""
    seen, failure = SeenCall(), None
    begin_call()
    try:
        yield seen
    except BaseException as error:
        failure = error
        raise
    finally:
        end_call(seen.answer, failure, admitted)
