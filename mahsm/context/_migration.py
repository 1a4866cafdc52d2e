"""`migrate`: settings and credentials of `~/.ember`."""

import json
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

from mahsm._context._internal import (
    checked,
    document,
    dotted,
    field_of,
    files,
    guard,
    laid_over,
    leaves,
    rewrite,
    split,
    without_hidden,
)
from mahsm.errors import ContextError

_CREDENTIALS: Final = ("credentials", "credentials.json", "credentials.yaml")
_SETTINGS: Final = ("config.json", "config.yaml")


def migrate(source: str = "~/.ember") -> list[str]:
    """Copy settings and credentials of an Ember folder into the files of mahsm.

    Reads `credentials`, `credentials.json` and `credentials.yaml`, then `config.json` and `config.yaml`, as
    JSON or YAML; later ones win. What mahsm's files have already stays. The source is not changed. Keys such
    as `${OPENAI_API_KEY}`, which name an environment variable, are left out.

    Args:
        source: The folder.

    Returns:
        The dotted keys that were added, sorted.

    Raises:
        ContextError: if the folder does not exist, or a file in it or of mahsm is broken or unsafe.
    """
    path = os.path.abspath(os.path.expanduser(source))
    try:
        settings, credentials = _read(path)
    except FileNotFoundError:
        raise ContextError(
            f"{path} does not exist; expected a folder with config.yaml or credentials."
        ) from None
    added: list[str] = []
    changes: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        files.CREDENTIALS: partial(_added, lower=credentials, above=("credentials",), added=added),
        files.CONFIG: partial(_added, lower=settings, above=(), added=added),
    }
    # A credential that config.yaml has already would win anyway.
    present = split(files.config())[1]
    for name in present:
        credentials.pop(name, None)
    rewrite(changes)
    return sorted(added)


def _added(
    present: dict[str, Any], lower: dict[str, Any], above: tuple[str, ...], added: list[str]
) -> dict[str, Any]:
    merged = laid_over(lower, present)
    known = {path for path, _ in leaves(present)}
    added += [dotted((*above, *path)) for path, _ in leaves(merged) if path not in known]
    return merged


def _read(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings and the credentials of all files of a folder."""
    settings: dict[str, Any] = {}
    credentials: dict[str, Any] = {}
    with guard.folder(path, repair=False) as folder:
        for name in _CREDENTIALS:
            credentials |= _by_field(_file(folder, name, f"{path}/{name}"))
        for name in _SETTINGS:
            settings = laid_over(settings, _file(folder, name, f"{path}/{name}"))
    rest, held = split(checked(settings, f"{path}: "))
    credentials |= {name: key for name, key in held.items() if _is_key(key)}
    return without_hidden(rest), credentials


def _file(folder: int, name: str, path: str) -> dict[str, Any]:
    try:
        data, _ = guard.read(folder, name, path, repair=False)
    except FileNotFoundError:
        return {}
    if data.lstrip()[:1] == b"{" and not name.endswith(".yaml"):
        found = _json(data)
        if isinstance(found, dict):
            return cast("dict[str, Any]", found)
    return document.parsed(data, path)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        # The YAML reader says where it is broken.
        return None


def _by_field(stored: dict[str, Any]) -> dict[str, str]:
    """Return credentials by `openai_api_key`, from `openai: {api_key: ...}`, `openai: ...` or that name."""
    found: dict[str, str] = {}
    for name, value in stored.items():
        key: Any = cast("dict[str, Any]", value).get("api_key") if isinstance(value, dict) else value
        if _is_key(key):
            field = str(name).lower()
            found[field if field.endswith("_api_key") else field_of(field)] = key
    return found


def _is_key(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not value.strip().startswith("${")
