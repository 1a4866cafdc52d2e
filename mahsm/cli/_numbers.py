"""Numbers as options: whole ones, and those above zero."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

from cyclopts import Parameter, Token


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    # On its own, cyclopts rounds: `--max-tokens 1.5` would be 2.
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r}; expected a whole number.") from None


def _at_least_one(_: Any, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError("Expected a whole number >= 1.")


def _at_least_zero(_: Any, value: int | None) -> None:
    if value is not None and value < 0:
        raise ValueError("Expected a whole number >= 0.")


def _above_zero(_: Any, value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise ValueError("Expected a number > 0.")


Count: TypeAlias = Annotated[int, Parameter(converter=_whole, validator=_at_least_one)]
"""A whole number >= 1."""
Number: TypeAlias = Annotated[int, Parameter(converter=_whole, validator=_at_least_zero)]
"""A whole number >= 0."""
Amount: TypeAlias = Annotated[float, Parameter(validator=_above_zero)]
"""A number > 0."""
