"""`constructor`: decorates a function that makes an edge, so that `edge.with_` can call it again."""

import copy
import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar, cast

from mahsm._common import check
from mahsm.edges._shared.edge import Edge

P = ParamSpec("P")
EdgeT = TypeVar("EdgeT", bound=Edge)


def constructor(**elsewhere: str) -> Callable[[Callable[P, EdgeT]], Callable[P, EdgeT]]:
    """Decorate a function that makes an edge: refuse unknown arguments, and keep the others with the edge.

    A changed copy is made from the arguments and not from the checked specification, where a name, a retry or
    a target may depend on an argument that changes. So the copy goes through every check and default again,
    and cannot differ from an edge that is made with these arguments from the start.

    Args:
        elsewhere: For arguments that belong to another function, a hint where to pass them.
    """

    def decorate(function: Callable[P, EdgeT]) -> Callable[P, EdgeT]:
        checked = check.arguments(**elsewhere)(function)
        parameters = inspect.signature(function).parameters.values()
        names = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]

        @wraps(function)
        def make(*args: P.args, **kwargs: P.kwargs) -> EdgeT:
            edge = checked(*args, **kwargs)
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            kept = {name: _snapshot(value) for name, value in given.items()}
            edge.made_again_by(partial(cast("Any", make), *args[len(names) :], **kept))
            return edge

        return make

    return decorate


def _snapshot(value: object) -> object:
    """Return a list or a dict as it is now, since its owner may go on to change it."""
    return copy.copy(value) if type(value) in (list, dict) else value
