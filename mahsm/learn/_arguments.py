"""Checks of the arguments of a router."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from mahsm._common import is_figure, shown
from mahsm.errors import LearnError

Cost: TypeAlias = Mapping[str, float] | Callable[[str], float]


def prices_of(cost: Cost | None, arms: Sequence[str]) -> list[float]:
    """Return the price of each arm.

    Raises:
        LearnError: if an arm has none, or it is not a number >= 0.
    """
    found: list[float] = []
    for arm in arms:
        price: Any = 0.0 if cost is None else cost(arm) if callable(cost) else cost.get(arm)
        if not is_figure(price):
            raise LearnError(
                f"cost: the price of {arm!r} is {shown(price)}; expected a number >= 0 for each arm."
            )
        found.append(float(price))
    return found


def check_arms(arms: Any) -> None:
    names: list[Any] = [] if isinstance(arms, str) or not hasattr(arms, "__iter__") else list(arms)
    if not names or not all(isinstance(each, str) and each for each in names) or len({*names}) < len(names):
        raise LearnError(
            f"Router: arms={shown(arms)}; expected different names, such as ['cheap', 'strong']."
        )


def check_whole(argument: str, value: Any, least: int) -> None:
    if type(value) is not int or value < least:
        raise LearnError(f"Router: {argument}={shown(value)}; expected an integer >= {least}.")


def number(argument: str, value: Any, least: float, most: float = 1e12) -> float:
    if not is_figure(value, least, most):
        bound = f"in [{least:g}, {most:g}]" if most == 1.0 else f">= {least:g}"
        raise LearnError(f"Router: {argument}={shown(value)}; expected a number {bound}.")
    return float(value)
