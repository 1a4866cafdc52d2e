"""Pending values inside of containers: finding them, waiting for them, and copies that do not change.

Containers are lists, tuples, sets, dicts and deques, and dataclasses. Objects of other classes are not looked
into: no pending value is ever put into one.
"""

import copy
import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import GeneratorType
from typing import Any, cast

from mahsm.xcs._cells import Cell
from mahsm.xcs._pending import Pending, cell_of, value_of

ATOMS: frozenset[type] = frozenset(
    {str, int, float, bool, complex, bytes, type(None), type, range, slice, type(...)}
)
"""Types of values that hold no others."""

_LAZY = (zip, enumerate, map, filter, reversed, type({}.values()), type({}.items()), type({}.keys()))
_ITERATORS = tuple(type(iter(made)) for made in ([], (), {}, {}.values(), {}.items(), set[Any](), deque[Any]()))


def has_pending(value: Any) -> bool:
    """Return whether a value is pending, or is a container that holds a pending value."""
    kind = type(value)
    if kind in ATOMS:
        return False
    if kind is Pending:
        return True
    return bool(_parts(value)) and any(True for _ in pending_in(value))


def pending_in(value: Any) -> Iterator[Pending]:
    """Iterate over the pending values in a value, in their order."""
    seen: set[int] = set()
    todo: list[Any] = [value]
    while todo:
        one = todo.pop()
        kind = type(one)
        if kind in ATOMS:
            continue
        if kind is Pending:
            yield one
            continue
        parts = _parts(one)
        if parts and id(one) not in seen:
            seen.add(id(one))
            todo.extend(reversed(parts))


def _parts(value: Any) -> list[Any]:
    kind = type(value)
    if kind is list or kind is tuple or kind is set or kind is frozenset or kind is deque:
        return list(value)
    if kind is slice:
        return [value.start, value.stop, value.step]
    if isinstance_of(kind, dict):
        return [part for pair in dict.items(value) for part in pair]
    if is_record(kind):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    if issubclass(kind, list | deque):
        return list(value)
    return []


def isinstance_of(kind: type, base: type) -> bool:
    """Return whether a class is a subclass of another, whatever its metaclass says."""
    return base in kind.__mro__


def is_record(kind: type) -> bool:
    """Return whether a class is a dataclass that only keeps its arguments, so that it may hold pending ones."""
    return "__dataclass_fields__" in vars(kind) and not hasattr(kind, "__post_init__") and _is_generated(kind)


def _is_generated(kind: type) -> bool:
    init = vars(kind).get("__init__")
    parameters: Any = vars(kind).get("__dataclass_params__")
    return init is not None and parameters is not None and parameters.init


def forced(value: Any) -> Any:
    """Wait for a value, and for all pending values inside it, which are replaced where they are."""
    kind = type(value)
    if kind in ATOMS:
        return value
    if kind is Pending:
        return forced(value_of(value))
    if kind is GeneratorType or kind in _LAZY or kind in _ITERATORS:
        return _each_forced(value) if may_give_pending(value) else value
    return _replaced(value, forced, {}) if has_pending(value) else value


rewritten_codes: dict[int, Any] = {}
"""Code objects of rewritten functions, and of those inside them, by `id`."""


def may_give_pending(value: Any) -> bool:
    """Return whether an iterator may give pending values: a generator of a rewritten function, or a view."""
    if type(value) is GeneratorType:
        return id(cast("Any", value).gi_code) in rewritten_codes
    return type(value) in _LAZY or type(value) in _ITERATORS


def _each_forced(values: Any) -> Any:
    return (forced(value) for value in values)


def listed(value: Any) -> Any:
    """Return a list of what an iterator gives, if it may give pending values; otherwise the value."""
    return list(value) if type(value) not in ATOMS and may_give_pending(value) else value


