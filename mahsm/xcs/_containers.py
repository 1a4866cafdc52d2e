"""Pending values inside of containers: finding them, waiting for them, and copies that do not change.

Containers are lists, tuples, sets, dicts and deques, and dataclasses. Objects of other classes are not looked
into: no pending value is ever put into one.
"""

import copy
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType, GeneratorType, GetSetDescriptorType, MemberDescriptorType
from typing import Any, cast

from mahsm.xcs._cells import Cell
from mahsm.xcs._pending import Pending, cell_of, value_of

kind_of = cast("Callable[[Any], type[Any]]", type)
"""The class of a value, which is not asked of the value itself: a pending one would wait."""

ATOMS: frozenset[type] = frozenset(
    {str, int, float, bool, complex, bytes, type(None), type, range, type(...)}
)
"""Types of values that hold no others."""

_EMPTY: dict[Any, Any] = {}
_VIEWS: Sequence[Any] = (_EMPTY.keys(), _EMPTY.values(), _EMPTY.items())
_LAZY: frozenset[type[Any]] = frozenset(
    {
        *(zip, enumerate, map, filter, reversed),
        *map(kind_of, _VIEWS),
        *(kind_of(iter(made)) for made in (list[Any](), (), set[Any](), deque[Any](), _EMPTY, *_VIEWS)),
    }
)
"""Types of iterators that give what a container holds."""


def has_pending(value: Any) -> bool:
    """Return whether a value is pending, or is a container that holds a pending value."""
    kind = kind_of(value)
    if kind in ATOMS:
        return False
    return kind is Pending or any(True for _ in pending_in(value))


def pending_in(value: Any) -> Iterator[Pending]:
    """Iterate over the pending values in a value, in their order."""
    seen: set[int] = set()
    todo: list[Any] = [value]
    while todo:
        one = todo.pop()
        kind = kind_of(one)
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
    kind = kind_of(value)
    if kind in _SEQUENCES:
        return list(value)
    if kind is slice:
        return [value.start, value.stop, value.step]
    bases = kind.__mro__
    if dict in bases:
        return [part for pair in _pairs(value) for part in pair]
    if list in bases or deque in bases:
        return list(value)
    return [getattr(value, name, None) for name in fields_of(kind)]


