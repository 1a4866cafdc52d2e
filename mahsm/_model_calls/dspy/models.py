"""Views of DSPy's language models, which observe the calls."""

import itertools
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache, partial
from types import TracebackType
from typing import Any, Self, cast

from mahsm import _spans
from mahsm._common import Answer
from mahsm._model_calls import calls
from mahsm._model_calls.dspy.answers import answer_of
from mahsm._model_calls.dspy.around import Around
from mahsm._model_calls.dspy.prefixes import Given, prefixed
from mahsm._model_calls.prices import own_price
from mahsm._waiting import TASK, THREAD, run_blocking, tasks

# How DSPy's calls are observed.
#
# DSPy's callbacks are not enough: they cannot await a rate limit, DSPy logs their errors instead of refusing
# the call, and they do not get its usage. So the call itself has to pass through code of mahsm. There are
# three ways to a language model, and a block of `observed` intercepts each of them in DSPy's settings:
#
# - `dspy.settings.lm(...)`: reading `settings.lm` returns a view of the user's language model.
# - A predictor with a language model of its own, which is not in the settings. But every predictor passes its
#   model to an adapter, so reading `settings.adapter` returns a view of the adapter, which makes a view of
#   whatever model it is given.
# - A call of a model object that the user holds, with no predictor in between. It passes no setting, but DSPy
#   appends an entry to the history of each module in `settings.caller_modules` when the call has ended.
#   `_Reader` in `settings.py` poses as such a module. It counts the call late, and such a call does not wait.
#
# Invariant: each call is counted once. A view inside a view would count twice, so `observed_lm` never makes
# a view of a view. A call of a view adds to the history, too; so it sets `calls.here().call`, and `_Reader`
# ignores entries while that is set.
#
# A view must be the user's model to all other code. It is an instance of a subclass of the model's class, so
# `isinstance` holds and methods that the user has overridden are called. It shares the model's `__dict__`, so
# connections, callbacks and the history are the same objects, and an attribute that is set on one of them is
# set on both. The attributes of the view itself must not appear on the model, so they are in slots.
#
# The usage of a call comes from its history entry, since a call returns only the outputs. `update_history`
# reads it in the context of the call, so it cannot be mistaken for that of another call. If the user has
# turned the history off, `_OneCall` turns it on for the call, so that DSPy makes the entry, and
# `update_history` turns it off again, so that DSPy does not store it.

Heard = Callable[[dict[str, Any], Answer], object]
"""Gets an entry of DSPy's history and its `Answer`."""

_HERE: AbstractContextManager[None] = nullcontext()

_FAR = 1_000_000
"""Distance between the user's rollout ids and those of calls after an answer that could not be parsed."""


def observed_lm(lm: Any, around: Around | None = None) -> Any:
    """Return a view of a language model: the same state, connections and history, with observed calls."""
    if not hasattr(lm, "num_retries"):
        return lm
    if isinstance(lm, _ObservedLM) and (around is None or getattr(lm, "around", None) is around):
        return lm
    return _view(lm, around or Around(), getattr(lm, "heard", None))


def heard_lm(lm: Any, heard: Heard) -> Any:
    """Return a view for calls in this context, which passes on the entries of the history."""
    return _view(lm, None, heard) if hasattr(lm, "num_retries") else lm


def _view(lm: Any, around: Around | None, heard: Heard | None) -> Any:
    kind = cast("type[Any]", type(lm))
    view: Any = object.__new__(kind if issubclass(kind, _ObservedLM) else _lm_class(kind))
    view.__dict__ = lm.__dict__
    view.around, view.heard = around, heard
    return view


