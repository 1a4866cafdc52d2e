"""DSPy's calls: language models and adapters that report what they do, in place of the user's and otherwise the same."""

import copy
import itertools
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, copy_context
from functools import cache, partial
from typing import Any, ClassVar, Self, cast

from mahsm import _bars, _calls, _spans
from mahsm._meters import Answer

_FAR = 1_000_000
"""Between rollout ids of the user's, and those after answers that could not be parsed."""
_seen: ContextVar[tuple[_calls.SeenCall, bool] | None] = ContextVar("mahsm_dspy_call", default=None)
"""The call that is being made here, and whether DSPy's history is off."""
blocking_calls: ContextVar[Callable[[Callable[[], Any]], Any]] = ContextVar("mahsm_blocking_calls", default=lambda make: make())
"""How blocking calls of language models are made here."""
_watching: ContextVar[bool] = ContextVar("mahsm_watching", default=False)


@contextmanager
def watched_settings() -> Generator[None, None, None]:
    """A block in which every call of a language model is seen; what `dspy.configure` sets in it holds in it.

    Direct calls go through `settings.lm`. Predictors may have a language model of their own, but all of them hand it to the
    adapter. What is called in neither way is seen by its entry in DSPy's history, once it has ended.
    """
    overrides, around = _overrides(), _Around()
    tokens = _watching.set(True), overrides.set(_WatchedSettings(overrides.get(), around))
    try:
        yield
    finally:
        around.is_over = True
        overrides.reset(tokens[1])
        _watching.reset(tokens[0])


class _WatchedSettings(Mapping[str, Any]):
    """What a `dspy.context` sets, in place of which views stand.

    `dspy.context` itself would set all that was configured before, and hide what is configured later.

    Args:
        present: What is set around.
        around: The context in which the block is watched.
    """

    def __init__(self, present: Any, around: "_Around") -> None:
        self._present = present
        self._configured: dict[str, Any] = cast("Any", sys.modules["dspy.dsp.utils.settings"]).main_thread_config
        self._around = around
        self._tracer = _spans.tracer()
        self._views: dict[str, tuple[Any, Any]] = {}

    def __getitem__(self, name: str) -> Any:
        make = self._MAKERS.get(name)
        if make is None:
            return self._present[name]
        value = self._present[name] if name in self._present else self._configured.get(name)
        known = self._views.get(name)
        if known is None or known[0] is not value:  # a view stays the same, with what is done to it
            self._views[name] = known = value, make(self, value)
        return known[1]

    def __contains__(self, name: object) -> bool:
        return name in self._MAKERS or name in self._present

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self._MAKERS), **self._present})

    def __len__(self) -> int:
        return len(list(iter(self)))

    def copy(self) -> dict[str, Any]:
        """What is set now."""
        return {**self._present.copy(), **{name: self[name] for name in self._MAKERS}}

    def _lm(self, lm: Any) -> Any:
        return lm if lm is None else watched_lm(lm, self._around)

    def _adapter(self, adapter: Any) -> Any:
        return _watched_adapter(adapter or cast("Any", sys.modules["dspy"]).ChatAdapter(), self._around)

    def _callers(self, callers: Any) -> list[Any]:
        return [_Reader(self._around), *(one for one in callers or () if not isinstance(one, _Reader))]

    def _callbacks(self, callbacks: list[Any]) -> list[Any]:
        return callbacks if self._tracer is None else [*callbacks, *self._tracer.dspy_callbacks(callbacks)]

    _MAKERS: ClassVar[dict[str, Callable[[Any, Any], Any]]] = {
        "lm": _lm,
        "adapter": _adapter,
        "caller_modules": _callers,
        "callbacks": _callbacks,
    }


def watch_here() -> None:
    """Let the calls be seen of what a `dspy.context` inside of a watched block has set."""
    overrides = _overrides().get()
    kept = isinstance(overrides, _WatchedSettings)
    if not kept and not hasattr(overrides["adapter"], "_mahsm_around"):
        overrides["adapter"] = _WatchedSettings(overrides, _Around())["adapter"]


def _overrides() -> "ContextVar[Any]":
    """What `dspy.context` sets; DSPy has no public name for it."""
    return cast("Any", sys.modules["dspy.dsp.utils.settings"]).thread_local_overrides


def is_watching() -> bool:
    """Whether calls of language models are seen here."""
    return _watching.get()


