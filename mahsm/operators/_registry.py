"""Operators by name: `register` and `get`."""

from typing import Any

from mahsm._common import Registry, nearest, shown
from mahsm.errors import RegistryError
from mahsm.operators._operator import Operator

_registry = Registry("mahsm.operators")


def register(name: str, operator: Any) -> None:
    """Register an operator under a name, so that a configuration can name it.

    Packages register theirs by entry points of the group `mahsm.operators`.

    Args:
        name: The name.
        operator: An operator, or a function that makes one.

    Raises:
        RegistryError: immediately, if `name` or `operator` is something else.
    """
    if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RegistryError(
            f"operators.register: the name is {shown(name)}; expected a string, such as 'summarize'."
        )
    if not callable(operator):
        raise RegistryError(
            f"operators.register: {name!r} is to be {shown(operator)}; expected an operator, or a function "
            "that makes one."
        )
    _registry.add(name, operator)


def get(name: str, **options: Any) -> Operator:
    """Return the operator that is registered under a name.

    Args:
        name: The name.
        **options: Arguments of the function that makes it, if it is made by one.

    Raises:
        RegistryError: if there is none, or the function makes something else.

    Example:
        >>> from mahsm import operators
        >>> operators.register("shout", operators.op(lambda text: text.upper()))
        >>> operators.get("shout")("hello")
        'HELLO'
    """
    found = _registry.find(name)
    if found is None:
        known = _registry.names()
        there = f"there are {', '.join(map(repr, known))}." if known else "none is registered."
        raise RegistryError(f"no operator is named {name!r}; {there} {nearest(name, known)}".rstrip())
    if isinstance(found, Operator) and not options:
        return found
    made: Any = found if isinstance(found, Operator) else found(**options)
    if made is found or not isinstance(made, Operator):
        raise RegistryError(
            f"operators.get: {name!r} with {', '.join(options) or 'no options'} is {shown(made)}; expected a "
            "function that makes an operator."
        )
    return made
