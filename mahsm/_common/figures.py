"""Figures from users and clients, such as tokens and prices, and the checks that make sums of them safe."""

from numbers import Real
from typing import Any, TypeAlias, TypeGuard, cast

MOST = 1e12
"""More tokens or US dollars than any call takes. A larger figure is a mistake, and sums with it would not be
exact."""

MOST_SECONDS = 1e9
"""About thirty years. Threads cannot wait for more than about three hundred years."""


def is_figure(value: object, least: float = 0.0, most: float = MOST) -> TypeGuard[float]:
    """Return whether a value is a number from `least` to `most`.

    NaN, infinities, booleans and strings are invalid.
    """
    # Most figures are floats, and the check of a `Real` is slow.
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, Real)):
        return False
    return bool(least <= cast("float", value) <= most)


Price: TypeAlias = tuple[float, float] | tuple[float, float, float]
"""US dollars per million input tokens, output tokens, and input tokens that are read from a provider's cache;
without the third, these cost as much as others."""


def is_price(value: object) -> bool:
    """Return whether a value is a `Price`; a list counts as one, too."""
    if not isinstance(value, tuple | list):
        return False
    prices = cast("list[object]", value)
    return len(prices) in (2, 3) and all(map(is_figure, prices))


def reported(value: object) -> float | None:
    """Convert a figure that a client reports to a float.

    It is None if it is absent, not a number, NaN, negative, or above `MOST`.

    Example:
        >>> reported(70), reported("70"), reported(float("nan")), reported(-1), reported(None)
        (70.0, 70.0, None, None, None)
    """
    try:
        number = float(cast("Any", value))
    except (TypeError, ValueError, OverflowError):
        return None
    return number if is_figure(number) and not isinstance(value, bool) else None
