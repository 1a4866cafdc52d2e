"""DSPy's settings in a block whose calls are observed; `models` explains how."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, ClassVar, Self, cast

from mahsm import _spans
from mahsm._model_calls import calls
from mahsm._model_calls.dspy.adapters import observed_adapter
from mahsm._model_calls.dspy.answers import answer_of
from mahsm._model_calls.dspy.around import Around
from mahsm._model_calls.dspy.models import observed_lm
from mahsm.errors import EdgeError


class observed_settings:
    """A block in which all calls of DSPy's language models are observed.

    `dspy.configure` may be called in the block: its changes apply there, too.
    """

    __slots__ = ("_around", "_overrides", "_token")

    def __enter__(self) -> None:
        self._overrides, self._around = _overrides(), Around()
        self._token = self._overrides.set(_ObservedSettings(self._overrides.get(), self._around))

    def __exit__(self, *error: object) -> None:
        self._around.is_over = True
        self._overrides.reset(self._token)


class _ObservedSettings(Mapping[str, Any]):
    """The overrides that a `dspy.context` would set, with views in place of the user's objects.

    Views are made when a setting is read. `dspy.context` would copy all settings when the block begins, and
    so hide the changes that `dspy.configure` makes later.

    Args:
        present: The overrides around the block.
        around: The context of the block.
    """

    def __init__(self, present: Any, around: "Around") -> None:
        # In an observed block inside another one, each setting would be looked up in both.
        self._outer = present if type(present) is _ObservedSettings else None
        self._present: Any = present if self._outer is None else self._outer._present
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
        value = self._viewed(name)
        known = self._views.get(name)
        # The view is kept as long as the value is the same, and with it the changes that users make to it.
        if known is None or known[0] is not value:
            self._views[name] = known = value, make(self, value)
        return known[1]

    def _viewed(self, name: str) -> Any:
        """Return the value that a view is made of: the user's object, or the view of a block around."""
        if self._outer is None:
            return self._present[name] if name in self._present else self._configured.get(name)
        value = self._outer._viewed(name)
        known = self._outer._views.get(name)
        return value if known is None or known[0] is not value else known[1]

    def __contains__(self, name: object) -> bool:
        return name in self._MAKERS or name in self._present

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self._MAKERS), **self._present})

    def __len__(self) -> int:
        return len(list(iter(self)))

    def copy(self) -> dict[str, Any]:
        """Return the present overrides as a dict."""
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
    """Observe the calls of models that a `dspy.context` inside an observed block has set."""
    overrides = _overrides().get()
    kept = isinstance(overrides, _ObservedSettings)
    if not kept and not hasattr(overrides["adapter"], "_mahsm_around"):
        overrides["adapter"] = _ObservedSettings(overrides, Around())["adapter"]


def _overrides() -> "ContextVar[Any]":
    """Return the variable that `dspy.context` sets; DSPy has no public name for it."""
    return cast("Any", sys.modules["dspy.dsp.utils.settings"]).thread_local_overrides


class _Reader:
    """Poses as a calling module, so that DSPy appends every entry of its history to it."""

    def __init__(self, around: Around) -> None:
        self._around = around

    @property
    def history(self) -> Self:
        return self

    def __len__(self) -> int:
        return 0

    def pop(self, index: int) -> None:
        """No-op: no entry is kept."""

    def append(self, entry: dict[str, Any]) -> None:
        # A view of the language model observes this call.
        if calls.here().call is not None:
            return
        answer = answer_of(entry, may_be_cached=entry["kwargs"].get("cache", True))
        with self._around.here():
            calls.record_call(answer)
            if calls.here().batched is not None and not answer.cached:
                raise EdgeError(
                    f"batch_api=: the model {entry['model']!r} was called as an object of its own, at the "
                    "full price. Call dspy.settings.lm, use a predictor or dspy_node, or leave batch_api out."
                )
