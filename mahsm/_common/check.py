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


def arguments(**elsewhere: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function whose callers are told what to write for an argument that it does not have.

    Args:
        elsewhere: For arguments of something else, where they go.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters.values()
        known = [each.name for each in parameters if each.kind is not each.VAR_POSITIONAL]

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for name, value in kwargs.items():
                if name not in known:
                    close = difflib.get_close_matches(name, known, n=1)
                    hint = f"Did you mean {close[0]!r}?" if close else f"It takes {', '.join(known)}."
                    given = f"{function.__name__}: {name}={shown(value)}"
                    raise TypeError(f"{given}; there is no such argument. {elsewhere.get(name, hint)}")
            return function(*args, **kwargs)

        return call

    return decorate


def key(edge: str, argument: str, value: object) -> None:
    """Refuse what cannot be a key of a state."""
    if not isinstance(value, str) or not value:
        raise EdgeError(
            f"{edge}: {argument}={shown(value)}; expected the name of a state key, as {argument}='docs'."
        )


def keys(edge: str, argument: str, value: object) -> tuple[str, ...]:
    """One key of a state, or several; refuse what is neither."""
    found: Sequence[Any] = (
        () if isinstance(value, str) or not isinstance(value, Sequence) else cast("Sequence[Any]", value)
    )
    if not found:
        key(edge, argument, cast("object", value))
        return (cast("str", value),)
    for one in found:
        key(edge, argument, one)
    if len(set(found)) < len(found):
        raise EdgeError(f"{edge}: {argument}={shown(found)} names a key twice; expected each once.")
    return tuple(found)


def inherit(edge: str, value: object, *, default: bool) -> bool | frozenset[str]:
    """Which keys of the parent's state are seen: all, none, or these."""
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise EdgeError(
            f"{edge}: inherit={shown(cast('object', value))}; expected True, False, or a list of state keys, "
            "as ['question']."
        )
    return frozenset(keys(edge, "inherit", cast("Sequence[Any]", value))) if value else False


def whole(edge: str, argument: str, value: object, hint: str) -> None:
    """Refuse what is not an integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise EdgeError(f"{edge}: {argument}={shown(value)}; expected an integer >= 1. {hint}")


def flag(edge: str, argument: str, value: object) -> None:
    """Refuse what is neither True nor False: any other text or number would count as one of them."""
    if not isinstance(value, bool):
        raise EdgeError(f"{edge}: {argument}={shown(value)}; expected True or False.")


def choice(edge: str, argument: str, value: object, choices: Iterable[str]) -> None:
    """Refuse what is not one of `choices`."""
    if value in (known := list(choices)):
        return
    close = difflib.get_close_matches(str(value), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise EdgeError(
        f"{edge}: {argument}={shown(value)}; expected one of {', '.join(map(repr, known))}.{hint}"
    )


def function(edge: str, argument: str, value: object, expected: str) -> None:
    """Refuse what cannot be called, unless it is None."""
    if value is not None and not callable(value):
        raise EdgeError(f"{edge}: {argument}={shown(value)} cannot be called; expected {expected}.")


def seconds(edge: str, argument: str, value: object) -> None:
    """Refuse what is not a time > 0 in seconds, unless it is None."""
    if value is not None and not (is_figure(value, most=MOST_SECONDS) and value > 0):
        raise EdgeError(
            f"{edge}: {argument}={shown(value)}; expected seconds > 0, or None to wait as long as it takes."
        )


def of_type(edge: str, argument: str, value: object, kind: type, expected: str) -> None:
    """Refuse what is not of a type, unless it is None."""
    if value is not None and not isinstance(value, kind):
        raise EdgeError(f"{edge}: {argument}={shown(value)}; expected {expected}.")


def name(edge: str, value: object) -> None:
    """Refuse what LangGraph takes for no node name."""
    if not isinstance(value, str) or not value or any(reserved in value for reserved in ":|"):
        raise EdgeError(f"{edge}: name={shown(value)}; expected a node name, a string without ':' and '|'.")
