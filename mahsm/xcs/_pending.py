"""`Pending`: a value that is not there yet, which can be used as if it were."""

import operator
from collections.abc import Callable, Iterator
from typing import Any, cast

from mahsm.xcs._cells import Cell


class Pending:
    """The result of a step that may still run, or something that was computed from one.

    Attributes, items, arithmetic and string methods give further pending values. Everything else waits for
    the value: truth, comparison, iteration, `len`, `print`, a call of a function that is not rewritten.
    """

    __slots__ = ("_xcs_cell",)

    def __init__(self, cell: Cell) -> None:
        object.__setattr__(self, "_xcs_cell", cell)

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        # `isinstance(pending, str)` waits, and is true of a string.
        return cast("Any", type(value_of(self)))

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        value_of(self).__class__ = kind

    def __await__(self) -> Iterator[Any]:
        value = value_of(self)
        return value.__await__()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            return getattr(value_of(self), name)
        return cell_of(self).host.attribute(self, name)

    def __getitem__(self, key: Any) -> Any:
        return cell_of(self).host.item_of_pending(self, key)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(value_of(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(value_of(self), name)

    def __setitem__(self, key: Any, value: Any) -> None:
        value_of(self)[key] = value

    def __delitem__(self, key: Any) -> None:
        del value_of(self)[key]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return value_of(self)(*args, **kwargs)

    def __eq__(self, other: object) -> Any:
        return value_of(self) == ready(other)

    def __ne__(self, other: object) -> Any:
        return value_of(self) != ready(other)

    def __hash__(self) -> int:
        return hash(value_of(self))

    def __contains__(self, member: object) -> bool:
        return ready(member) in value_of(self)

    def __iter__(self) -> Iterator[Any]:
        return iter(value_of(self))

    def __next__(self) -> Any:
        return next(value_of(self))

    def __reversed__(self) -> Any:
        return reversed(value_of(self))

    def __enter__(self) -> Any:
        return value_of(self).__enter__()

    def __exit__(self, *error: Any) -> Any:
        return value_of(self).__exit__(*error)

    def __dir__(self) -> list[str]:
        return dir(value_of(self))

    def __format__(self, spec: str) -> str:
        return format(value_of(self), ready(spec))

    def __round__(self, digits: Any = None) -> Any:
        value = value_of(self)
        return round(value) if digits is None else round(value, ready(digits))

    def __copy__(self) -> Any:
        import copy

        return copy.copy(value_of(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        import copy

        return copy.deepcopy(value_of(self), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return value_of(self).__reduce_ex__(protocol)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        import numpy as np

        return np.asarray(value_of(self), *args, **kwargs)

    def __jax_array__(self) -> Any:
        import jax.numpy as jnp

        return jnp.asarray(value_of(self))

    __array_ufunc__ = None
    """NumPy leaves arithmetic with its arrays to this class."""


def cell_of(pending: Pending) -> Cell:
    """Return the cell behind a pending value."""
    return cast("Cell", object.__getattribute__(pending, "_xcs_cell"))


def value_of(pending: Pending) -> Any:
    """Wait for a pending value, and return it.

    Raises:
        BaseException: the error of the step that it follows from, or of an earlier one.
    """
    cell = cell_of(pending)
    if not cell.is_settled:
        cell.host.wait_for(cell)
    if cell.error is not None:
        raise cell.host.first_error(cell)
    return cell.value


def ready(value: Any) -> Any:
    """Return a value, after waiting for it if it is pending. Values inside it may still be pending."""
    return value_of(value) if type(value) is Pending else value


def _in_place(
    changing: Callable[[Any, Any], Any], plain: Callable[[Any, Any], Any], left: Any, right: Any
) -> Any:
    """Return `left op= right`. If `left` may be an object that this changes, wait for it."""
    if cell_of(left).is_text:
        return cell_of(left).host.derived(plain, left, right)
    return changing(value_of(left), right)


def _define(name: str, method: Callable[..., Any]) -> None:
    method.__name__ = name
    setattr(Pending, name, method)


def _derives(name: str, function: Callable[..., Any], *, reflected: bool) -> None:
    """Define an operator, and its reflected version, to give a pending value."""

    def forward(self: Pending, *others: Any) -> Any:
        return cell_of(self).host.derived(function, self, *others)

    def backward(self: Pending, other: Any) -> Any:
        return cell_of(self).host.derived(function, other, self)

    _define(f"__{name}__", forward)
    if reflected:
        _define(f"__r{name}__", backward)


def _waits(name: str, function: Callable[..., Any]) -> None:
    """Define a special method that waits for the value."""

    def method(self: Pending, *others: Any) -> Any:
        return function(value_of(self), *map(ready, others))

    _define(f"__{name}__", method)


Function = Callable[..., Any]

BINARY: dict[str, Function] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "truediv": operator.truediv,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "pow": pow,
    "matmul": operator.matmul,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "lshift": operator.lshift,
    "rshift": operator.rshift,
    "divmod": divmod,
}
IN_PLACE: dict[str, Function] = {name: getattr(operator, f"i{name}") for name in BINARY if name != "divmod"}
_UNARY: dict[str, Function] = {
    "neg": operator.neg,
    "pos": operator.pos,
    "abs": abs,
    "invert": operator.invert,
}
_WAITING: dict[str, Function] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "bool": bool,
    "len": len,
    "int": int,
    "float": float,
    "complex": complex,
    "index": operator.index,
    "str": str,
    "repr": repr,
    "bytes": bytes,
    "length_hint": operator.length_hint,
}


def _changes(name: str) -> None:
    """Define an operator in place."""

    def method(self: Pending, other: Any) -> Any:
        return _in_place(IN_PLACE[name], BINARY[name], self, other)

    _define(f"__i{name}__", method)


for _name, _function in BINARY.items():
    _derives(_name, _function, reflected=True)
for _name, _function in _UNARY.items():
    _derives(_name, _function, reflected=False)
for _name, _function in _WAITING.items():
    _waits(_name, _function)
for _name in IN_PLACE:
    _changes(_name)
