"""`chain`: each function gets what the one before gave."""

from typing import Any

import equinox as eqx

from mahsm._waiting import Way
from mahsm.compose._part import Composed, call_part, check_part, parameters_of_part
from mahsm.operators._internal import Parameters


class Chain(Composed):
    """Functions one after the other. Made by `chain`.

    Attributes:
        first: The first function.
        rest: The other functions, in their order.
    """

    first: Any
    rest: tuple[Any, ...]
    parameters: Parameters = eqx.field(static=True)

    @property
    def parts(self) -> tuple[Any, ...]:
        return (self.first, *self.rest)

    async def _run(self, way: Way, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        value = await call_part(self.first, way, args, options)
        for part in self.rest:
            value = await call_part(part, way, (value,), {})
        return value


def chain(*fns: Any) -> Chain:
    """Call functions one after the other: each gets what the one before gave.

    Args:
        *fns: Functions, sync or async, operators or DSPy modules, at least one. The first takes the
            arguments.

    Returns:
        An operator that is called like the first one, and awaited if one of them is async.

    Raises:
        TypeError: immediately, for none, and for what cannot be called.

    Example:
        >>> from mahsm import chain
        >>> chain(str.strip, str.upper, len)(" word ")
        4
    """
    if not fns:
        raise TypeError("chain got no function; expected at least one. Write chain(first, second).")
    first, *rest = (check_part("chain", fn) for fn in fns)
    return Chain(first=first, rest=tuple(rest), parameters=parameters_of_part(first))
