"""Looking up a credential, at the moment of the call that needs it."""

from collections.abc import Sequence
from typing import Any

from mahsm._common import learn_secret, shown
from mahsm._context import environment, files, system_keyring
from mahsm._context.here import current
from mahsm._context.layer import Layer
from mahsm._context.secret import Secret
from mahsm._context.values import HIDDEN, MISSING, Path, Tree, dig
from mahsm.errors import ContextError, CredentialError


def field_of(provider: str) -> str:
    """Return the name of a provider's credential below `credentials`, such as `openai_api_key`.

    Raises:
        ContextError: for a provider that is not a name.
    """
    name = provider.strip().lower().replace("-", "_") if isinstance(provider, str) else ""  # pyright: ignore[reportUnnecessaryIsInstance]
    if not name or "." in name:
        raise ContextError(f"provider {shown(provider)}; expected a name, such as 'openai'.")
    return f"{name}_api_key"


def credential(provider: str, variables: Sequence[str] = ()) -> str | None:
    """Return the credential of a provider in the current context.

    The first of these that has one decides: the context, the environment, `config.yaml`,
    `credentials.yaml`, the system's keyring. A context that sets it to None, or to an empty string, has none,
    and hides the others.

    Args:
        provider: Such as `openai`.
        variables: Environment variables to look at; by default `<PROVIDER>_API_KEY`.

    Raises:
        ContextError: if a file has to be read and is broken or unsafe.
    """
    return credential_of(current(), provider, variables)


def credential_of(layer: Layer, provider: str, variables: Sequence[str] = ()) -> str | None:
    """Return the credential of a provider for a layer; as `credential`."""
    found = _found(layer, provider, variables)
    if found is None:
        return None
    learn_secret(found[0])
    return found[0]


def source_of(provider: str, variables: Sequence[str] = ()) -> str | None:
    """Return where the credential of a provider is from in the current context, such as "OPENAI_API_KEY",
    "config.yaml" or "the keyring"; None if there is none.

    Args:
        provider: As for `credential`.
        variables: As for `credential`.

    Raises:
        ContextError: if a file has to be read and is broken or unsafe.
    """
    found = _found(current(), provider, variables)
    return None if found is None else found[1]


def require_credential(provider: str, variables: Sequence[str] = ()) -> str:
    """Return the credential of a provider in the current context.

    Raises:
        CredentialError: if there is none; the message says where to set it.
    """
    if (found := credential(provider, variables)) is not None:
        return found
    raise CredentialError(f"no credential for provider {provider!r}. {where(provider, variables)}")


def is_hidden(provider: str) -> bool:
    """Return whether the current context sets the credential of a provider, if only to None."""
    return _in_context(current(), provider, field_of(provider)) is not MISSING


def where(provider: str, variables: Sequence[str] = ()) -> str:
    """Return a sentence that says how to set the credential of a provider, for an error."""
    field = field_of(provider)
    if _in_context(current(), provider, field) is not MISSING:
        return (
            f"The context sets credentials.{field} to None or an empty string; leave it out, or pass a key."
        )
    names = " or ".join(_variables(field, variables))
    return (
        f"Set {names}, or run 'mahsm configure set credentials.{field}', which writes it to "
        f"{files.path_to(files.CREDENTIALS)}."
    )


def _found(layer: Layer, provider: str, variables: Sequence[str]) -> tuple[str, str] | None:
    """Return the credential, and where it is from; None if there is none."""
    field = field_of(provider)
    held = _in_context(layer, provider, field)
    if held is not MISSING:
        return _from("the context", _plain(held))
    for variable in _variables(field, variables):
        if (found := environment.first_of((variable,))) is not None:
            return found, variable
    for name, tree in ((files.CONFIG, files.config), (files.CREDENTIALS, _stored)):
        if (found := _plain(_in_tree(tree(), provider, field))) is not None:
            return found, name
    return _from("the keyring", system_keyring.password(field))


def _from(source: str, found: str | None) -> tuple[str, str] | None:
    return None if found is None else (found, source)


def _stored() -> Tree:
    return {"credentials": files.credentials()}


def _variables(field: str, variables: Sequence[str]) -> tuple[str, ...]:
    given = (variables,) if isinstance(variables, str) else tuple(variables)
    return given or (field.upper(),)


def _in_context(layer: Layer, provider: str, field: str) -> Any:
    """Return what the innermost layer that has the credential sets it to, or `MISSING`."""
    each: Layer | None = layer
    while each is not None:
        if (found := _in_tree(each.values, provider, field)) is not MISSING:
            return found
        each = each.parent
    return MISSING


def _in_tree(tree: Tree, provider: str, field: str) -> Any:
    paths: tuple[Path, ...] = (("credentials", field), ("providers", provider.strip(), "api_key"))
    for path in paths:
        if (found := dig(tree, path)) is not MISSING:
            return found
    return MISSING


def _plain(held: Any) -> str | None:
    if held is MISSING or held is HIDDEN:
        return None
    assert isinstance(held, Secret), "settings below these keys are checked"
    return held.get_secret_value().strip() or None
