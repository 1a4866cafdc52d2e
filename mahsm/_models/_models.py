"""`models`: direct calls of language models."""

import builtins
from collections.abc import Mapping
from typing import Any, overload

from mahsm._common import shown
from mahsm._model_calls import priced_models
from mahsm._models import _clients, _providers
from mahsm._models._binding import ModelBinding
from mahsm._models._response import Response
from mahsm._models._stream import Stream
from mahsm.errors import ModelError

_MISSING: Any = object()


class Models:
    """Direct calls of language models: `models("openai/gpt-4o-mini", "Hello")`.

    Calls with the same model share a client, and with it its connections. In edges they count towards rate
    limits, budgets and usage, as calls of DSPy modules do; elsewhere they wait for the rate limit of their
    provider, if it has one. In a jitted function they are steps.

    Example:
        >>> from mahsm import models
        >>> from mahsm.testing import FakeLM
        >>> print(models(FakeLM("Rome"), "What is the capital of Italy?"))
        Rome
    """

    __name__ = "models"

    @overload
    def __call__(
        self, prompt: Any, /, *, system: str | None = ..., output: Any = ..., **options: Any
    ) -> Response: ...
    @overload
    def __call__(
        self, model: Any, prompt: Any, /, *, system: str | None = ..., output: Any = ..., **options: Any
    ) -> Response: ...
    def __call__(
        self,
        model: Any,
        prompt: Any = _MISSING,
        /,
        *,
        system: str | None = None,
        output: Any = None,
        **options: Any,
    ) -> Response:
        """Return a model's response to a prompt.

        Args:
            model: The model's name, such as "openai/gpt-4o-mini" or "gpt-4"; a binding, a `dspy.LM` or a chat
                model of LangChain's; None, or left out, for the default of the context.
            prompt: A string; a list of parts, strings and `dspy.Image`s; or a list of messages with roles,
                such as `{"role": "user", "content": "Hello"}`, `("user", "Hello")` or LangChain's.
            system: Instructions: a message that comes first.
            output: The type of a structured output, such as a pydantic model, `float` or
                `Literal["yes", "no"]`; the response has it as `output`.
            **options: Options of the call, such as `temperature`, `max_tokens`, `cache`, `api_key` and
                `api_base`, and those of `dspy.LM`. They win over those of a binding, and these over those of
                the context.

        Raises:
            CredentialError: if the provider's credential is missing.
            JitError: while JAX traces a function.
            ModelError: if the model is unknown, or an argument is invalid.

        Example:
            >>> from mahsm import models
            >>> from mahsm.testing import FakeLM
            >>> str(models(FakeLM("Rome"), "What is the capital of Italy?"))
            'Rome'
        """
        binding, prompt = _bound(model, prompt, options)
        return binding(prompt, system=system, output=output, **options)

    @overload
    async def acall(
        self, prompt: Any, /, *, system: str | None = ..., output: Any = ..., **options: Any
    ) -> Response: ...
    @overload
    async def acall(
        self, model: Any, prompt: Any, /, *, system: str | None = ..., output: Any = ..., **options: Any
    ) -> Response: ...
    async def acall(
        self,
        model: Any,
        prompt: Any = _MISSING,
        /,
        *,
        system: str | None = None,
        output: Any = None,
        **options: Any,
    ) -> Response:
        """Async version of `models(...)`."""
        binding, prompt = _bound(model, prompt, options)
        return await binding.acall(prompt, system=system, output=output, **options)

    def stream(
        self, model: Any, prompt: Any = _MISSING, /, *, system: str | None = None, **options: Any
    ) -> Stream:
        """Return the parts of a response as they arrive, for `for` and for `async for`.

        The arguments are those of `models(...)`. When the stream has ended, its `response` is the whole.

        Example:
            >>> from mahsm import models
            >>> from mahsm.testing import FakeLM
            >>> "|".join(models.stream(FakeLM("It is Rome."), "What is the capital of Italy?"))
            'It| is| Rome.'
        """
        binding, prompt = _bound(model, prompt, options)
        return binding.stream(prompt, system=system, **options)

    astream = stream

    def instance(self, model: Any = None, **options: Any) -> ModelBinding:
        """Return a reusable binding of a model and options. It needs no credential until it calls.

        Args:
            model: As for `models(...)`; None for the default of the context at each call.
            **options: Options of its calls.

        Example:
            >>> from mahsm import models
            >>> precise = models.instance("openai/gpt-4o-mini", temperature=0)
            >>> precise
            ModelBinding('openai/gpt-4o-mini', temperature=0)
        """
        return ModelBinding(None, **options) if model is None else ModelBinding.of(model, **options)

    def register(self, name: str, entry: Any) -> None:
        """Register a provider or a model of your own, or an alias.

        Args:
            name: A provider, "acme", for all models "acme/..."; a model, "acme/large"; or a name without a
                provider, "fast".
            entry: A subclass of `dspy.BaseLM`, or a function of a name and options that returns a language
                model or a chat model of LangChain's; one of these themselves; or a string, for an alias.

        Raises:
            ModelError: immediately, if `name` or `entry` is something else.

        Example:
            >>> from mahsm import models
            >>> from mahsm.testing import FakeLM
            >>> models.register("acme", lambda name, **options: FakeLM(f"I am {name}."))
            >>> models.register("fast", "acme/small")
            >>> str(models("fast", "Who are you?"))
            'I am acme/small.'
        """
        if not isinstance(name, str) or not name.strip("/"):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ModelError(
                f"models.register: the name is {shown(name)}; expected a string, such as 'acme'."
            )
        usable = (
            isinstance(entry, str)
            or callable(entry)
            or _clients.is_lm(entry)
            or _clients.is_chat_model(entry)
        )
        if not usable or not entry:
            raise ModelError(
                f"models.register: {name!r} is to be {shown(entry)}; expected a subclass of dspy.BaseLM, a "
                "function that returns one, a chat model of LangChain's, or the name of a model."
            )
        _providers.registry.add(name, entry)
        _clients.shared.clear()

    def unregister(self, name: str) -> None:
        """Remove what is registered under a name; without effect if nothing is."""
        _providers.registry.remove(name)
        _clients.shared.clear()

    def list(self, provider: str | None = None) -> builtins.list[str]:
        """Return the names of known models, sorted: those with a price, and registered ones.

        Other models of a known provider can be called, too.

        Args:
            provider: Only those of this provider.

        Raises:
            ModelError: if the provider is unknown.

        Example:
            >>> from mahsm import models
            >>> "openai/gpt-4o-mini" in models.list("openai")
            True
        """
        if provider is not None:
            _providers.check(provider, f"{provider}/...")
        names = {f"{of}/{model}" for of, model in priced_models()} | set(_providers.registry.names())
        return sorted(name for name in names if provider is None or name.partition("/")[0] == provider)

    def providers(self) -> builtins.list[str]:
        """Return the names of known providers, sorted.

        Example:
            >>> from mahsm import models
            >>> {"anthropic", "openai"} <= set(models.providers())
            True
        """
        return sorted(_providers.known())

    def __repr__(self) -> str:
        return "mahsm.models"

    def __reduce__(self) -> str:
        return "models"


def _bound(model: Any, prompt: Any, options: Mapping[str, Any]) -> tuple[ModelBinding, Any]:
    """Return the binding of a direct call, and its prompt.

    Raises:
        ModelError: if an option is the prompt or the model, as other clients call them.
    """
    if found := _POSITIONAL & options.keys():
        raise ModelError(
            f"models: {min(found)}= is no option; expected the model, and then the prompt, a string or "
            "messages: models('openai/gpt-4o-mini', 'Hello')."
        )
    if prompt is _MISSING:
        model, prompt = None, model
    return (ModelBinding(None) if model is None else ModelBinding.of(model)), prompt


_POSITIONAL = {"messages", "model", "prompt"}

models: Models = Models()
"""The one instance."""
