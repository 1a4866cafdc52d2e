"""`ModelBinding`: a language model by its name, whose client is made at the first call."""

import re
import threading
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, cast

from mahsm._common import shown, tagged
from mahsm._context import Secret, copied_out
from mahsm._models import _calls, _clients, _providers
from mahsm._models._ask import Ask
from mahsm._models._stream import Stream
from mahsm._numeric import traced
from mahsm._waiting import TASK, THREAD, run_blocking
from mahsm.errors import JitError, ModelError

if TYPE_CHECKING:
    import dspy

    from mahsm._models._response import Response


class ModelBinding:
    """A language model by its name and options. Bindings of the same model with the same options are equal.

    The client is made at the first call, and credentials are looked up at each call; so bindings can be made,
    compared and saved without credentials. In edges, calls count towards rate limits, budgets and usage, as
    calls of DSPy modules do. A binding is a target of every edge, whose result is the text, a field of an
    operator, and a step of a jitted function.

    Two bindings of names, or of `dspy.LM`s, are equal if their names and all their options are equal. A
    language model of another class is equal only to itself. A pickle contains the model and its options
    without API keys.

    Args:
        model: The model's name, such as "openai/gpt-4o-mini" or "gpt-4"; None for the default of the context
            at each call.
        **options: Options of its calls, such as `temperature`, and further arguments of `dspy.LM`.

    Raises:
        ModelError: when called, if the name is unknown.
        JitError: when called while JAX traces or transforms a function, since the model would be called once
            and its answer used for all inputs.
        TypeError: when pickled, if the class of the language model does not define how it is saved.

    Example:
        >>> from mahsm import models
        >>> models.instance("openai/gpt-4o-mini") == models.instance("openai/gpt-4o-mini")
        True
    """

    model: str | None
    options: Mapping[str, Any]
    is_of_client: bool
    _client: Any
    _lock: threading.Lock
    _tag: tuple[Any, ...]
    _is_comparable: bool

    def __init__(self, model: str | None, **options: Any) -> None:
        if model is not None and (not isinstance(model, str) or not model):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"the model is {shown(model)}; expected a name, such as 'openai/gpt-4o-mini', a dspy.LM, or "
                "a chat model of LangChain."
            )
        held = _held(options)
        tag = _tag(held, self)
        self._set(
            model=model,
            options=held,
            is_of_client=False,
            _client=None,
            _lock=threading.Lock(),
            _tag=(model, tag),
            _is_comparable=tag != id(self),
        )

    @classmethod
    def of(cls, model: Any, **options: Any) -> "ModelBinding":
        """Return a binding of a name, a `dspy.LM`, a LangChain chat model or a binding, with these options.

        Raises:
            TypeError: if `model` is something else.
        """
        if isinstance(model, ModelBinding):
            if not options:
                return model
            return (
                cls.of(model._client, **options)
                if model.is_of_client
                else cls(model.model, **{**model.options, **options})
            )
        if _clients.is_lm(model):
            return cls._of_client(model.copy(**options) if options else model)
        if _clients.is_chat_model(model):
            return cls._of_client(model, **options)
        return cls(model, **options)

    def with_options(self, **options: Any) -> "ModelBinding":
        """Return a binding of the same model with these options, too."""
        return ModelBinding.of(self, **options)

    @classmethod
    def _of_client(cls, client: Any, **options: Any) -> "ModelBinding":
        made = cls(_clients.name_of(client))
        if _clients.is_lm(client):
            options = {name: value for name, value in client.kwargs.items() if value is not None}
        kind: Any = type(client)  # pyright: ignore[reportUnknownVariableType]
        tag: Any = kind, _tag(_what_tells(client), client), _tag(options, client)
        made._set(options=_held(options), is_of_client=True, _client=client, _tag=tag)
        return made

    def _set(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    @property
    def client(self) -> Any:
        """The client: a `dspy.LM`, or a chat model of LangChain.

        Raises:
            ModelError: if the name is unknown.
        """
        if self._client is not None:
            return self._client
        if self.model is None:
            return _clients.default(self.options)
        if self._is_comparable:
            return _clients.shared.get(self._tag, self.model, self.options)
        with self._lock:
            if self._client is None:
                self._set(_client=_clients.make(self.model, self.options))
            return self._client

    @property
    def lm(self) -> "dspy.LM":
        """The `dspy.LM`.

        Raises:
            JitError: while JAX traces a function.
            ModelError: if the name is unknown, or a chat model of LangChain.
        """
        self.check_not_traced()
        return _clients.lm_of(self.client)

    def __call__(
        self, prompt: Any, *, system: str | None = None, output: Any = None, **options: Any
    ) -> "Response":
        """Return the model's response to a prompt; `models(...)` has the arguments.

        Raises:
            CredentialError: if the provider's credential is missing.
            JitError: while JAX traces a function.
            ModelError: if the model is unknown, or an argument is invalid.
        """
        return run_blocking(_calls.respond(THREAD, self, Ask(prompt, system, output, options)))

    async def acall(
        self, prompt: Any, *, system: str | None = None, output: Any = None, **options: Any
    ) -> "Response":
        """Async version of `__call__`."""
        return await _calls.respond(TASK, self, Ask(prompt, system, output, options))

    def stream(self, prompt: Any, *, system: str | None = None, **options: Any) -> "Stream":
        """Return the parts of the model's response as they arrive; `models.stream` explains it.

        Raises:
            ModelError: if `output` is among the options.
        """
        if options.pop("output", None) is not None:
            raise ModelError("models: a stream has no output=; it is of text. Call the model for an output.")
        return Stream(partial(_calls.respond, TASK, self, Ask(prompt, system, None, options)))

    astream = stream

    def as_node(self, input_key: str = "item", output_key: str | None = None) -> Any:
        """Return a LangGraph node that answers a prompt of the state with a text.

        Args:
            input_key: The state key of the prompt. In an edge it is the item.
            output_key: The state key of the text; None to return the text itself, as in a `vmap`.

        Example:
            >>> from langgraph.graph import StateGraph
            >>> from mahsm import models
            >>> node = models.instance("gpt-4").as_node("question", "answer")
            >>> _ = StateGraph(dict).add_node("answer", node)
        """
        from mahsm._models._node import binding_node

        return binding_node(self, input_key, output_key)

    _mahsm_node = as_node
    """Edges make the node of a target with it."""

    def _mahsm_provider(self) -> str:
        """Return the provider, whose rate limit and retry budget edges use."""
        return _providers.of(_clients.name_of(self.client))

    def check_not_traced(self) -> None:
        """Check that JAX traces no function here.

        Raises:
            JitError: if it does.
        """
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

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"{name}={shown(value)}: a ModelBinding cannot be changed; make another one with "
            "models.instance(binding, ...)."
        )

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name}: a ModelBinding cannot be changed.")

    def __copy__(self) -> "ModelBinding":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "ModelBinding":
        return self

    def __reduce__(self) -> Any:
        if self.is_of_client:
            return _of_state, (type(self._client), _state(self._client), _without_secrets(self.options))
        return _named, (self.model, _without_secrets(self.options))


