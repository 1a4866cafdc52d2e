"""Operators, and changes of containers, in rewritten code."""

from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

from mahsm.xcs._containers import ATOMS, forced, has_pending, kind_of, listed
from mahsm.xcs._current import running
from mahsm.xcs._derived import derived
from mahsm.xcs._functions import SPECIAL, Call
from mahsm.xcs._pending import BINARY, IN_PLACE, Pending, cell_of, ready, value_of

CONTAINERS: frozenset[type[Any]] = frozenset({list, dict, set, deque, defaultdict, OrderedDict, Counter})
"""Containers that may hold pending values."""


def of_container(call: Call, owner: Any, callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a method of a container, which may hold pending values."""
    name = callee.__name__
    if name in _KEYED and args:
        args = (ready(args[0]), *args[1:])
    run = running()
    if run is None or kind_of(owner) is set:
        args, kwargs = forced(args), forced(kwargs)
    if run is not None:
        if any(map(has_pending, args)) or kwargs:
            run.touched[id(owner)] = owner
        if name in _CHANGING:
            run.will_change(owner, name)
    if name == "sort" and (key := kwargs.get("key")) is not None:
        owner[:] = SPECIAL[sorted](call, sorted, owner, key=key, reverse=kwargs.get("reverse", False))
        return None
    return callee(*args, **kwargs)


_KEYED = frozenset({"get", "pop", "setdefault", "__getitem__", "__setitem__", "__delitem__", "insert"})
_CHANGING = frozenset(
    {
        *("append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse", "__iadd__"),
        *("update", "setdefault", "popitem", "move_to_end", "__setitem__", "__delitem__"),
        *("popleft", "appendleft", "extendleft", "rotate", "add", "discard"),
        *("difference_update", "intersection_update", "symmetric_difference_update"),
    }
)


_BUILTIN = frozenset({int, float, complex, bool, str, bytes, list, tuple, set, frozenset, dict, Pending})


def binary(name: str, left: Any, right: Any) -> Any:
    """Compute `left op right`."""
    function = BINARY[name]
    if name == "mod" and kind_of(left) is str:
        return derived(function, left, right)
    if kind_of(right) is Pending and kind_of(left) not in _BUILTIN:
        right = value_of(right)
    return function(left, right)


def in_place(name: str, left: Any, right: Any) -> Any:
    """Compute `left op= right`, and return the new value of `left`."""
    kind = kind_of(left)
    if kind in ATOMS or kind is tuple:
        return binary(name, left, right)
    if kind is Pending:
        if cell_of(left).is_text:
            return derived(BINARY[name], left, right)
        return in_place(name, value_of(left), right)
    run = running()
    if run is not None and kind in CONTAINERS:
        run.will_change(left, "__iadd__")
    return IN_PLACE[name](left, listed(right) if kind is list else forced(right))


def set_item(value: Any, owner: Any, key: Any) -> None:
    """Do `owner[key] = value`."""
    owner, key = ready(owner), forced(key)
    run = running()
    if run is not None and kind_of(owner) in CONTAINERS:
        run.will_change(owner, "__setitem__", key)
        if has_pending(value):
            run.touched[id(owner)] = owner
        owner[key] = value
    else:
        owner[key] = forced(value)


def item_of(owner: Any, key: Any) -> tuple[Any, Any, Any]:
    """Return the container, the key and the value of `owner[key]`, which is about to change."""
    owner, key = ready(owner), forced(key)
    changed(owner, "__setitem__", key)
    return owner, key, owner[key]


def change_item(name: str, item: tuple[Any, Any, Any], right: Any) -> None:
    """Do `owner[key] op= right`."""
    owner, key, left = item
    set_item(in_place(name, left, right), owner, key)


def changed(owner: Any, method: str = "", key: Any = None) -> None:
    """Note how to undo a change of a container that is about to come."""
    if kind_of(owner) in CONTAINERS and (run := running()) is not None:
        run.will_change(owner, method, key)


def del_item(owner: Any, key: Any) -> None:
    """Do `del owner[key]`."""
    owner, key = ready(owner), forced(key)
    changed(owner)
    del owner[key]
