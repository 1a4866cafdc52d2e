"""`ModelBinding`: a model by its name, which is reached when it is first called."""

import threading
from typing import TYPE_CHECKING, Any

from mahsm._dspy_lm import watched_lm
from mahsm._jit._values import tagged
from mahsm._state import shown
from mahsm.errors import JitError
from mahsm.operators._threads import traced

if TYPE_CHECKING:
    import dspy


class ModelBinding:
    """A language model by its name and options. Bindings with equal names and options are equal.

    DSPy's client is made, and credentials are read, when the model is first called; so operators can be built, compared and
    saved without any. Calls count in edges as those of DSPy modules do: towards rate limits, budgets and usage.

    Args:
        model: The model's name, as "openai/gpt-4o-mini".
        **options: What `dspy.LM` takes besides.

    Raises:
        JitError: when called while JAX traces or transforms a function: the call would be made once, for all inputs.

    Example:
        >>> from mahsm.operators import ModelBinding
        >>> ModelBinding("openai/gpt-4o-mini") == ModelBinding("openai/gpt-4o-mini")
        True
    """

    def __init__(self, model: str, **options: Any) -> None:
        if not isinstance(model, str) or not model:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"the model is {shown(model)}; expected a name, as 'openai/gpt-4o-mini', or a dspy.LM.")
        self.model = model
        self.options = options
        self._lm: Any = None
        self._lock = threading.Lock()
        self._tag: tuple[Any, ...] = (model, tagged(options))

    @classmethod
    def of(cls, model: Any, **options: Any) -> "ModelBinding":
        """A binding of a name or of a `dspy.LM`; a binding is left as it is, unless there are options.

        Raises:
            TypeError: for anything else.
        """
        if isinstance(model, ModelBinding):
            return cls(model.model, **{**model.options, **options}) if options and model._lm is None else model
        if all(hasattr(model, name) for name in ("model", "kwargs", "acall")):
            return cls._of_lm(model.copy(**options) if options else model)
        return cls(model, **options)

    @classmethod
    def _of_lm(cls, lm: Any) -> "ModelBinding":
        made = cls(lm.model)
        made._lm = lm
        made.options = {name: value for name, value in lm.kwargs.items() if value is not None}
        made._tag = (type(lm), lm.model, _tag_or_identity(lm))
        return made

    @property
    def lm(self) -> "dspy.LM":
        """DSPy's language model.

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
        """The model's answer to a prompt.

        Raises:
            JitError: while JAX traces a function.
        """
        return _text(watched_lm(self.lm)(prompt, **options))

    async def acall(self, prompt: str, **options: Any) -> str:
        """The same, to be awaited."""
        return _text(await watched_lm(self.lm).acall(prompt, **options))

    def _check_not_traced(self) -> None:
        if traced():
            raise JitError(
                f"the model {self.model!r} is called while JAX traces or transforms a function; it would be called once, and "
                "its answer used for all inputs. Call it outside, and hand its answer in as an array; or use a HybridOperator, "
                "which keeps the two apart."
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelBinding) and self._tag == other._tag

    def __hash__(self) -> int:
        return hash(self._tag)

    def __repr__(self) -> str:
        options = "".join(f", {name}={_secretly(name, value)}" for name, value in self.options.items())
        return f"ModelBinding({self.model!r}{options})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "ModelBinding":
        return self  # nothing of it changes

    def __reduce__(self) -> Any:
        return _rebuilt, (self.model, self.options)


def _rebuilt(model: str, options: dict[str, Any]) -> ModelBinding:
    return ModelBinding(model, **options)


def _tag_or_identity(lm: Any) -> Any:
    try:
        return tagged([getattr(lm, name, None) for name in ("kwargs", "model_type", "cache")])
    except TypeError:
        return id(lm)


def _secretly(name: str, value: Any) -> str:
    return "'...'" if any(word in name for word in ("key", "secret", "password", "auth")) else shown(value)


def _text(answers: list[Any]) -> str:
    first = answers[0]
    return first if isinstance(first, str) else first["text"]
