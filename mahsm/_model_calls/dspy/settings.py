"""DSPy's settings in a block in which its calls are seen."""

import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Self, cast

from mahsm import _spans
from mahsm._model_calls import calls
from mahsm._model_calls.dspy.adapters import observed_adapter
from mahsm._model_calls.dspy.answers import answer_of
from mahsm._model_calls.dspy.around import Around
from mahsm._model_calls.dspy.models import observed_lm


@contextmanager
def observed_settings() -> Generator[None, None, None]:
    """A block in which every call of a language model is seen; what `dspy.configure` sets in it holds in it.

    Direct calls go through `settings.lm`. Predictors may have a language model of their own, but all of them
    hand it to the adapter. What is called in neither way is seen by its entry in DSPy's history, once it has
    ended.
    """
    overrides, around = _overrides(), Around()
    token = overrides.set(_ObservedSettings(overrides.get(), around))
    try:
        yield
    finally:
        around.is_over = True
        overrides.reset(token)


class _ObservedSettings(Mapping[str, Any]):
    """What a `dspy.context` sets, in place of which views stand.

    `dspy.context` itself would set all that was configured before, and hide what is configured later.

    Args:
        present: What is set around.
        around: The context in which the block is watched.
    """

    def __init__(self, present: Any, around: "Around") -> None:
        self._present = present
        self._configured: dict[str, Any] = cast(
            "Any", sys.modules["dspy.dsp.utils.settings"]
        ).main_thread_config
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
        return lm if lm is None else observed_lm(lm, self._around)

    def _adapter(self, adapter: Any) -> Any:
        return observed_adapter(adapter or cast("Any", sys.modules["dspy"]).ChatAdapter(), self._around)

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


def observe_here() -> None:
    """Let the calls be seen of what a `dspy.context` inside of a watched block has set."""
    overrides = _overrides().get()
    kept = isinstance(overrides, _ObservedSettings)
    if not kept and not hasattr(overrides["adapter"], "_mahsm_around"):
        overrides["adapter"] = _ObservedSettings(overrides, Around())["adapter"]


def _overrides() -> "ContextVar[Any]":
    """What `dspy.context` sets; DSPy has no public name for it."""
    return cast("Any", sys.modules["dspy.dsp.utils.settings"]).thread_local_overrides


class _Reader:
    """Reads the entries that DSPy adds to the histories of calling modules, of which it seems to be one."""

    def __init__(self, around: Around) -> None:
        self._around = around

    @property
    def history(self) -> Self:
        return self

    def __len__(self) -> int:
        return 0

    def pop(self, index: int) -> None:
        """Nothing is kept."""

    def append(self, entry: dict[str, Any]) -> None:
        if calls.here().call is not None:  # a view of the language model sees the call
            return
        answer = answer_of(entry, may_be_cached=entry["kwargs"].get("cache", True))
        with self._around.here():
            calls.record_call(answer)