def _held(options: dict[str, Any]) -> Mapping[str, Any]:
    """Return options that cannot be changed, and whose API key no output shows."""
    held = copied_out(options)
    if isinstance(key := held.get("api_key"), str):
        held["api_key"] = Secret(key)
    return MappingProxyType(held)


def _named(model: str | None, options: dict[str, Any]) -> ModelBinding:
    return ModelBinding(model, **options)


def _of_state(kind: Any, state: Any, options: dict[str, Any]) -> ModelBinding:
    if isinstance(state, dict):
        return ModelBinding.of(kind.load_state(state, allow_custom_lm_class=True))
    return ModelBinding.of(state, **options)


def _state(client: Any) -> Any:
    """Return the state that DSPy saves of a language model, without secrets; a chat model itself.

    Raises:
        TypeError: if its class inherits `dump_state` or `load_state`, which may miss some of its attributes.
    """
    import dspy

    if not _clients.is_lm(client):
        return client
    lm = client
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
    return {name: value for name, value in vars(lm).items() if name not in _TELLS_NOTHING}


def _tag(value: Any, otherwise: Any) -> Any:
    """Return a value to compare by; the identity of `otherwise`, if the value cannot be hashed."""
    try:
        return tagged(_sorted(value))
    except TypeError:
        return id(otherwise)


def _sorted(value: Any) -> Any:
    """Return a value whose dicts are in the order of their keys."""
    kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind in (list, tuple):
        return cast("Any", kind(map(_sorted, value)))
    if not isinstance(value, Mapping):
        return value
    items = cast("Mapping[Any, Any]", value).items()
    return {key: _sorted(each) for key, each in sorted(items, key=lambda item: repr(item[0]))}


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
