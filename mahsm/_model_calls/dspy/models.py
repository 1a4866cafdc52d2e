"""Language models that report what they do, in place of the user's and otherwise the same."""

import itertools
import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any, cast

from mahsm import _spans
from mahsm._common import Answer
from mahsm._model_calls import calls
from mahsm._model_calls.dspy.answers import answer_of
from mahsm._model_calls.dspy.around import Around
from mahsm._waiting import TASK, THREAD, run_blocking

_FAR = 1_000_000
"""Between rollout ids of the user's, and those after answers that could not be parsed."""


def observed_lm(lm: Any, around: Around | None = None) -> Any:
    """A view of a language model: the same state, connections and history, and calls that are seen."""
    if not hasattr(lm, "num_retries") or (isinstance(lm, _ObservedLM) and around is None):
        return lm
    kind = cast("type[Any]", type(lm))
    view: Any = object.__new__(kind if issubclass(kind, _ObservedLM) else _lm_class(kind))
    view.__dict__ = lm.__dict__
    view.around = around or Around()
    return view


class _ObservedLM:
    """What a view of a language model does otherwise."""

    around: Around

    @property
    def _around(self) -> Around:
        return getattr(self, "around", None) or Around()  # a deep copy has lost it

    @property
    def num_retries(self) -> int:
        return self.__dict__["num_retries"] if calls.here().clients_retry else 0

    @num_retries.setter
    def num_retries(self, value: int) -> None:
        self.__dict__["num_retries"] = value

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        with self._around.here():
            make = partial(self._made, prompt, messages, kwargs)
            return (
                make()
                if (keeper := calls.here().keeper) is None
                else keeper.call(make, (prompt, messages, kwargs))
            )

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        with self._around.here():
            make = partial(self._made_async, prompt, messages, kwargs)
            keeper = calls.here().keeper
            return await (make() if keeper is None else keeper.call_async(make, (prompt, messages, kwargs)))

    def _made(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        drawn = self._drawn(kwargs)
        for number in itertools.count(1):
            characters = partial(_characters, prompt, messages)
            with (
                calls.call(run_blocking(calls.admit(THREAD, characters))) as seen,
                self._span(prompt, messages, drawn) as span,
                _reported(seen),
                _first_heard(span),
            ):
                make = partial(cast("Any", super()).__call__, prompt, messages=messages, **drawn)
                blocking = calls.here().blocking
                outputs = make() if blocking is None else blocking(make)
                span.end(outputs, seen.answer)
            if not _is_known_as_bad(outputs, seen.answer):
                return outputs
            drawn = self._rolled_out(kwargs, number)

    async def _made_async(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        drawn = self._drawn(kwargs)
        for number in itertools.count(1):
            admitted = await calls.admit(TASK, partial(_characters, prompt, messages))
            with (
                calls.call(admitted) as seen,
                self._span(prompt, messages, drawn) as span,
                _reported(seen),
                _first_heard(span),
            ):
                outputs = await cast("Any", super()).acall(prompt, messages=messages, **drawn)
                span.end(outputs, seen.answer)
            if not _is_known_as_bad(outputs, seen.answer):
                return outputs
            drawn = self._rolled_out(kwargs, number)

    def _drawn(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The options of the call; of a sample, with a rollout id of its own, and a temperature at which
        answers differ.

        As `dspy.BestOfN` does it, which may be what calls: its own rollout ids stay apart.
        """
        sample = calls.here().sample
        if sample is None:
            return kwargs
        options = {**self.__dict__["kwargs"], **kwargs}
        rollout = (options.get("rollout_id") or 0) * sample.total + sample.number
        return {**kwargs, "rollout_id": rollout, "temperature": options.get("temperature") or 1.0}

    def _rolled_out(self, kwargs: dict[str, Any], number: int) -> dict[str, Any]:
        """The options of the call with another rollout id, after so many answers from the cache that were of
        no use.
        """
        drawn = self._drawn(kwargs)
        options = {**self.__dict__["kwargs"], **drawn}
        rollout = (options.get("rollout_id") or 0) + _FAR * number
        return {**drawn, "rollout_id": rollout, "temperature": options.get("temperature") or 1.0}

    def _span(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        return _spans.call(self.__dict__["model"], messages or prompt, {**self.__dict__["kwargs"], **kwargs})

    def update_history(self, entry: dict[str, Any]) -> None:
        call = calls.here().call
        with _settings(disable_history=True) if call is not None and call[1] else nullcontext():
            super().update_history(entry)  # type: ignore[misc]  # it may add a price
        if call is not None:
            call[0].answer = answer_of(
                entry, may_be_cached=entry["kwargs"].get("cache", self.__dict__["cache"])
            )


def _is_known_as_bad(outputs: Any, answer: Answer | None) -> bool:
    """Whether it comes from the cache, and an attempt before could not be parsed from it."""
    if answer is None or not answer.cached or not (unparsed := calls.here().unparsed):
        return False
    return any(
        (one.get("text") if isinstance(one, dict) else one) in unparsed for one in cast("list[Any]", outputs)
    )


def _characters(prompt: Any, messages: Any) -> int:
    return len(str(prompt or "")) + sum(len(str(message)) for message in messages or ())


@contextmanager
def _reported(seen: calls.SeenCall) -> Generator[None, None, None]:
    """The block makes the call. DSPy says in its history what it took; where that is off, it is on for this
    entry only.
    """
    off: bool = cast("Any", sys.modules["dspy"]).settings.disable_history
    with calls.changed(call=(seen, off)), _settings(disable_history=False) if off else nullcontext():
        yield


@contextmanager
def _first_heard(span: _spans.CallSpan) -> Generator[None, None, None]:
    """The block makes the call, whose span is told when the first piece of a streamed answer comes."""
    stream: Any = cast("Any", sys.modules["dspy"]).settings.send_stream
    if stream is None or _spans.tracer() is None:
        yield
        return
    with _settings(send_stream=_Heard(stream, span)):
        yield


class _Heard:
    """A stream of DSPy's that tells a span when the first piece of an answer is sent."""

    def __init__(self, stream: Any, span: _spans.CallSpan) -> None:
        self._stream = stream
        self._span: _spans.CallSpan | None = span

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def send(self, piece: Any) -> None:
        if self._span is not None and hasattr(piece, "choices"):  # else it is a message of DSPy's
            self._span.begun()
            self._span = None
        await self._stream.send(piece)


def _settings(**settings: Any) -> AbstractContextManager[Any]:
    return cast("Any", sys.modules["dspy"]).context(**settings)


@cache
def _lm_class(kind: type[Any]) -> type[Any]:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__slots__": ("around",)}
    return type(kind.__name__, (_ObservedLM, kind), names)
