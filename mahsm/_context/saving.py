"""Saving the settings of a layer: credentials into `credentials.yaml`, the rest into `config.yaml`."""

from functools import partial
from typing import Any, cast

from mahsm._context import files
from mahsm._context.credentials import field_of
from mahsm._context.layer import Layer
from mahsm._context.secret import Secret
from mahsm._context.values import Tree, dotted, laid_over, without_hidden
from mahsm._context.writing import Change, rewrite
from mahsm.errors import ContextError


def save(layer: Layer) -> None:
    """Write what a layer and those below it set, over what the files have; None removes a key.

    Raises:
        ContextError: as `rewrite`; also for values that YAML does not have.
    """
    settings, credentials = split(layer.merged)
    changes: dict[str, Change] = {}
    if credentials:
        # First, so that a kill in between leaves the old credential, not none.
        changes[files.CREDENTIALS] = partial(_merged, upper=credentials)
    if settings or credentials:
        changes[files.CONFIG] = partial(_merged_config, upper=settings, replaced=set(credentials))
    if changes:
        rewrite(changes)


def split(settings: Tree) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings without credentials, and the credentials by their names, both as YAML has them.

    Raises:
        ContextError: for values that YAML does not have.
    """
    rest = dict(settings)
    held = cast("dict[str, Any]", rest.pop("credentials", None) or {})
    providers = cast("dict[str, Any]", rest.get("providers") or {})
    for name, provider in providers.items():
        if provider is not None and "api_key" in provider:
            held = {field_of(name): provider["api_key"], **held}
            others = {key: value for key, value in provider.items() if key != "api_key"}
            rest["providers"] = {**rest["providers"], name: others}
    if "providers" in rest and rest["providers"] is not None:
        rest["providers"] = {key: value for key, value in rest["providers"].items() if value != {}}
        if not rest["providers"]:
            del rest["providers"]
    plain = {key: _plain(value, (key,)) for key, value in rest.items()}
    return plain, {name: _plain(value, ("credentials", name)) for name, value in held.items()}


def _merged(present: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    return without_hidden(laid_over(present, upper))


def _merged_config(present: dict[str, Any], upper: dict[str, Any], replaced: set[str]) -> dict[str, Any]:
    """Return the settings of `config.yaml` without credentials that are in `credentials.yaml` now.

    They would win over the new ones.
    """
    merged = _merged(present, upper)
    if isinstance(held := merged.get("credentials"), dict):
        kept = {name: each for name, each in cast("dict[str, Any]", held).items() if name not in replaced}
        merged["credentials"] = kept
    if isinstance(providers := merged.get("providers"), dict):
        merged["providers"] = {
            name: _without_key(each) if field_of(str(name)) in replaced else each
            for name, each in cast("dict[str, Any]", providers).items()
        }
    return {
        key: each for key, each in merged.items() if not (key in ("credentials", "providers") and not each)
    }


def _without_key(provider: Any) -> Any:
    if not isinstance(provider, dict):
        return provider
    return {key: value for key, value in cast("dict[str, Any]", provider).items() if key != "api_key"}


def _plain(value: Any, path: tuple[object, ...]) -> Any:
    """Return a value as YAML has it.

    Raises:
        ContextError: for other objects.
    """
    if isinstance(value, Secret):
        return value.get_secret_value()
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return {_key(key, path): _plain(each, (*path, key)) for key, each in items}
    if isinstance(value, list | tuple):
        return [_plain(each, (*path, place)) for place, each in enumerate(cast("list[Any]", value))]
    if value is None or type(value) in (str, bool, int, float):
        return value
    raise ContextError(
        f"{dotted(path)} has a value of type {type(value).__name__!r}, which cannot be saved; expected a "
        "string, a number, a bool, a list or a mapping. Set it in the program, not in files."
    )


def _key(key: object, path: tuple[object, ...]) -> object:
    if type(key) in (str, int, float, bool):
        return key
    raise ContextError(
        f"{dotted(path)} has a key of type {type(key).__name__!r}, which cannot be saved; expected a string."
    )
