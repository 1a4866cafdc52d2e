"""A direct call of a model: from a prompt and options to a `Response`, written once for threads and tasks."""

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol, cast

from pydantic import SecretStr

from mahsm import _context
from mahsm._common import learn_secret, redacted
from mahsm._context import Secret
from mahsm._model_calls import calls, heard_lm, in_attempt, restored_context
from mahsm._models import _clients, _names, _providers
from mahsm._models._ask import Ask
from mahsm._models._response import Heard, Response
from mahsm._waiting import THREAD, Way
from mahsm.errors import CredentialError, MahsmError


class Binding(Protocol):
    """A model and options.

    Attributes:
        model: The model's name; None for the default of the context.
        options: Options of its calls.
        is_of_client: True if it is of a client, which has its own settings, and not of a name.
    """

    is_of_client: bool
    model: str | None
    options: Mapping[str, Any]

    @property
    def client(self) -> Any:
        """The client of its calls."""
        ...

    def with_options(self, **options: Any) -> "Binding":
        """Return a binding with these options, too."""
        ...

    def check_not_traced(self) -> None:
        """Check that JAX traces no function here."""
        ...


async def respond(
    way: Way, binding: Binding, ask: Ask, on_part: Callable[[str], None] | None = None
) -> Response:
    """Call the model of a binding.

    Args:
        way: As a thread or as a task.
        binding: The model.
        ask: The prompt, and options that win over those of the binding, which win over those of the context.
        on_part: Called with each part of the text as it arrives, in a task.
    """
    binding.check_not_traced()
    # A thread of `dspy.Parallel` has no context variables, such as budgets.
    with restored_context():
        return await _responded(way, binding, ask, on_part)


async def _responded(way: Way, binding: Binding, ask: Ask, on_part: Callable[[str], None] | None) -> Response:
    client, options = _prepared(binding, dict(ask.options))
    ask = ask._replace(options=options)
    if _clients.is_chat_model(client):
        from mahsm._models import _chat_models

        try:
            return await _chat_models.respond(way, client, ask, on_part)
        except Exception as error:
            _learn_keys(client)
            _mask(error)
            raise
    line = _line(_providers.of(client.model))
    if line is None:
        return await _made(way, client, ask, on_part)
    if way is THREAD:
        with line:
            return await _made(way, client, ask, on_part)
    async with line:
        return await _made(way, client, ask, on_part)


async def _made(way: Way, client: Any, ask: Ask, on_part: Callable[[str], None] | None) -> Response:
    """Call a language model of DSPy's, once it may be called."""
    options = ask.options
    heard, key = Heard(), _given_key(client, options.pop("api_key", None))
    lm, sink = heard_lm(client, heard.add), None if on_part is None else _Sink(on_part)
    try:
        if key is not None and not hasattr(client, "_own_key"):
            # A client of the user's takes a key as its other options.
            options["api_key"] = str(key)
        if key is None and sink is None:
            value = await _answer(way, lm, ask)
        else:
            with _with_key(client, key), _sent_to(sink):
                value = await _answer(way, lm, ask)
    except Exception as error:
        has_key = key is not None or getattr(client, "_own_key", None) is not None
        _explain(error, client, options, has_key=has_key)
        raise
    response = heard.response(value)
    if sink is not None and response.text and not sink.has_sent:
        # DSPy streams no answers of its cache, and a model of your own may not stream at all.
        sink.part(response.text)
    return response


