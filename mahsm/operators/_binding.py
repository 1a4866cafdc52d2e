"""`ModelBinding`: a language model by its name, whose client is made at the first call."""

import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from mahsm._common import shown, tagged
from mahsm._model_calls import observed_lm
from mahsm.errors import JitError
from mahsm.operators._threads import traced

if TYPE_CHECKING:
    import dspy


class ModelBinding:
    """A language model by its name and options. Bindings of the same model with the same options are equal.

    The `dspy.LM` is made, and credentials are read, at the first call; so operators can be built, compared
    and saved without credentials. In edges, calls count towards rate limits, budgets and usage, as calls of
    DSPy modules do.

    Two bindings of names, or of `dspy.LM`s, are equal if their names and all their options are equal. A
    language model of another class is equal only to itself. A pickle contains the model and its options
    without API keys; the process that loads it reads them from its environment.

    Args:
        model: The model's name, such as "openai/gpt-4o-mini".
        **options: Further arguments of `dspy.LM`.

    Raises:
        JitError: when called while JAX traces or transforms a function, since the model would be called once
            and its answer used for all inputs.
        TypeError: when pickled, if the class of the language model does not define how it is saved.

    Example:
        >>> from mahsm.operators import ModelBinding
        >>> ModelBinding("openai/gpt-4o-mini") == ModelBinding("openai/gpt-4o-mini")
        True
    """

    def __init__(self, model: str, **options: Any) -> None:
        if not isinstance(model, str) or not model:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"the model is {shown(model)}; expected a name, such as 'openai/gpt-4o-mini', or a dspy.LM."
            )
        self.model = model
        self.options = options
        self._lm: Any = None
        self._lock = threading.Lock()
        self._is_of_lm = False
        self._tag: tuple[Any, ...] = (model, _tag(options, self))

    @classmethod
    def of(cls, model: Any, **options: Any) -> "ModelBinding":
        """Return a binding of a name, of a `dspy.LM` or of a binding, with these options added.

        Raises:
            TypeError: if `model` is something else.
        """
        if isinstance(model, ModelBinding):
            if not options:
                return model
            return (
                cls.of(model._lm, **options)
                if model._is_of_lm
                else cls(model.model, **{**model.options, **options})
            )
        if all(hasattr(model, name) for name in ("model", "kwargs", "acall")):
            return cls._of_lm(model.copy(**options) if options else model)
        return cls(model, **options)

    @classmethod
    def _of_lm(cls, lm: Any) -> "ModelBinding":
        made = cls(lm.model)
        made._lm, made._is_of_lm = lm, True
        made.options = {name: value for name, value in lm.kwargs.items() if value is not None}
        made._tag = (type(lm), _tag(_what_tells(lm), lm))
        return made

    @property
    def lm(self) -> "dspy.LM":
        """The `dspy.LM`.

        Raises:
            JitError: while JAX traces a function.
        """
        self._check_not_traced()
        if self._lm is None:
            with self._lock:
                if self._lm is None:
                    import dspy

                    self._lm = dspy.LM(self.model, **self.options)
        return self._lm

    def __call__(self, prompt: str, **options: Any) -> str:
        """Return the model's answer to a prompt.

        Raises:
            JitError: while JAX traces a function.
        """
        return _text(observed_lm(self.lm)(prompt, **options))

    async def acall(self, prompt: str, **options: Any) -> str:
        """Async version of `__call__`."""
        return _text(await observed_lm(self.lm).acall(prompt, **options))

    def _check_not_traced(self) -> None:
        if traced():
            raise JitError(
                f"the model {self.model!r} is called while JAX traces or transforms a function; it would be "
                "called once, and its answer used for all inputs. Call it outside, and pass its answer in as "
                "an array; or use a HybridOperator, which keeps the two apart."
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelBinding) and self._tag == other._tag

    def __hash__(self) -> int:
        return hash(self._tag)

    def __repr__(self) -> str:
        options = "".join(
            f", {name}={_HIDDEN!r}"
            if _is_secret(name)
            else f", {name}={shown(_without_secrets(value, _HIDDEN))}"
            for name, value in self.options.items()
        )
        return f"ModelBinding({self.model!r}{options})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "ModelBinding":
        # It is immutable.
        return self

    def __reduce__(self) -> Any:
        if self._is_of_lm:
            return _of_state, (type(self._lm), _state(self._lm))
        return _named, (self.model, _without_secrets(self.options))


def _named(model: str, options: dict[str, Any]) -> ModelBinding:
    return ModelBinding(model, **options)


def _of_state(kind: Any, state: dict[str, Any]) -> ModelBinding:
    return ModelBinding.of(kind.load_state(state, allow_custom_lm_class=True))


def _state(lm: Any) -> dict[str, Any]:
    """Return the state that DSPy saves of a language model, without secrets.

    Raises:
        TypeError: if its class inherits `dump_state` or `load_state`, which may miss some of its attributes.
    """
    import dspy

    kind = cast("type[Any]", type(lm))
    if kind is not dspy.LM and not {"dump_state", "load_state"} <= vars(kind).keys():
        raise TypeError(
            f"the language model {lm.model!r}, of class {kind.__qualname__}, cannot be pickled: it would "
            "become another one. Define dump_state and the class method load_state on its class, as dspy.LM "
            "does; or bind a model by its name."
        )
    return {
        name: value for name, value in _without_secrets(lm.dump_state()).items() if name != "_dspy_lm_class"
    }


_TELLS_NOTHING = frozenset(
    {"history", "provider", "_engine_lock", "_engine_store", "_warned_zero_temp_rollout"}
)
"""Attributes of a `dspy.LM` that have no influence on its answers, or that follow from other attributes."""


def _what_tells(lm: Any) -> Any:
    """Return the attributes that distinguish a `dspy.LM`; for other classes, the identity of the object."""
    import dspy

    if type(lm) is not dspy.LM:
        return id(lm)
    return {
        name: sorted(value.items()) if name == "kwargs" else value
        for name, value in vars(lm).items()
        if name not in _TELLS_NOTHING
    }


def _tag(value: Any, otherwise: Any) -> Any:
    """Return a value to compare by; the identity of `otherwise`, if the value cannot be hashed."""
    try:
        return tagged(sorted(cast("dict[str, Any]", value).items()) if isinstance(value, dict) else value)
    except TypeError:
        return id(otherwise)


_HIDDEN = "..."
_SECRETS = re.compile(r"(?<!cache_)key|secret|passw|auth|credential|token$|cookie", re.IGNORECASE)


def _is_secret(name: Any) -> bool:
    return isinstance(name, str) and _SECRETS.search(name) is not None


def _without_secrets(value: Any, instead: str | None = None) -> Any:
    """Return a value without entries whose names suggest secrets, or with `instead` in their place."""
    if not isinstance(value, Mapping):
        return value
    left: dict[Any, Any] = {}
    for name, entry in cast("Mapping[Any, Any]", value).items():
        if not _is_secret(name):
            left[name] = _without_secrets(entry, instead)
        elif instead is not None:
            left[name] = instead
    return left


def _text(answers: list[Any]) -> str:
    first = answers[0]
    return first if isinstance(first, str) else first["text"]
