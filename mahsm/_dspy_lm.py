"""DSPy's calls: language models and adapters that report what they do, in place of the user's and otherwise the same."""

import copy
import sys
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import cache
from typing import Any, cast

from mahsm import _calls, _spans
from mahsm._usage import Answer

_seen: ContextVar[_calls.SeenCall | None] = ContextVar("mahsm_dspy_call", default=None)


def watched_settings() -> AbstractContextManager[Any]:
    """A `dspy.context` in which every call of a language model is seen.

    Direct calls go through `settings.lm`. Predictors may have a language model of their own, but all of them hand it to the
    adapter.
    """
    dspy: Any = sys.modules["dspy"]
    adapter: Any = dspy.settings.adapter or dspy.ChatAdapter()
    lm: Any = dspy.settings.lm
    watched: dict[str, Any] = {"adapter": _watched_adapter(adapter)}
    if lm is not None:
        watched["lm"] = watched_lm(lm)
    if (tracer := _spans.tracer()) is not None:
        present: list[Any] = dspy.settings.callbacks
        watched["callbacks"] = [*present, *tracer.dspy_callbacks(present)]
    return dspy.context(**watched)


def watched_lm(lm: Any) -> Any:
    """A view of a language model: the same state, connections and history, and calls that are seen."""
    if isinstance(lm, _WatchedLM) or not hasattr(lm, "num_retries"):
        return lm
    view: Any = object.__new__(_lm_class(cast("type[Any]", type(lm))))
    view.__dict__ = lm.__dict__
    return view


class _WatchedLM:
    """What a view of a language model does otherwise."""

    @property
    def num_retries(self) -> int:
        return self.__dict__["num_retries"] if _calls.clients_retry.get() else 0

    @num_retries.setter
    def num_retries(self, value: int) -> None:
        self.__dict__["num_retries"] = value

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        with _calls.call(_characters(prompt, messages)) as seen, self._span(prompt, messages, kwargs) as span:
            token = _seen.set(seen)
            try:
                outputs = cast("Any", super()).__call__(prompt, messages=messages, **kwargs)
            finally:
                _seen.reset(token)
            span.end(outputs, seen.answer)
            return outputs

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        async with _calls.call_async(_characters(prompt, messages)) as seen:
            with self._span(prompt, messages, kwargs) as span:
                token = _seen.set(seen)
                try:
                    outputs = await cast("Any", super()).acall(prompt, messages=messages, **kwargs)
                finally:
                    _seen.reset(token)
                span.end(outputs, seen.answer)
                return outputs

    def _span(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        return _spans.call(self.__dict__["model"], messages or prompt, {**self.__dict__["kwargs"], **kwargs})

    def update_history(self, entry: dict[str, Any]) -> None:
        if (seen := _seen.get()) is not None:
            seen.answer = _answer(entry, may_be_cached=entry["kwargs"].get("cache", self.__dict__["cache"]))
        super().update_history(entry)  # type: ignore[misc]


def _answer(entry: dict[str, Any], *, may_be_cached: bool) -> Answer:
    usage: dict[str, Any] = entry.get("usage") or {}
    return Answer(
        model=str(entry.get("response_model") or entry.get("model") or ""),
        input_tokens=int(usage.get("prompt_tokens") or 0),
        output_tokens=int(usage.get("completion_tokens") or 0),
        usd=entry.get("cost"),
        cached=may_be_cached and not usage,  # DSPy keeps the price of a cached answer, and drops its usage
    )


def _characters(prompt: Any, messages: Any) -> int:
    return len(str(prompt or "")) + sum(len(str(message)) for message in messages or ())


@cache
def _lm_class(kind: type[Any]) -> type[Any]:
    return type(kind.__name__, (_WatchedLM, kind), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})


def _watched_adapter(adapter: Any) -> Any:
    kind = cast("type[Any]", type(adapter))
    if getattr(kind, "_mahsm", False):
        return adapter
    view = copy.copy(adapter)
    view.__class__ = _adapter_class(kind)
    return view


@cache
def _adapter_class(kind: type[Any]) -> type[Any]:
    def __call__(self: Any, lm: Any, *args: Any, **kwargs: Any) -> Any:
        return kind.__call__(self, watched_lm(lm), *args, **kwargs)

    async def acall(self: Any, lm: Any, *args: Any, **kwargs: Any) -> Any:
        return await kind.acall(self, watched_lm(lm), *args, **kwargs)

    made: Any = type(
        kind.__name__,
        (kind,),
        {
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__call__": __call__,
            "acall": acall,
            "_mahsm": True,
        },
    )
    for name in ("format", "parse"):  # DSPy wraps these once more in every subclass, and callbacks would come twice
        if name in vars(made):
            delattr(made, name)
    return made
