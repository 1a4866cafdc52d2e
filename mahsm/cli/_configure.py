"""`mahsm configure`: settings and credentials in files."""

import argparse
import getpass
import os
import sys
from typing import Any, cast

from mahsm._common import MASK
from mahsm._context._internal import (
    MISSING,
    Secret,
    checked_path,
    config_of,
    document,
    dotted,
    environment,
    files,
    here,
    is_secret,
    leaves,
    nested,
    save,
)
from mahsm.context import migrate
from mahsm.errors import ContextError


def run(options: argparse.Namespace) -> None:
    """Run `mahsm configure`.

    Raises:
        ContextError: for an invalid key or value, and broken or unsafe files.
    """
    if options.action == "migrate":
        _migrate(options.source)
    elif options.action in ("get", "show"):
        _get(options.key)
    elif options.action == "set":
        _set(options.key, options.value)
    elif options.action == "list":
        _list()
    else:
        _print(files.home())


def _get(key: str) -> None:
    found = config_of(here.NOTHING, dotted(checked_path(key)), MISSING)
    if found is MISSING:
        raise ContextError(
            f"{key} is not set; run 'mahsm configure set {key}', or 'mahsm configure list' for all."
        )
    _print(_shown(found))


def _set(key: str, text: str | None) -> None:
    path = checked_path(key)
    value = _credential(key, text) if is_secret(path) else _value(key, text)
    save(here.NOTHING.child(nested(path, value)))
    name = files.CREDENTIALS if _is_credential(path) else files.CONFIG
    _print(f"{'removed' if value is None else 'set'} {key} in {files.path_to(name)}")
    variable = environment.variable_of(path)
    if variable and os.environ.get(variable, "").strip():
        print(f"note: {variable} is set, and wins over the file", file=sys.stderr)  # noqa: T201


def _is_credential(path: tuple[str, ...]) -> bool:
    return path[0] == "credentials" or (path[0] == "providers" and path[2:] == ("api_key",))


def _credential(key: str, text: str | None) -> str | None:
    """Return a credential that the user types or pipes in; `null` removes it.

    Arguments are seen by other users of the machine, and kept in the shell's history.
    """
    if text is not None and text != "null":
        raise ContextError(
            f"{key} takes no value as an argument, which other users can see; run "
            f"'mahsm configure set {key}' and type it, or pipe it in: mahsm configure set {key} < file"
        )
    if text == "null":
        return None
    value = (getpass.getpass(f"{key}: ") if sys.stdin.isatty() else sys.stdin.read()).strip()
    if not value or len(value.split()) > 1:
        raise ContextError(f"{key}: {len(value.split())} words on stdin; expected a key without spaces.")
    return value


def _value(key: str, text: str | None) -> Any:
    if text is None:
        raise ContextError(
            f"{key} has no value; run 'mahsm configure set {key} VALUE', or null to remove it."
        )
    return document.parsed(f"value: {text}".encode(errors="surrogateescape"), key).get("value")


def _list() -> None:
    for path, source in sorted(_sources().items()):
        value = config_of(here.NOTHING, dotted(path))
        _print(f"{dotted(path)} = {_shown(value)}  ({source})")


def _sources() -> dict[tuple[str, ...], str]:
    """Return the keys of all settings, with the place that decides."""
    stored = {"credentials": files.credentials()}
    found: dict[tuple[str, ...], str] = {}
    for name, tree in ((files.CREDENTIALS, stored), (files.CONFIG, files.config())):
        found |= {path: name for path, value in leaves(tree) if value != {}}
    for path in (*environment.VARIABLES, *found):
        if environment.value_of(path) is not MISSING:
            found[path] = environment.variable_of(path) or ""
    return found


def _shown(value: Any) -> str:
    """Return a value as YAML on one line, with credentials hidden."""
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return f"{{{', '.join(f'{key}: {_shown(each)}' for key, each in items)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, cast('list[Any]', value)))}]"
    return {True: "true", False: "false", None: "null"}[value] if isinstance(value, bool) else str(value)


def _migrate(source: str) -> None:
    added = migrate(source)
    for key in added:
        _print(f"added {key}")
    _print(f"{len(added)} added to {files.home()}; {source} is unchanged")


def _print(line: str) -> None:
    print(line)  # noqa: T201
