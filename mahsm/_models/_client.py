"""`Client`: a `dspy.LM` that gets its credential when it calls, and keeps none.

DSPy takes `api_key` among the options of a language model, where callbacks see it, and where it is kept by
the pools of connections, which DSPy finds by their options. So a client has no such option. While a call of
it runs, and only in the context of that call, its `kwargs` have a key, which is looked up then. DSPy's own
client asks the key for its present value whenever it sends a request, so a pool of connections outlives a
rotation; LiteLLM takes it as the string that it is.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self, cast

import dspy

from mahsm import _context
from mahsm._common import MASK, learn_secret
from mahsm._context import Secret
from mahsm._models import _providers
from mahsm.errors import CredentialError


class Key(str):
    """A key for one call. Its repr is masked, and a pickle has nothing of it."""

    def __call__(self) -> str:
        """Return the key of the call that runs here; a pool keeps the key of its first call."""
        here = _key.get()
        return str(self if here is None else here[1])

    def __repr__(self) -> str:
        return repr(MASK)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> Any:
        return str, ("",)


def key_of(provider: str, value: str | Secret) -> Key:
    """Return the key that was given to a call or a client.

    Raises:
        CredentialError: if it is empty, and the provider takes no call without one; or if no HTTP header can
            have it.
    """
    value = (value.get_secret_value() if isinstance(value, Secret) else value).strip()
    if not value and _providers.needs_key(provider):
        # DSPy refuses it, and LiteLLM would look into the environment.
        raise CredentialError(
            f"models: api_key is empty, and {provider!r} needs a credential. Leave it out to have it looked "
            "up; or pass any string, if a server of your own takes calls without a key."
        )
    if not re.fullmatch(r"[ -~]*", value):
        raise CredentialError(
            f"models: the API key of {provider!r} has a character that no HTTP header can have, such as a "
            "line break or a quotation mark of a text program. Copy it again."
        )
    learn_secret(value)
    return Key(value)


_key: ContextVar[tuple[Any, Key] | None] = ContextVar("mahsm_model_key", default=None)
"""The attributes of a client, and the key of its call that runs here. Set by clients in their calls, and by
direct calls that were given a key; read by the `kwargs` of clients. Views of a client share its attributes.
Other clients may be called in the call, by an adapter or a callback, and have keys of their own."""


@contextmanager
def with_key(client: Any, key: Key | None) -> Generator[None, None, None]:
    """Use a key for the calls of a client in the block."""
    token = _key.set(None if key is None else (cast("Any", vars(client)), key))
    try:
        yield
    finally:
        _key.reset(token)


class Client(dspy.LM):
    """A `dspy.LM` whose credential is found at each call.

    Args:
        model: The model's name, with its provider.
        api_key: A key that takes precedence over the context, the environment and files.
        **options: Further options of `dspy.LM`.
    """

    def __init__(self, model: str, *, api_key: str | Secret | None = None, **options: Any) -> None:
        super().__init__(model, **options)
        self._own_key = None if api_key is None else key_of(self._of, api_key)
        self._engine_store = _Pools()

    @property
    def kwargs(self) -> dict[str, Any]:
        """The options of its calls; while one runs, with its key."""
        options: dict[str, Any] = self.__dict__["kwargs"]
        key = self._key_here()
        return options if key is None or "api_key" in options else {**options, "api_key": key}

    @kwargs.setter
    def kwargs(self, options: dict[str, Any]) -> None:
        self.__dict__["kwargs"] = options

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with with_key(self, self._key_of_call()):
            return cast("Any", super()).__call__(*args, **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        with with_key(self, self._key_of_call()):
            return await cast("Any", super()).acall(*args, **kwargs)

    @property
    def _of(self) -> str:
        return _providers.of(self.__dict__["model"])

    def _key_here(self) -> Key | None:
        here = _key.get()
        return here[1] if here is not None and here[0] is vars(self) else None

    def _key_of_call(self) -> Key | None:
        if (here := self._key_here()) is not None:
            return here
        return self._found_key() if self._own_key is None else self._own_key

    def _found_key(self) -> Key | None:
        provider, variables = self._of, _providers.variables(self._of)
        if (value := _context.credential(provider, variables)) is not None:
            return key_of(provider, value)
        if _context.is_hidden(provider):
            # Clients would look into the environment by themselves.
            _context.require_credential(provider, variables)
        return None

    def dump_state(self) -> dict[str, Any]:
        """Return the state of a plain `dspy.LM`, which DSPy loads anywhere."""
        return {**super().dump_state(), "_dspy_lm_class": "dspy.clients.lm.LM"}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_own_key": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._engine_store = _Pools()


class _Pools(dict[Any, Any]):
    """DSPy's pools of connections by their options, of which keys are left out."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(_without_key(key), default)

    def __setitem__(self, key: Any, pool: Any) -> None:
        super().__setitem__(_without_key(key), pool)


def _without_key(options: Any) -> Any:
    *others, clients = options
    return *others, tuple((name, None if isinstance(value, Key) else value) for name, value in clients)
