"""The helpers of rewritten code: what its calls, f-strings, comparisons and blocks do.

Only rewritten code ever holds pending values. Whatever it calls is one of these:

- a step, which begins, and whose result is pending;
- a function of the user's, which is rewritten, and gets pending values as they are;
- something that only moves values around, such as `list.append` and `zip`, which gets them as they are;
- a function of its arguments' values alone, such as `len` and `json.dumps`, whose result is pending;
- anything else, which gets its arguments when they are there.
"""

import contextlib
import functools
import inspect
import json
import math
import operator
import re
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Coroutine, Generator
from types import BuiltinFunctionType, CoroutineType, FunctionType, MethodType
from typing import Any

from mahsm.xcs._containers import (
    ATOMS,
    forced,
    has_pending,
    is_record,
    listed,
    rewritten_codes,
)
from mahsm.xcs._derived import STRING_METHODS, derived, gives_text
from mahsm.xcs._greenlets import in_body
from mahsm.xcs._pending import Pending, cell_of, ready, value_of
from mahsm.xcs._rewrite import HELPERS
from mahsm.xcs._run import ProgramRun, current
from mahsm.xcs._source import is_users, rewritten
from mahsm.xcs._step import is_async, is_step, name_of
from mahsm.xcs._warnings import runs_plainly