def _prepared(binding: Binding, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the client of a call, and the call's options with those of the context."""
    if binding.is_of_client:
        own = {option: options.pop(option) for option in options.keys() & _clients.OF_CLIENTS}
        client = (binding.with_options(**own) if own else binding).client
        return client, {**binding.options, **options} if _clients.is_chat_model(client) else options
    if binding.model is None:
        # Its client is shared with bindings that have other options.
        options = {**binding.options, **options}
    name = _names.full(_names.default() if binding.model is None else binding.model)
    for option, value in _clients.of_context(_providers.of(name)).items():
        if option not in binding.options:
            options.setdefault(option, value)
    own = {option: options.pop(option) for option in options.keys() & _clients.OF_CLIENTS}
    if binding.model is None:
        return _clients.default(own), options
    return (binding.with_options(**own) if own else binding).client, options


async def _answer(way: Way, lm: Any, ask: Ask) -> Any:
    """Call the model; return the structured output, if one is asked for."""
    if ask.output is not None:
        from mahsm._models import _structured

        return await _structured.answer(way, lm, ask)
    if isinstance(ask.prompt, str) and ask.system is None:
        await way.call(partial(lm, ask.prompt, **ask.options), partial(lm.acall, ask.prompt, **ask.options))
        return None
    from mahsm._models import _prompts

    await _prompts.answer(way, lm, ask)
    return None


def _given_key(client: Any, key: str | Secret | None) -> Any:
    """Return the `Key` of a call that was given one."""
    if key is None:
        return None
    from mahsm._models._client import key_of

    return key_of(_providers.of(client.model), key)


def _with_key(client: Any, key: Any) -> AbstractContextManager[None]:
    if key is None:
        return nullcontext()
    from mahsm._models._client import with_key

    return with_key(client, key)


def _sent_to(sink: "_Sink | None") -> AbstractContextManager[Any]:
    """Return a block whose calls stream, and send the parts of their text."""
    if sink is None:
        return nullcontext()
    import dspy

    return dspy.context(send_stream=sink)


class _Sink:
    """What DSPy sends the chunks of an answer to.

    Attributes:
        has_sent: True if a part has arrived.
    """

    def __init__(self, on_part: Callable[[str], None]) -> None:
        self._on_part = on_part
        self.has_sent = False

    def part(self, part: str) -> None:
        """Pass a part of the text on."""
        self.has_sent = True
        self._on_part(part)

    async def send(self, chunk: Any) -> None:
        for choice in getattr(chunk, "choices", ()):
            # Of several answers, the text is the first one.
            if not getattr(choice, "index", 0) and (part := getattr(choice.delta, "content", None)):
                self.part(part)


def _line(provider: str) -> Any:
    """Return a block in the provider's line, if the provider has a limit and no edge waits for it."""
    # Code that has a limit has imported them.
    limits: Any = sys.modules.get("mahsm.limits._internal")
    if limits is None or calls.here().gate is not None or in_attempt():
        return None
    return limits.admit(provider) if limits.is_defined(provider) else None


def _explain(error: Exception, client: Any, options: dict[str, Any], *, has_key: bool) -> None:
    """Mask secrets in an error, and raise one that says how to set a missing credential in its place."""
    provider = _providers.of(client.model)
    names = {kind.__name__ for kind in type(error).__mro__}
    variables = _providers.variables(provider)
    # Some clients make the call without a key, which then fails in any way.
    is_hosted = _providers.needs_key(provider) and not {"api_base", "base_url"} & {*options, *client.kwargs}
    is_refused = is_hosted or names & {"LMNotConfiguredError", "LMAuthError"}
    # An error of mahsm's has another cause.
    is_refused = is_refused and not isinstance(error, MahsmError)
    if is_refused and not has_key and _context.credential(provider, variables) is None:
        raise CredentialError(
            f"models: {client.model!r} needs a credential of {provider!r}, and none is found. "
            f"{_context.where(provider, variables)}"
        ) from error
    _mask(error)


def _learn_keys(chat: Any) -> None:
    """Have the keys of a chat model of LangChain's masked, which holds them itself."""
    values = list(cast("dict[str, Any]", vars(chat)).values())
    for value in values:
        if isinstance(value, SecretStr):
            learn_secret(value.get_secret_value())


def _mask(error: BaseException | None) -> None:
    """Mask secrets in the messages of an error and of its causes: providers quote keys that they refuse."""
    while error is not None:
        error.args = tuple(redacted(arg) if isinstance(arg, str) else arg for arg in error.args)
        message = getattr(error, "message", None)
        if isinstance(message, str) and redacted(message) != message:
            vars(error)["message"] = redacted(message)
        error = error.__cause__ or error.__context__