class _ObservedLM:
    """The methods of a view that differ from those of the user's language model."""

    around: Around | None
    heard: Heard | None

    def _here(self) -> AbstractContextManager[None]:
        # A deep copy of a view lacks the attribute.
        around = getattr(self, "around", None)
        return _HERE if around is None else around.here()

    @property
    def num_retries(self) -> int:
        return self.__dict__["num_retries"] if calls.here().clients_retry else 0

    @num_retries.setter
    def num_retries(self, value: int) -> None:
        self.__dict__["num_retries"] = value

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        with self._here():
            make = partial(self._made, prompt, messages, kwargs)
            return (
                make()
                if (keeper := calls.here().keeper) is None
                else keeper.call(make, (prompt, messages, kwargs))
            )

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        with self._here():
            make = partial(self._made_async, prompt, messages, kwargs)
            keeper = calls.here().keeper
            return await (make() if keeper is None else keeper.call_async(make, (prompt, messages, kwargs)))

    def _made(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        prompt, messages, kwargs = prefixed(self, Given(prompt, messages, kwargs))
        drawn = self._drawn(kwargs)
        for number in itertools.count(1):
            admitted = run_blocking(calls.admit(THREAD, partial(_characters, prompt, messages)))
            with _OneCall(self, prompt, messages, drawn, admitted) as one, _collected(self) as lm:
                make = partial(_plain(lm).__call__, prompt, messages=messages, **drawn)
                blocking = calls.here().blocking
                outputs = make() if blocking is None else blocking(make)
                one.end(outputs)
            if not _is_known_as_bad(outputs, one.answer):
                return outputs
            drawn = self._rolled_out(kwargs, number)

    async def _made_async(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        prompt, messages, kwargs = prefixed(self, Given(prompt, messages, kwargs))
        drawn = self._drawn(kwargs)
        for number in itertools.count(1):
            admitted = await calls.admit(TASK, partial(_characters, prompt, messages))
            with _OneCall(self, prompt, messages, drawn, admitted) as one, _collected(self) as lm:
                if _only_blocks(type(self)):
                    make = partial(_plain(lm).__call__, prompt, messages=messages, **drawn)
                    outputs = await tasks.in_thread(make)
                else:
                    outputs = await _plain(lm).acall(prompt, messages=messages, **drawn)
                one.end(outputs)
            if not _is_known_as_bad(outputs, one.answer):
                return outputs
            drawn = self._rolled_out(kwargs, number)

    def _drawn(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the options of the call; for a sample, with its own rollout id and a temperature above 0.

        `dspy.BestOfN` does the same, and may be the caller: its rollout ids stay distinct.
        """
        sample = calls.here().sample
        if sample is None:
            return kwargs
        options = {**self.__dict__["kwargs"], **kwargs}
        rollout = (options.get("rollout_id") or 0) * sample.total + sample.number
        return {**kwargs, "rollout_id": rollout, "temperature": options.get("temperature") or 1.0}

    def _rolled_out(self, kwargs: dict[str, Any], number: int) -> dict[str, Any]:
        """Return the options of the call with another rollout id, after so many useless cached answers."""
        drawn = self._drawn(kwargs)
        options = {**self.__dict__["kwargs"], **drawn}
        rollout = (options.get("rollout_id") or 0) + _FAR * number
        return {**drawn, "rollout_id": rollout, "temperature": options.get("temperature") or 1.0}

    def span(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        """Return a block that is the span of a call."""
        return _spans.call(self.__dict__["model"], messages or prompt, {**self.__dict__["kwargs"], **kwargs})

    def update_history(self, entry: dict[str, Any]) -> None:
        call = calls.here().call
        with _settings(disable_history=True) if call is not None and call[1] else nullcontext():
            # The language model's class may add a price to the entry here.
            super().update_history(entry)  # type: ignore[misc]
        if call is not None:
            answer = answer_of(entry, may_be_cached=entry["kwargs"].get("cache", self.__dict__["cache"]))
            if calls.here().batched is not None and not answer.cached:
                # DSPy has no prices for engines other than its own.
                answer = own_price(answer, self.__dict__["model"], batch=call[0].job is not None)
            call[0].answer = answer
            if (heard := getattr(self, "heard", None)) is not None:
                heard(entry, answer)


def _plain(view: Any) -> Any:
    """Return a view with the methods of the user's class."""
    return cast("Any", super(_ObservedLM, view))


@contextmanager
def _collected(lm: Any) -> Generator[Any, None, None]:
    """Return a block that calls the model that it yields: this one, or one that collects calls for a job."""
    batched = calls.here().batched
    if batched is None:
        yield lm
        return
    with batched.call():
        yield batched.model(lm)


def _is_known_as_bad(outputs: Any, answer: Answer | None) -> bool:
    """Return whether an answer came from the cache and could not be parsed in an earlier attempt."""
    if answer is None or not answer.cached or not (unparsed := calls.here().unparsed):
        return False
    return any(
        (one.get("text") if isinstance(one, dict) else one) in unparsed for one in cast("list[Any]", outputs)
    )


@cache
def _only_blocks(kind: type[Any]) -> bool:
    """Return whether the class of a view defines `forward` and no async version."""
    base: Any = cast("Any", sys.modules["dspy"]).BaseLM
    defines = [
        name
        for name in ("forward", "aforward", "acall")
        if any(name in vars(one) for one in kind.__mro__ if one not in (_ObservedLM, *base.__mro__))
    ]
    return defines == ["forward"]


def _characters(prompt: Any, messages: Any) -> int:
    return len(str(prompt or "")) + sum(len(str(message)) for message in messages or ())


class _OneCall:
    """A block that is one call of a view: counted, traced, and settled at its end.

    A call in it reports its usage through an entry of DSPy's history, even if that is off.
    """

    __slots__ = ("_admitted", "_begin_span", "_changed", "_seen", "_span", "_stack")

    def __init__(
        self, view: _ObservedLM, prompt: Any, messages: Any, options: dict[str, Any], admitted: Any
    ) -> None:
        self._begin_span = partial(view.span, prompt, messages, options)
        self._admitted = admitted
        self._seen = calls.SeenCall()
        self._span: _spans.CallSpan | None = None
        self._stack: ExitStack | None = None

    @property
    def answer(self) -> Answer | None:
        """Its answer, once known."""
        return self._seen.answer

    def __enter__(self) -> Self:
        off: bool = cast("Any", sys.modules["dspy"]).settings.disable_history
        calls.begin_call()
        try:
            if off or _spans.tracer() is not None:
                self._stack = self._prepared(off=off)
        except BaseException as error:
            calls.end_call(None, error, self._admitted)
            raise
        self._changed = calls.changed(call=(self._seen, off))
        self._changed.__enter__()
        return self

    def _prepared(self, *, off: bool) -> ExitStack:
        """Begin its span, and turn the history on."""
        with ExitStack() as stack:
            self._span = span = stack.enter_context(self._begin_span())
            stream: Any = cast("Any", sys.modules["dspy"]).settings.send_stream
            if off:
                stack.enter_context(_settings(disable_history=False))
            if stream is not None and _spans.tracer() is not None:
                stack.enter_context(_settings(send_stream=_Heard(stream, span)))
            prepared = stack.pop_all()
        return prepared

    def end(self, outputs: Any) -> None:
        """Show the outputs in its span."""
        if self._span is not None:
            if self._seen.job is not None:
                self._span.note({"batch_job": self._seen.job})
            self._span.end(outputs, self._seen.answer)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._changed.__exit__(kind, error, trace)
            if self._stack is not None:
                self._stack.__exit__(kind, error, trace)
        finally:
            calls.end_call(self._seen.answer, error, self._admitted)


class _Heard:
    """A stream of DSPy's that tells a span when the first chunk of an answer is sent."""

    def __init__(self, stream: Any, span: _spans.CallSpan) -> None:
        self._stream = stream
        self._span: _spans.CallSpan | None = span

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def send(self, piece: Any) -> None:
        # Pieces without choices are status messages of DSPy's.
        if self._span is not None and hasattr(piece, "choices"):
            self._span.begun()
            self._span = None
        await self._stream.send(piece)


def _settings(**settings: Any) -> AbstractContextManager[Any]:
    return cast("Any", sys.modules["dspy"]).context(**settings)


@cache
def _lm_class(kind: type[Any]) -> type[Any]:
    names = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__slots__": ("around", "heard"),
    }
    return type(kind.__name__, (_ObservedLM, kind), names)
