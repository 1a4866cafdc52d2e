"""The part of a value that a reducer uses, and checks of values and arguments."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from mahsm._common import missing, shown
from mahsm.errors import ReducerError

Key: TypeAlias = str | Callable[[Any], Any]
"""The part of a value that a reducer uses: a key of the value, or a function of it."""


def parts(reducer: str, values: Sequence[Any], key: Key | None) -> list[Any]:
    """Return the part of each value that `key` names.

    Raises:
        ReducerError: if a value lacks the key.
    """
    if key is None:
        return list(values)
    if not isinstance(key, str):
        return [key(value) for value in values]
    for place, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise ReducerError(
                f"{reducer}: value {place} is {shown(value)}; expected a dict with the key {key!r}."
            )
        if key not in value:
            raise ReducerError(
                f"{reducer}: {missing(cast('Mapping[str, Any]', value), key, f'value {place}')}"
            )
    return [value[key] for value in values]


def numbers(reducer: str, values: Sequence[Any], key: Key | None) -> list[float]:
    """Return the part of each value that `key` names, as a number.

    Raises:
        ReducerError: if a part is missing or not a number (NaN is refused too).
    """
    found: list[float] = []
    for place, part in enumerate(parts(reducer, values, key)):
        try:
            number = float(part)
        except (TypeError, ValueError):
            number = math.nan
        if math.isnan(number):
            raise ReducerError(f"{reducer}: the score of value {place} is {shown(part)}; expected a number.")
        found.append(number)
    return found


def check_some(reducer: str, values: Sequence[Any]) -> None:
    """Refuse an empty list."""
    if not values:
        raise ReducerError(
            f"{reducer}: there are no values to choose from. Route around the edge when the list is empty."
        )


def check_whole(reducer: str, argument: str, value: object) -> None:
    """Refuse a value that is not an integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ReducerError(f"{reducer}: {argument}={shown(value)}; expected an integer >= 1.")