def regained() -> AbstractContextManager[None]:
    """A block in the context of the watched block around it, also in a thread of DSPy's that knows only its settings."""
    dspy: Any = sys.modules.get("dspy")
    if dspy is not None:
        _bars.shield()
    around = None if dspy is None or _watching.get() else getattr(dspy.settings.adapter, "_mahsm_around", None)
    return nullcontext() if around is None else around.here()


class _Around:
    """The context in which a block is watched, for threads that know DSPy's settings of it and nothing else.

    `dspy.Parallel`, and with it `Module.batch` and `dspy.Evaluate`, starts such threads.
    """

    def __init__(self) -> None:
        self._context = copy_context()
        self.is_over = False
        """The block has ended; views of it may live on in copies of DSPy's settings, and count nothing any more."""

    def here(self) -> AbstractContextManager[None]:
        """A block that has the context, wherever it runs."""
        return nullcontext() if _watching.get() or self.is_over else self._restored()

    @contextmanager
    def _restored(self) -> Generator[None, None, None]:
        present = copy_context()
        tokens = [(variable, variable.set(value)) for variable, value in self._context.items() if variable not in present]
        try:
            yield
        finally:
            for variable, token in tokens:
                variable.reset(token)


class _Reader:
    """Reads the entries that DSPy adds to the histories of calling modules, of which it seems to be one."""

    def __init__(self, around: _Around) -> None:
        self._around = around

    @property
    def history(self) -> Self:
        return self

    def __len__(self) -> int:
        return 0

    def pop(self, index: int) -> None:
        """Nothing is kept."""

    def append(self, entry: dict[str, Any]) -> None:
        if _seen.get() is not None:  # a view of the language model sees the call
            return
        answer = _answer(entry, may_be_cached=entry["kwargs"].get("cache", True))
        with self._around.here():
            _calls.begin_call()
            _calls.end_call(answer)


def watched_lm(lm: Any, around: _Around | None = None) -> Any:
    """A view of a language model: the same state, connections and history, and calls that are seen."""
    if not hasattr(lm, "num_retries") or (isinstance(lm, _WatchedLM) and around is None):
        return lm
    kind = cast("type[Any]", type(lm))
    view: Any = object.__new__(kind if issubclass(kind, _WatchedLM) else _lm_class(kind))
    view.__dict__ = lm.__dict__
    view.around = around or _Around()
    return view


