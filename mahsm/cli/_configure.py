"""`mahsm configure`: settings and credentials in files."""

import difflib
import os
import sys
from typing import Annotated, Any, cast

from cyclopts import Parameter

from mahsm._common import MASK
from mahsm._context._internal import (
    MISSING,
    Secret,
    checked_path,
    config_of,
    document,
    dotted,
    environment,
    field_of,
    files,
    here,
    is_secret,
    leaves,
    nested,
    save,
)
from mahsm.cli._asking import key_of
from mahsm.cli._outcome import Json, Output
from mahsm.errors import ContextError


def get(key: str, /, *, json: Json = False) -> Output:
    """Print a setting; credentials are hidden.

    Args:
        key: Such as `models.default`.
    """
    found = config_of(here.NOTHING, dotted(checked_path(key)), MISSING)
    if found is MISSING:
        raise ContextError(
            f"{key} is not set; run 'mahsm configure set {key}', or 'mahsm configure list' for all."
        )
    return Output({"key": key, "value": _hidden(found)}, [_shown(found)], json)


def put(
    key: str,
    value: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    /,
    *,
    json: Json = False,
) -> Output:
    """Write a setting; a credential is asked for, or read from standard input.

    Args:
        key: Such as `models.default` or `credentials.openai_api_key`.
        value: As in YAML; `null` removes the key. Not for a credential, which other users could see.
    """
    path = _path_to_set(key)
    new = _credential(key, value) if is_secret(path) else _value(path, value)
    save(here.NOTHING.child(nested(path, new)))
    if new is not None and (meant := _meant(path)):
        print(f"note: {key} is no setting of mahsm. {meant}", file=sys.stderr)  # noqa: T201
    name = files.CREDENTIALS if _is_credential(path) else files.CONFIG
    variable = environment.variable_of(path)
    if wins := bool(variable and os.environ.get(variable, "").strip()):
        print(f"note: {variable} is set, and wins over the file", file=sys.stderr)  # noqa: T201
    did = "removed" if new is None else "set"
    told = {"key": key, did: True, "file": files.path_to(name), "wins": variable if wins else None}
    return Output(told, [f"{did} {key} in {files.path_to(name)}"], json)


def listed(*, json: Json = False) -> Output:
    """Print all settings with where they are from; credentials are hidden."""
    found = [
        (dotted(path), config_of(here.NOTHING, dotted(path)), source)
        for path, source in sorted(_sources().items())
    ]
    return Output(
        [{"key": key, "value": _hidden(value), "source": source} for key, value, source in found],
        [f"{key} = {_shown(value)}  ({source})" for key, value, source in found],
        json,
    )


def path(*, json: Json = False) -> Output:
    """Print the folder of the files."""
    return Output({"path": files.home()}, [files.home()], json)


def show(section: str, /, *, json: Json = False) -> Output:
    """Print a section of the settings; credentials are hidden.

    Args:
        section: Such as `models`.
    """
    return get(section, json=json)


def migrate(source: str = "~/.ember", /, *, json: Json = False) -> Output:
    """Copy settings and credentials of Ember into the files.

    Args:
        source: Ember's folder.
    """
    from mahsm.context import migrate

    added = migrate(source)
    told = f"{len(added)} added to {files.home()}; {source} is unchanged"
    return Output(
        {"added": added, "to": files.home(), "from": source}, [*(f"added {key}" for key in added), told], json
    )


def _meant(path: tuple[str, ...]) -> str:
    """Return a question with the setting that a key is perhaps a misspelling of; "" if there is none."""
    from mahsm._models._internal import known_providers

    names = {dotted(known) for known in environment.VARIABLES}
    names |= {f"credentials.{field_of(provider)}" for provider in known_providers()}
    key = dotted(path)
    is_known = key in names or key.endswith("_api_key") or path[0] == "providers"
    close = [] if is_known else difflib.get_close_matches(key, names, n=1, cutoff=0.85)
    return f"Did you mean {close[0]}?" if close else ""


def _is_credential(path: tuple[str, ...]) -> bool:
    return path[0] == "credentials" or (path[0] == "providers" and path[2:] == ("api_key",))


def _path_to_set(key: str) -> tuple[str, ...]:
    """Return the path of a key.

    Raises:
        ContextError: if it is none, or a credential would not be found under it, or be shown.
    """
    name, equals, _ = key.partition("=")
    if equals:
        raise ContextError(f"{name}=... is a key and a value in one; run 'mahsm configure set {name}'.")
    from mahsm._models._internal import known_providers

    path = checked_path(key)
    if path == ("credentials",) or (path[0] == "credentials" and path[1] in known_providers()):
        field = field_of(path[1] if path[1:] else "openai")
        raise ContextError(f"{key} is no credential; expected one such as 'credentials.{field}'.")
    if len(path) == 1 and is_secret(("providers", key)):
        raise ContextError(f"{key} would be no credential, and shown; expected 'credentials.{key}'.")
    return path


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
    return key_of(key)


def _value(path: tuple[str, ...], text: str | None) -> Any:
    key = dotted(path)
    if text is None or not text.strip():
        raise ContextError(
            f"{key} has no value; run 'mahsm configure set {key} VALUE', or null to remove it."
        )
    try:
        value = document.parsed(f"value: {text}".encode(errors="surrogateescape"), key).get("value")
    except ContextError:
        raise ContextError(f"{key}: the value is not valid YAML; quote it, as in '\"a: b\"'.") from None
    is_section = key in ("models", "credentials", "providers")
    if is_section and type(value) not in (dict, type(None)):
        raise ContextError(f"{key} holds several settings; set one of them, such as models.default.")
    for inside, _ in leaves(nested(path, value)):
        if is_secret(inside):
            _credential(dotted(inside), "given")
    return value


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


def _hidden(value: Any) -> Any:
    """Return a value as JSON has it, with credentials hidden."""
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, dict):
        return {str(key): _hidden(each) for key, each in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_hidden(each) for each in cast("list[Any]", value)]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)