def _replaced(value: Any, by: Callable[[Pending], Any], memo: dict[int, Any]) -> Any:
    """Replace the pending values in a container in place; a tuple or a frozen set is made anew."""
    kind = type(value)
    if kind in ATOMS:
        return value
    if kind is Pending:
        return by(value)
    if id(value) in memo:
        return memo[id(value)]
    if kind is tuple or kind is frozenset:
        made: Any = kind(_replaced(part, by, memo) for part in value)
        memo[id(value)] = made
        return made
    if kind is slice:
        return slice(*(_replaced(part, by, memo) for part in (value.start, value.stop, value.step)))
    memo[id(value)] = value
    if isinstance_of(kind, dict):
        _replace_in_dict(value, by, memo)
    elif kind is set:
        members = [_replaced(member, by, memo) for member in value]
        value.clear()
        value.update(members)
    elif issubclass(kind, list | deque):
        for index, part in enumerate(value):
            new = _replaced(part, by, memo)
            if new is not part:
                value[index] = new
    elif is_record(kind):
        for field in dataclasses.fields(value):
            part = getattr(value, field.name, None)
            new = _replaced(part, by, memo)
            if new is not part:
                object.__setattr__(value, field.name, new)
    return value


def _replace_in_dict(value: dict[Any, Any], by: Callable[[Pending], Any], memo: dict[int, Any]) -> None:
    if any(type(key) is Pending or type(key) is tuple for key in value):
        pairs = [(_replaced(key, by, memo), part) for key, part in dict.items(value)]
        value.clear()
        for key, part in pairs:
            dict.__setitem__(value, key, part)
    for key, part in list(dict.items(value)):
        new = _replaced(part, by, memo)
        if new is not part:
            dict.__setitem__(value, key, new)


def copied(value: Any) -> Any:
    """Copy containers, and what is in them, so that later changes are not seen. Other objects stay themselves."""
    return value if type(value) in ATOMS else _copied(value, {})


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in ATOMS or kind is Pending:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind is list or kind is deque or kind is set:
        made: Any = kind() if kind is not deque else deque(maxlen=value.maxlen)
        memo[id(value)] = made
        parts = [_copied(part, memo) for part in value]
        (made.update if kind is set else made.extend)(parts)
        return made
    if kind is tuple or kind is frozenset:
        made = kind(_copied(part, memo) for part in value)
        return memo.setdefault(id(value), made)
    if kind is dict:
        made = memo[id(value)] = {}
        made.update((_copied(key, memo), _copied(part, memo)) for key, part in value.items())
        return made
    if kind is slice or not _parts(value) or not has_pending(value):
        return value
    # A dataclass or a subclass of a container that holds pending values, which are replaced in the copy.
    made = memo[id(value)] = copy.copy(value)
    if is_record(kind):
        for field in dataclasses.fields(value):
            object.__setattr__(made, field.name, _copied(getattr(value, field.name), memo))
    return made


class Arguments:
    """The arguments of a step, or of a function of pending values, as they were when it was called.

    Containers among them are copied, so that later changes are not seen.

    Attributes:
        needed: The cells of the values that are still pending.
    """

    __slots__ = ("_args", "_has_containers", "_kwargs", "needed")

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.needed: dict[int, Cell] = {}
        self._has_containers = False
        self._args = [self._taken(arg) for arg in args]
        self._kwargs = {name: self._taken(arg) for name, arg in kwargs.items()} if kwargs else kwargs

    def _taken(self, value: Any) -> Any:
        kind = type(value)
        if kind in ATOMS:
            return value
        if kind is Pending:
            cell = cell_of(value)
            self.needed[id(cell)] = cell
            return value
        value = copied(value)
        for one in pending_in(value):
            self._has_containers = True
            self.needed[id(cell_of(one))] = cell_of(one)
        return value

    def filled(self, values: dict[int, Any]) -> tuple[Sequence[Any], dict[str, Any]]:
        """Return the arguments with the values that were pending, by the `id` of their cells."""
        if not self.needed:
            return self._args, self._kwargs

        def value_of(pending: Pending) -> Any:
            return values[id(cell_of(pending))]

        if self._has_containers:
            return _replaced(self._args, value_of, {}), _replaced(self._kwargs, value_of, {})
        args = [value_of(arg) if type(arg) is Pending else arg for arg in self._args]
        if not self._kwargs:
            return args, self._kwargs
        return args, {
            name: value_of(arg) if type(arg) is Pending else arg for name, arg in self._kwargs.items()
        }

