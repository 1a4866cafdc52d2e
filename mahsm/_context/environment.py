"""Settings from environment variables."""

import os
from collections.abc import Callable
from typing import Any, Final

from mahsm._common import shown
from mahsm._context.secret import Secret
from mahsm._context.values import MISSING, Path, dotted
from mahsm.errors import ContextError

VARIABLES: Final[dict[Path, tuple[str, Callable[[str], Any]]]] = {
    ("models", "default"): ("MAHSM_MODEL", str),
    ("models", "api_base"): ("MAHSM_API_BASE", str),
    ("models", "temperature"): ("MAHSM_TEMPERATURE", float),
    ("models", "max_tokens"): ("MAHSM_MAX_TOKENS", int),
}
"""For a key, its variable and the type of its value."""


def variable_of(path: Path) -> str | None:
    """Return the variable that sets a key; None if it has none."""
    if path in VARIABLES:
        return VARIABLES[path][0]
    is_key = len(path) == 2 and path[0] == "credentials" and path[1].endswith("_api_key")
    return path[1].upper() if is_key else None


def value_of(path: Path) -> Any:
    """Return the value that the environment has for a key, or `MISSING`; an empty variable counts as not set.

    Raises:
        ContextError: if the variable should be a number and is not.
    """
    variable = variable_of(path)
    if variable is None or not (text := os.environ.get(variable, "").strip()):
        return MISSING
    if path not in VARIABLES:
        return Secret(text)
    kind = VARIABLES[path][1]
    try:
        return kind(text)
    except ValueError:
        raise ContextError(
            f"{variable}={shown(text)} for {dotted(path)!r}; expected {_EXPECTED[kind]}."
        ) from None


_EXPECTED: Final[dict[Any, str]] = {float: "a number, such as 0.7", int: "an integer, such as 1000"}


def below(path: Path) -> dict[str, Any]:
    """Return what the environment sets below a key, by the next part of the key."""
    found = {
        key[-1]: value_of(key)
        for key, (variable, _) in VARIABLES.items()
        if key[:-1] == path and variable in os.environ
    }
    return {name: value for name, value in found.items() if value is not MISSING}


def sets_any(sections: tuple[str, ...]) -> bool:
    """Return whether a variable sets a key in one of the sections."""
    return any(key[0] in sections and variable in os.environ for key, (variable, _) in VARIABLES.items())


def first_of(variables: tuple[str, ...]) -> str | None:
    """Return the value of the first variable that is set and not empty."""
    for variable in variables:
        if text := os.environ.get(variable, "").strip():
            return text
    return None