def call(callee: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call something from rewritten code."""
    kind = type(callee)
    if kind is FunctionType:
        return _function(callee, args, kwargs)
    if kind is Pending:
        return _pending(callee, args, kwargs)
    if kind is BuiltinFunctionType or kind is _METHOD_WRAPPER:
        return _builtin(callee, args, kwargs)
    if kind is type:
        return _class(callee, args, kwargs)
    run = current.get()
    if run is not None and not run.is_over and is_step(callee):
        return _step(run, callee, args, kwargs)
    if kind is MethodType:
        if type(callee.__func__) is FunctionType:
            return _function(callee.__func__, (callee.__self__, *args), kwargs)
    elif kind is functools.partial:
        return call(callee.func, *callee.args, *args, **{**callee.keywords, **kwargs})
    elif isinstance(callee, type):
        return _class(callee, args, kwargs)
    elif type(method := getattr(kind, "__call__", None)) is FunctionType and is_users(method):  # noqa: B004
        return _function(method, (callee, *args), kwargs)
    return _foreign(callee, args, kwargs)


_METHOD_WRAPPER = type("".__str__)


def _foreign(callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call what is not rewritten: it gets values, and functions that return values."""
    return callee(*[_given(arg) for arg in args], **{name: _given(arg) for name, arg in kwargs.items()})


def _given(value: Any) -> Any:
    kind = type(value)
    if kind in ATOMS:
        return value
    if kind is FunctionType and id(value.__code__) in rewritten_codes:
        return _returning_values(value)
    if kind is CoroutineType and id(value.cr_code) in rewritten_codes:
        return in_body(_forced_result(value))
    return forced(value)


async def _forced_result(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return forced(await coroutine)


def _returning_values(function: FunctionType) -> Callable[..., Any]:
    """Wrap a rewritten function for code that is not: such as a `key`, or a callback."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return await in_body(_forced_result(function(*args, **kwargs)))

        return awaited

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        return forced(function(*args, **kwargs))

    return called


def _step(run: ProgramRun, callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if run.body is not None and is_async(callee):
        return StepCall(run, callee, args, kwargs)
    return run.step(callee, args, kwargs)


def _function(callee: FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if id(callee.__code__) in rewritten_codes:
        return callee(*args, **kwargs)
    if is_users(callee):
        run = current.get()
        if run is None or run.is_over:
            return _foreign(callee, args, kwargs)
        found = rewritten(callee, helpers)
        if found is not None:
            return found.of(callee)(*args, **kwargs)
        runs_plainly(name_of(callee))
    elif callee in _PURE:
        return _pure(callee, args, kwargs)
    return _foreign(callee, args, kwargs)


def _pending(callee: Pending, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a pending value: mostly a method of one."""
    owner = cell_of(callee).owner
    if owner is not None and owner[1] in STRING_METHODS and not cell_of(callee).is_settled:
        return derived(_METHODS[owner[1]], owner[0], *map(listed, args), **kwargs)
    return call(value_of(callee), *args, **kwargs)


def _method(name: str) -> Callable[..., Any]:
    def method(owner: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(owner, name)(*args, **kwargs)

    return method


_METHODS = {name: _method(name) for name in STRING_METHODS}


def _builtin(callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    owner = getattr(callee, "__self__", None)
    kind = type(owner)
    if kind in _CONTAINERS:
        return _of_container(owner, callee, args, kwargs)
    if kind is str or kind is bytes:
        return derived(callee, *map(listed, args), **kwargs) if args or kwargs else callee()
    if (special := _SPECIAL.get(callee)) is not None:
        return special(callee, *args, **kwargs)
    if callee in _PURE:
        return _pure(callee, args, kwargs)
    return _foreign(callee, args, kwargs)


_CONTAINERS = frozenset({list, dict, set, deque, defaultdict, OrderedDict})


def _of_container(owner: Any, callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a method of a container, which may hold pending values."""
    name = callee.__name__
    if name in _KEYED and args:
        args = (ready(args[0]), *args[1:])
    run = current.get()
    if run is None or run.is_over or type(owner) is set:
        args, kwargs = forced(args), forced(kwargs)
    if run is not None:
        if any(map(has_pending, args)) or kwargs:
            run.touched[id(owner)] = owner
        if name in _CHANGING:
            run.will_change(owner, name)
    if name == "sort" and (key := kwargs.get("key")) is not None:
        owner[:] = _sorted(sorted, owner, key=key, reverse=kwargs.get("reverse", False))
        return None
    return callee(*args, **kwargs)


_KEYED = frozenset({"get", "pop", "setdefault", "__getitem__", "__setitem__", "__delitem__", "insert"})
_CHANGING = frozenset(
    "append extend insert pop remove clear sort reverse update setdefault popitem popleft appendleft extendleft "
    "rotate add discard difference_update intersection_update symmetric_difference_update move_to_end "
    "__setitem__ __delitem__ __iadd__".split()
)


def _class(callee: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if (special := _SPECIAL.get(callee)) is not None:
        return special(callee, *args, **kwargs)
    if callee in _PURE:
        return _pure(callee, args, kwargs)
    if is_record(callee):
        return callee(*args, **kwargs)
    return _foreign(callee, args, kwargs)


def _pure(callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function that only depends on the values of its arguments; it waits if one is a function."""
    args = tuple(map(listed, args))
    if any(map(callable_given, kwargs.values())) or any(map(callable_given, args)):
        return _foreign(callee, args, kwargs)
    return derived(callee, *args, **kwargs)


def callable_given(value: Any) -> bool:
    """Return whether an argument is a function."""
    return type(value) in {FunctionType, MethodType, functools.partial, BuiltinFunctionType}


# Functions that move values around, or call functions of the user's.


def _moves(callee: Any, *args: Any, **kwargs: Any) -> Any:
    return callee(*args, **kwargs)


def _dict(callee: Any, *args: Any, **kwargs: Any) -> Any:
    return callee(*map(ready, args), **kwargs)


def _set(callee: Any, *args: Any) -> Any:
    return callee(*(forced(listed(ready(arg))) for arg in args))


def _type_of(callee: Any, *args: Any, **kwargs: Any) -> Any:
    return callee(ready(args[0]), *args[1:], **kwargs) if args else callee()


def _len(callee: Any, value: Any, /) -> Any:
    return derived(callee, value) if type(value) is Pending else callee(value)


def _map(callee: Any, function: Any, /, *iterables: Any) -> Any:
    def mapped() -> Generator[Any, None, None]:
        for args in zip(*iterables, strict=False):
            yield call(function, *args)

    return mapped()


def _filter(callee: Any, function: Any, iterable: Any, /) -> Any:
    def kept() -> Generator[Any, None, None]:
        for one in iterable:
            if one if function is None else call(function, one):
                yield one

    return kept()


def _reduce(callee: Any, function: Any, iterable: Any, /, *initial: Any) -> Any:
    return callee(lambda left, right: call(function, left, right), iterable, *initial)


for _generator in (_map, _filter):
    rewritten_codes.update((id(part), part) for part in _generator.__code__.co_consts if hasattr(part, "co_code"))


def _extreme(callee: Any, *args: Any, **kwargs: Any) -> Any:
    """Call `max` or `min`; the calls of a `key` are made first, so that steps in it run beside each other."""
    key = kwargs.pop("key", None)
    if key is None:
        return _pure(callee, args, kwargs)
    candidates = list(args[0]) if len(args) == 1 else list(args)
    keys = [call(key, one) for one in candidates]
    if not candidates:
        return _foreign(callee, (candidates,), kwargs)
    keys = forced(keys)
    return candidates[callee(range(len(keys)), key=keys.__getitem__)]


def _sorted(callee: Any, iterable: Any, /, *, key: Any = None, reverse: Any = False) -> Any:
    if key is None:
        return _pure(callee, (iterable,), {"reverse": reverse})
    candidates = list(iterable)
    keys = forced([call(key, one) for one in candidates])
    return [candidates[place] for place in sorted(range(len(keys)), key=keys.__getitem__, reverse=ready(reverse))]


def _iterated(callee: Any, iterable: Any, /) -> Any:
    """Call `any` or `all`, which look at one value after the other, and at no more than they need."""
    return callee(iterable)


def _next(callee: Any, *args: Any) -> Any:
    return callee(*args)


def _attr(callee: Any, owner: Any, name: Any, /, *default: Any) -> Any:
    owner, name = ready(owner), ready(name)
    return callee(owner, name, *(map(forced, default) if callee is setattr else default))


_SPECIAL: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((list, tuple, zip, enumerate, reversed, iter, range, id), _moves),
    **dict.fromkeys((any, all), _iterated),
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
    next: _next,
}

_PURE: set[Any] = {
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


# f-strings, operators, and the rest.


def format_(*parts: Any) -> Any:
    """Make the string of an f-string; each part is a string, or a value, a conversion and a format."""
    for part in parts:
        if type(part) is tuple and (type(part[0]) not in ATOMS or type(part[2]) is not str) and has_pending(part):
            return derived(_formatted, *parts)
    return _formatted(*parts)


@gives_text
def _formatted(*parts: Any) -> str:
    return "".join(
        part if type(part) is str else format(_CONVERSIONS[part[1]](part[0]), part[2]) for part in parts
    )


_CONVERSIONS: dict[int, Callable[[Any], Any]] = {-1: lambda value: value, 115: str, 114: repr, 97: ascii}

_OPERATORS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    name: (getattr(operator, name), getattr(operator, f"i{name.rstrip('_')}"))
    for name in "add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift".split()
}
_BUILTIN = frozenset({int, float, complex, bool, str, bytes, list, tuple, set, frozenset, dict, Pending})


def binary(name: str, left: Any, right: Any) -> Any:
    """Compute `left op right`."""
    function = _OPERATORS[name][0]
    if name == "mod" and type(left) is str:
        return derived(function, left, right)
    if type(right) is Pending and type(left) not in _BUILTIN:
        right = value_of(right)
    return function(left, right)


def in_place(name: str, left: Any, right: Any) -> Any:
    """Compute `left op= right`, and return the new value of `left`."""
    plain, changing = _OPERATORS[name]
    kind = type(left)
    if kind in ATOMS or kind is tuple:
        return binary(name, left, right)
    if kind is Pending:
        if cell_of(left).is_text:
            return derived(plain, left, right)
        return in_place(name, value_of(left), right)
    run = current.get()
    if run is not None and kind in _CONTAINERS:
        run.will_change(left, "__iadd__")
    return changing(left, listed(right) if kind is list else forced(right))


def set_item(value: Any, owner: Any, key: Any) -> None:
    """Do `owner[key] = value`."""
    owner, key = ready(owner), forced(key)
    run = current.get()
    if run is not None and not run.is_over and type(owner) in _CONTAINERS:
        run.will_change(owner, "__setitem__", key)
        if has_pending(value):
            run.touched[id(owner)] = owner
        owner[key] = value
    else:
        owner[key] = forced(value)


def scope() -> Any:
    """Return the block that the body of a `try` or a `with` is."""
    run = current.get()
    return contextlib.nullcontext() if run is None or run.is_over else run.scope()


def settled(value: Any, scope: Any) -> Any:
    """Return a value when everything that has begun in a scope has succeeded."""
    if scope is not None:
        scope.settle()
    return value


def each_settled(values: Any, scope: Any) -> Generator[Any, None, None]:
    """Iterate over values; what began in a scope has succeeded before each of them."""
    for value in values:
        yield settled(value, scope)


class StepCall(Coroutine[Any, Any, Any]):
    """The call of an async step, which begins when it is awaited.

    Rewritten code gets a pending value by awaiting it; any other code gets the value.
    """

    def __init__(self, run: ProgramRun, callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._run = run
        self._callee = callee
        self._args = args
        self._kwargs = kwargs
        self._awaited: Coroutine[Any, Any, Any] | None = None

    def begin(self) -> Pending:
        return self._run.step(self._callee, self._args, self._kwargs)

    async def _value(self) -> Any:
        return forced(self.begin())

    @property
    def _coroutine(self) -> Coroutine[Any, Any, Any]:
        if self._awaited is None:
            self._awaited = in_body(self._value())
        return self._awaited

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        return self._coroutine.throw(*error)

    def close(self) -> None:
        if self._awaited is not None:
            self._awaited.close()


class _Ready:
    """Awaits a value that is pending, without suspending."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._value
        yield


def await_(awaitable: Any) -> Any:
    """Return what rewritten code awaits: an async step gives a pending value at once."""
    kind = type(awaitable)
    if kind is StepCall:
        return _Ready(awaitable.begin())
    if kind is Pending:
        value = value_of(awaitable)
        return value if inspect.isawaitable(value) else _Ready(awaitable)
    return awaitable


helpers: dict[str, Any] = dict(
    zip(
        HELPERS,
        (call, format_, ready, forced, scope, settled, each_settled, await_, set_item, slice, binary, in_place),
        strict=True,
    )
)
"""The helpers by their names in rewritten code."""