def _pairs(value: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """Return the items of a dict, as `dict` gives them, whatever its class says."""
    return list(cast("Any", dict).items(value))


_SEQUENCES: frozenset[type[Any]] = frozenset({list, tuple, set, frozenset, deque})


@functools.lru_cache(maxsize=1_000)
def fields_of(kind: type[Any]) -> Sequence[str]:
    """Return the fields of a dataclass that only keeps its arguments, so that they may be pending.

    What Python calls by itself, such as properties and operators, is not rewritten, and needs the values.
    """
    if "__dataclass_fields__" not in vars(kind) or hasattr(cast("Any", kind), "__post_init__"):
        return ()
    # One that is written by hand may do anything with them.
    init = getattr(vars(kind).get("__init__"), "__code__", None)
    if init is None or init.co_filename != "<string>":
        return ()
    parts = [pair for base in kind.__mro__[:-1] for pair in vars(base).items()]
    return () if any(_is_called_by_python(name, part) for name, part in parts) else _names_of(kind)


def _names_of(kind: Any) -> list[str]:
    return list(kind.__dataclass_fields__)


def _is_called_by_python(name: str, part: Any) -> bool:
    """Return whether a part of a class is a property, or a special method that was written by hand."""
    if isinstance(part, FunctionType):
        is_special = name.startswith("__") and name.endswith("__") and name not in _GET_VALUES
        home = part.__globals__.get("__name__")
        return is_special and part.__code__.co_filename != "<string>" and home not in _MAKES_CLASSES
    return hasattr(kind_of(part), "__get__") and not callable(part) and not isinstance(part, _PLAIN_PARTS)


_GET_VALUES = frozenset(
    {"__str__", "__repr__", "__format__", "__call__", "__enter__", "__exit__", "__annotate__"}
)
"""Special methods that are rewritten, or that are called when the values are there."""
_MAKES_CLASSES = frozenset({"dataclasses", "reprlib", "typing", "abc"})
_PLAIN_PARTS = (staticmethod, classmethod, MemberDescriptorType, GetSetDescriptorType)


def forced(value: Any) -> Any:
    """Wait for a value, and for all pending values inside it, which are replaced where they are."""
    kind = kind_of(value)
    if kind in ATOMS:
        return value
    if kind is Pending:
        return forced(value_of(value))
    if may_give_pending(value):
        return (forced(one) for one in value)
    return _Replacing(forced).in_(value) if has_pending(value) else value


rewritten_codes: dict[int, Any] = {}
"""Code objects of rewritten functions, and of those inside them, by `id`."""


def may_give_pending(value: Any) -> bool:
    """Return whether an iterator may give pending values: a generator of a rewritten function, or a view."""
    kind = kind_of(value)
    return kind in _LAZY or (kind is GeneratorType and id(value.gi_code) in rewritten_codes)


def listed(value: Any) -> Any:
    """Return a list of what an iterator gives, if it may give pending values; otherwise the value."""
    return list(value) if kind_of(value) not in ATOMS and may_give_pending(value) else value


class _Replacing:
    """Replaces pending values in containers in place; tuples and frozen sets are made anew.

    Args:
        by: Returns what stands for a pending value.
    """

    def __init__(self, by: Callable[[Pending], Any]) -> None:
        self._by = by
        self._seen: dict[int, Any] = {}

    def in_(self, value: Any) -> Any:
        """Return the value without pending values."""
        kind = kind_of(value)
        if kind in ATOMS:
            return value
        if kind is Pending:
            return self._by(value)
        if id(value) in self._seen:
            return self._seen[id(value)]
        if kind is tuple or kind is frozenset:
            return self._seen.setdefault(id(value), kind(map(self.in_, value)))
        if kind is slice:
            return slice(self.in_(value.start), self.in_(value.stop), self.in_(value.step))
        self._seen[id(value)] = value
        self._change(value, kind)
        return value

    def _change(self, value: Any, kind: type[Any]) -> None:
        bases = kind.__mro__
        if dict in bases:
            self._change_dict(value)
        elif kind is set:
            members = list(map(self.in_, value))
            value.clear()
            value.update(members)
        elif list in bases or deque in bases:
            for index, part in enumerate(value):
                if (new := self.in_(part)) is not part:
                    value[index] = new
        for name in fields_of(kind):
            part = getattr(value, name, None)
            if (new := self.in_(part)) is not part:
                object.__setattr__(value, name, new)

    def _change_dict(self, value: dict[Any, Any]) -> None:
        if any(kind_of(key) is Pending or kind_of(key) is tuple for key in value):
            pairs = [(self.in_(key), part) for key, part in _pairs(value)]
            value.clear()
            for key, part in pairs:
                dict.__setitem__(value, key, part)
        for key, part in _pairs(value):
            if (new := self.in_(part)) is not part:
                dict.__setitem__(value, key, new)


def copied(value: Any) -> Any:
    """Copy containers, and those in them, so that later changes are not seen; other objects stay the same."""
    return value if kind_of(value) in ATOMS else _copied(value, {})


def _copied(value: Any, seen: dict[int, Any]) -> Any:
    kind = kind_of(value)
    if kind in ATOMS or kind is Pending:
        return value
    if id(value) in seen:
        return seen[id(value)]
    if kind is tuple or kind is frozenset:
        return seen.setdefault(id(value), kind(_copied(part, seen) for part in value))
    made: Any
    if kind is dict:
        made = seen[id(value)] = dict[Any, Any]()
        for key, part in value.items():
            made[_copied(key, seen)] = _copied(part, seen)
    elif kind in _SEQUENCES:
        made = seen[id(value)] = kind(**({"maxlen": value.maxlen} if kind is deque else {}))
        add = made.add if kind is set else made.append
        for part in value:
            add(_copied(part, seen))
    elif kind is slice or not has_pending(value):
        return value
    else:
        made = seen[id(value)] = copy.copy(value)
        for name in fields_of(kind):
            object.__setattr__(made, name, _copied(getattr(value, name), seen))
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
        kind = kind_of(value)
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

        def arrived(value: Any) -> Any:
            return values[id(cell_of(value))] if kind_of(value) is Pending else value

        if self._has_containers:
            replacing = _Replacing(arrived)
            return replacing.in_(self._args), replacing.in_(self._kwargs)
        args = list(map(arrived, self._args))
        if not self._kwargs:
            return args, self._kwargs
        return args, {name: arrived(arg) for name, arg in self._kwargs.items()}
