"""Functions that rewritten code may give pending values: those that move values around, and pure ones."""

import bisect
import functools
import heapq
import json
import math
import re
from collections.abc import Callable, Generator
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from mahsm.xcs._containers import forced, kind_of, listed, rewritten_codes
from mahsm.xcs._derived import derived
from mahsm.xcs._foreign import foreign
from mahsm.xcs._pending import Pending, ready

Call = Callable[..., Any]
"""Calls something from rewritten code."""


def pure(callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function that only depends on the values of its arguments; it waits if one is a function."""
    args = tuple(map(listed, args))
    if any(map(_is_function, kwargs.values())) or any(map(_is_function, args)):
        return foreign(callee, args, kwargs)
    return derived(callee, *args, **kwargs)


def _is_function(value: Any) -> bool:
    """Return whether an argument is a function."""
    return kind_of(value) in {FunctionType, MethodType, functools.partial, BuiltinFunctionType}


# Functions that move values around, or call functions of the user's.


def _moves(call: Call, callee: Any, *args: Any, **kwargs: Any) -> Any:
    return callee(*args, **kwargs)


def _dict(call: Call, callee: Any, *args: Any, **kwargs: Any) -> Any:
    return callee(*map(ready, args), **kwargs)


def _set(call: Call, callee: Any, *args: Any) -> Any:
    return callee(*(forced(listed(ready(arg))) for arg in args))


def _type_of(call: Call, callee: Any, *args: Any, **kwargs: Any) -> Any:
    return callee(ready(args[0]), *args[1:], **kwargs) if args else callee()


def _len(call: Call, callee: Any, value: Any, /) -> Any:
    return derived(callee, value) if kind_of(value) is Pending else callee(value)


def _map(call: Call, callee: Any, function: Any, /, *iterables: Any) -> Any:
    def mapped() -> Generator[Any, None, None]:
        for args in zip(*iterables, strict=False):
            yield call(function, *args)

    return mapped()


def _filter(call: Call, callee: Any, function: Any, iterable: Any, /) -> Any:
    def kept() -> Generator[Any, None, None]:
        for one in iterable:
            if one if function is None else call(function, one):
                yield one

    return kept()


def _reduce(call: Call, callee: Any, function: Any, iterable: Any, /, *initial: Any) -> Any:
    return callee(functools.partial(call, function), iterable, *initial)


for _generator in (_map, _filter):
    rewritten_codes.update(
        (id(part), part) for part in _generator.__code__.co_consts if hasattr(part, "co_code")
    )


def _extreme(call: Call, callee: Any, *args: Any, **kwargs: Any) -> Any:
    """Call `max` or `min`; the calls of a `key` are made first, so that steps in it run beside each other."""
    key = kwargs.pop("key", None)
    if key is None:
        return pure(callee, args, kwargs)
    candidates = list(args[0]) if len(args) == 1 else list(args)
    keys = [call(key, one) for one in candidates]
    if not candidates:
        return foreign(callee, (candidates,), kwargs)
    keys = forced(keys)
    return candidates[callee(range(len(keys)), key=keys.__getitem__)]


def _sorted(call: Call, callee: Any, iterable: Any, /, *, key: Any = None, reverse: Any = False) -> Any:
    """Call `sorted`; as with `max`, the calls of a `key` are made first."""
    if key is None:
        return pure(callee, (iterable,), {"reverse": reverse})
    candidates = list(iterable)
    keys = forced([call(key, one) for one in candidates])
    return [
        candidates[place] for place in sorted(range(len(keys)), key=keys.__getitem__, reverse=ready(reverse))
    ]


def _attr(call: Call, callee: Any, owner: Any, name: Any, /, *default: Any) -> Any:
    owner, name = ready(owner), ready(name)
    return callee(owner, name, *(map(forced, default) if callee is setattr else default))


SPECIAL: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((list, tuple, zip, enumerate, reversed, iter, next, range, id), _moves),
    # These look at one value after the other, and at no more than they need.
    **dict.fromkeys((any, all), _moves),
    **dict.fromkeys((max, min), _extreme),
    **dict.fromkeys((isinstance, type, issubclass, callable), _type_of),
    **dict.fromkeys((getattr, hasattr, setattr), _attr),
    **dict.fromkeys((set, frozenset), _set),
    dict: _dict,
    len: _len,
    map: _map,
    filter: _filter,
    functools.reduce: _reduce,
    sorted: _sorted,
}

PURE: set[Any] = {
    *(str, int, float, repr, sum, abs, round, bytes, complex, ascii, ord, chr, hex, divmod, pow, bool),
    *(json.dumps, json.loads),
    *(re.findall, re.search, re.match, re.fullmatch, re.sub, re.split, re.escape),
    *(
        function
        for name, function in vars(math).items()
        if not name.startswith("_") and isinstance(function, BuiltinFunctionType)
    ),
    max,
    min,
    sorted,
}
"""Functions of their arguments' values alone. Whatever is not listed waits for its arguments."""

CHANGES_FIRST: frozenset[Any] = frozenset(
    {
        *(heapq.heappush, heapq.heappop, heapq.heapify, heapq.heapreplace, heapq.heappushpop),
        *(bisect.insort_left, bisect.insort_right),
    }
)
"""Functions that change the list that is their first argument."""
