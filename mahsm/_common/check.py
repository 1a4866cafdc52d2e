"""Checks of arguments, made when an edge is built."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from mahsm._common.figures import MOST_SECONDS, is_figure
from mahsm._common.state import shown
from mahsm.errors import EdgeError

P = ParamSpec("P")
R = TypeVar("R")


def arguments(owner: str | None = None, /, **elsewhere: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function so that an unknown argument raises a `TypeError` with a suggestion.

    Args:
        owner: Its name in the message; by default its `__name__`.
        elsewhere: From arguments of other functions to a hint where they belong.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters.values()
        known = [
            each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
        ]

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for name, value in kwargs.items():
                if name not in known:
                    close = difflib.get_close_matches(name, known, n=1)
                    hint = (
                        f"Did you mean {close[0]!r}?" if close else f"It takes {', '.join(known) or 'none'}."
                    )
                    given = f"{owner or function.__name__}: {name}={shown(value)}"
                    raise TypeError(f"{given}; there is no such argument. {elsewhere.get(name, hint)}")
            return function(*args, **kwargs)

        return call

    return decorate


def key(edge: str, argument: str, value: object) -> None:
    """Raise `EdgeError` unless the value is a state key."""
    if not isinstance(value, str) or not value:
        raise EdgeError(
            f"{edge}: {argument}={shown(value)}; expected the name of a state key, such as {argument}='docs'."
        )


def keys(edge: str, argument: str, value: object) -> tuple[str, ...]:
    """Return one or more state keys as a tuple; raise `EdgeError` for other values."""
    found: Sequence[Any] = (
        () if isinstance(value, str) or not isinstance(value, Sequence) else cast("Sequence[Any]", value)
    )
    if not found:
        key(edge, argument, cast("object", value))
        return (cast("str", value),)
    for one in found:
        key(edge, argument, one)
    if len(set(found)) < len(found):
        raise EdgeError(f"{edge}: {argument}={shown(found)} repeats a key; expected each once.")
    return tuple(found)


def inherit(edge: str, value: object, *, default: bool) -> bool | frozenset[str]:
    """Return the keys of the parent's state that are visible: True for all, False for none, or a set."""
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise EdgeError(
            f"{edge}: inherit={shown(cast('object', value))}; expected True, False, or a list of state keys, "
            "such as ['question']."
        )
    return frozenset(keys(edge, "inherit", cast("Sequence[Any]", value))) if value else False


def whole(edge: str, argument: str, value: object, hint: str) -> None:
    """Raise `EdgeError` unless the value is an integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise EdgeError(f"{edge}: {argument}={shown(value)}; expected an integer >= 1. {hint}")


def flag(edge: str, argument: str, value: object) -> None:
    """Raise `EdgeError` unless the value is a bool; a string or number would silently count as one."""
    if not isinstance(value, bool):
        raise EdgeError(f"{edge}: {argument}={shown(value)}; expected True or False.")


def choice(edge: str, argument: str, value: object, choices: Iterable[str]) -> None:
    """Raise `EdgeError` unless the value is one of `choices`."""
    if value in (known := list(choices)):
        return
    close = difflib.get_close_matches(str(value), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise EdgeError(
        f"{edge}: {argument}={shown(value)}; expected one of {', '.join(map(repr, known))}.{hint}"
    )


def function(edge: str, argument: str, value: object, expected: str) -> None:
    """Raise `EdgeError` unless the value is callable or None."""
    if value is not None and not callable(value):
        raise EdgeError(f"{edge}: {argument}={shown(value)} cannot be called; expected {expected}.")


def seconds(edge: str, argument: str, value: object) -> None:
    """Raise `EdgeError` unless the value is a number of seconds > 0 or None."""
    if value is not None and not (is_figure(value, most=MOST_SECONDS) and value > 0):
        raise EdgeError(f"{edge}: {argument}={shown(value)}; expected seconds > 0, or None for no limit.")


def of_type(edge: str, argument: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Raise `EdgeError` unless the value is an instance of `kind` or None."""
    if value is not None and not isinstance(value, kind):
        raise EdgeError(f"{edge}: {argument}={shown(value)}; expected {expected}.")


def name(edge: str, value: object) -> None:
    """Raise `EdgeError` unless LangGraph accepts the value as a node name."""
    if not isinstance(value, str) or not value or any(reserved in value for reserved in ":|"):
        raise EdgeError(f"{edge}: name={shown(value)}; expected a node name, a string without ':' and '|'.")