class _WatchedLM:
    """What a view of a language model does otherwise."""

    around: _Around

    @property
    def _around(self) -> _Around:
        return getattr(self, "around", None) or _Around()  # a deep copy has lost it

    @property
    def num_retries(self) -> int:
        return self.__dict__["num_retries"] if _calls.clients_retry.get() else 0

    @num_retries.setter
    def num_retries(self, value: int) -> None:
        self.__dict__["num_retries"] = value

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        with self._around.here():
            make = partial(self._made, prompt, messages, kwargs)
            return make() if (keeper := _calls.keeper.get()) is None else keeper.call(make, (prompt, messages, kwargs))

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        with self._around.here():
            make = partial(self._made_async, prompt, messages, kwargs)
            keeper = _calls.keeper.get()
            return await (make() if keeper is None else keeper.call_async(make, (prompt, messages, kwargs)))

    def _made(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        drawn = self._drawn(kwargs)
        for number in itertools.count(1):
            characters = partial(_characters, prompt, messages)
            with (
                _calls.call(characters) as seen,
                self._span(prompt, messages, drawn) as span,
                _reported(seen),
                _first_heard(span),
            ):
                make = partial(cast("Any", super()).__call__, prompt, messages=messages, **drawn)
                outputs = blocking_calls.get()(make)
                span.end(outputs, seen.answer)
            if not _is_known_as_bad(outputs, seen.answer):
                return outputs
            drawn = self._rolled_out(kwargs, number)

    async def _made_async(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        drawn = self._drawn(kwargs)
        for number in itertools.count(1):
            async with _calls.call_async(partial(_characters, prompt, messages)) as seen:
                with self._span(prompt, messages, drawn) as span, _reported(seen), _first_heard(span):
                    outputs = await cast("Any", super()).acall(prompt, messages=messages, **drawn)
                    span.end(outputs, seen.answer)
            if not _is_known_as_bad(outputs, seen.answer):
                return outputs
            drawn = self._rolled_out(kwargs, number)

    def _drawn(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The options of the call; of a sample, with a rollout id of its own, and a temperature at which answers differ.

        As `dspy.BestOfN` does it, which may be what calls: its own rollout ids stay apart.
        """
        sample = _calls.sample.get()
        if sample is None:
            return kwargs
        options = {**self.__dict__["kwargs"], **kwargs}
        rollout = (options.get("rollout_id") or 0) * sample.total + sample.number
        return {**kwargs, "rollout_id": rollout, "temperature": options.get("temperature") or 1.0}

    def _rolled_out(self, kwargs: dict[str, Any], number: int) -> dict[str, Any]:
        """The options of the call with another rollout id, after so many answers from the cache that were of no use."""
        drawn = self._drawn(kwargs)
        options = {**self.__dict__["kwargs"], **drawn}
        rollout = (options.get("rollout_id") or 0) + _FAR * number
        return {**drawn, "rollout_id": rollout, "temperature": options.get("temperature") or 1.0}

    def _span(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        return _spans.call(self.__dict__["model"], messages or prompt, {**self.__dict__["kwargs"], **kwargs})

    def update_history(self, entry: dict[str, Any]) -> None:
        here = _seen.get()
        with _settings(disable_history=True) if here is not None and here[1] else nullcontext():
            super().update_history(entry)  # type: ignore[misc]  # it may add a price
        if here is not None:
            here[0].answer = _answer(entry, may_be_cached=entry["kwargs"].get("cache", self.__dict__["cache"]))


def _answer(entry: dict[str, Any], *, may_be_cached: bool) -> Answer:
    usage: dict[str, Any] = entry.get("usage") or {}
    return Answer(
        model=str(entry.get("response_model") or entry.get("model") or ""),
        input_tokens=usage.get("prompt_tokens", 0),
        output_tokens=usage.get("completion_tokens", 0),
        usd=entry.get("cost"),
        cached=may_be_cached and not usage,  # DSPy keeps the price of a cached answer, and drops its usage
        known=bool(usage),
        cache_read_tokens=_detail(usage, "prompt", "cached_tokens"),
        cache_creation_tokens=_detail(usage, "prompt", "cache_creation_tokens"),
        reasoning_tokens=_detail(usage, "completion", "reasoning_tokens"),
    )


def _detail(usage: dict[str, Any], side: str, name: str) -> Any:
    """A kind of tokens, of which DSPy has a dict and LiteLLM an object; None if nobody says."""
    details: Any = usage.get(f"{side}_tokens_details")
    return cast("dict[str, Any]", details).get(name) if isinstance(details, dict) else getattr(details, name, None)


def _is_known_as_bad(outputs: Any, answer: Answer | None) -> bool:
    """Whether it comes from the cache, and an attempt before could not be parsed from it."""
    if answer is None or not answer.cached or not (unparsed := _calls.unparsed.get()):
        return False
    return any((one.get("text") if isinstance(one, dict) else one) in unparsed for one in cast("list[Any]", outputs))


def unparsed_in(error: BaseException | None) -> frozenset[str]:
    """The answers that could not be parsed, if that is why it failed: of each adapter that tried."""
    found: set[str] = set()
    while error is not None:
        if isinstance(answer := getattr(error, "lm_response", None), str):
            found.add(answer)
        inside: tuple[BaseException, ...] = getattr(error, "exceptions", ())  # of a group
        found.update(*map(unparsed_in, inside))
        error = error.__cause__ or error.__context__
    return frozenset(found)


def _characters(prompt: Any, messages: Any) -> int:
    return len(str(prompt or "")) + sum(len(str(message)) for message in messages or ())


@contextmanager
def _reported(seen: _calls.SeenCall) -> Generator[None, None, None]:
    """The block makes the call. DSPy says in its history what it took; where that is off, it is on for this entry only."""
    off: bool = cast("Any", sys.modules["dspy"]).settings.disable_history
    token = _seen.set((seen, off))
    try:
        with _settings(disable_history=False) if off else nullcontext():
            yield
    finally:
        _seen.reset(token)


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
    return type(kind.__name__, (_WatchedLM, kind), names)


def _watched_adapter(adapter: Any, around: _Around) -> Any:
    kind = cast("type[Any]", type(adapter))
    view = copy.copy(adapter)
    if not getattr(kind, "_mahsm", False):
        view.__class__ = _adapter_class(kind)
    view._mahsm_around = around
    return view


@cache
def _adapter_class(kind: type[Any]) -> type[Any]:
    def __call__(self: Any, lm: Any, *args: Any, **kwargs: Any) -> Any:
        _calls.check_refused()
        return kind.__call__(self, watched_lm(lm, self._mahsm_around), *args, **kwargs)

    async def acall(self: Any, lm: Any, *args: Any, **kwargs: Any) -> Any:
        _calls.check_refused()
        return await kind.acall(self, watched_lm(lm, self._mahsm_around), *args, **kwargs)

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
