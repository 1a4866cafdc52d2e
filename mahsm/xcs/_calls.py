"""The helpers of rewritten code: what its calls, f-strings, comparisons and blocks do.

Only rewritten code ever holds pending values. Whatever it calls is one of these:

- a step, which begins, and whose result is pending;
- a function of the user's, which is rewritten, and gets pending values as they are;
- something that only moves values around, such as `list.append` and `zip`, which gets them as they are;
- a function of its arguments' values alone, such as `len` and `json.dumps`, whose result is pending;
- anything else, which gets its arguments when they are there.
"""

import functools
import inspect
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import Any

from mahsm.xcs._awaiting import StepCall, await_
from mahsm.xcs._call_names import name_in
from mahsm.xcs._changes import (
    CONTAINERS,
    binary,
    change_item,
    changed,
    del_item,
    in_place,
    item_of,
    of_container,
    set_item,
)
from mahsm.xcs._containers import fields_of, forced, kind_of, listed, rewritten_codes
from mahsm.xcs._current import Program, running
from mahsm.xcs._derived import STRING_METHODS, derived
from mahsm.xcs._foreign import foreign
from mahsm.xcs._formats import format_
from mahsm.xcs._functions import CHANGES_FIRST, PURE, SPECIAL, pure
from mahsm.xcs._pending import Pending, cell_of, ready, value_of
from mahsm.xcs._scopes import delegated, each_settled, paused, resumed, scope, settled
from mahsm.xcs._source import is_users, rewritten
from mahsm.xcs._step import has_own_name, is_async, is_step, method_of, name_of
from mahsm.xcs._syntax import HELPERS
from mahsm.xcs._warnings import runs_plainly


def call(callee: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call something from rewritten code."""
    kind = kind_of(callee)
    if kind is FunctionType:
        return _function(callee, args, kwargs)
    if kind is Pending:
        return _pending(callee, args, kwargs)
    if kind is BuiltinFunctionType or kind is _METHOD_WRAPPER:
        return _builtin(callee, args, kwargs)
    if kind is type:
        return _class(callee, args, kwargs)
    if (run := running()) is not None and is_step(callee):
        return _step(run, callee, args, kwargs)
    if kind is functools.partial:
        return call(callee.func, *callee.args, *args, **{**callee.keywords, **kwargs})
    return _other(callee, args, kwargs)


def _other(callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a method, a class of another metaclass, or an object with `__call__`."""
    if (bound := method_of(callee)) is not None:
        function, owner = bound
        if kind_of(owner) is Pending:
            # A special method of a pending value, which is that of the value.
            return call(getattr(value_of(owner), function.__name__), *args, **kwargs)
        if kind_of(owner) in CONTAINERS:
            changed(owner)
        if isinstance(function, FunctionType):
            return _function(function, (owner, *args), kwargs)
    elif isinstance(callee, type):
        return _class(callee, args, kwargs)
    else:
        method = getattr(kind_of(callee), "__call__", None)  # noqa: B004
        if isinstance(method, FunctionType) and is_users(method):
            return _function(method, (callee, *args), kwargs)
    return foreign(callee, args, kwargs)


_METHOD_WRAPPER = type("".__str__)


def _step(run: Program, callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = None if has_own_name(callee) else _name_here()
    if is_async(callee):
        if run.body is None:
            # A coroutine, which some event loop of the synchronous function's own awaits.
            return foreign(callee, args, kwargs)
        return StepCall(run, callee, args, kwargs, name)
    return run.step(callee, args, kwargs, name)


def _name_here() -> str | None:
    """Return the name of the callee in the code that called `call`."""
    frame: Any = inspect.currentframe()
    return name_in(frame.f_back.f_back.f_back)


def _function(callee: FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if id(callee.__code__) in rewritten_codes:
        return callee(*args, **kwargs)
    if is_users(callee):
        if running() is None:
            return foreign(callee, args, kwargs)
        found = rewritten(callee, helpers)
        if found is not None:
            return found.of(callee)(*args, **kwargs)
        runs_plainly(name_of(callee))
    elif callee in PURE:
        return pure(callee, args, kwargs)
    return foreign(callee, args, kwargs)


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
    kind = kind_of(owner)
    if kind in CONTAINERS:
        return of_container(call, owner, callee, args, kwargs)
    if kind is str or kind is bytes:
        return derived(callee, *map(listed, args), **kwargs) if args or kwargs else callee()
    if (special := SPECIAL.get(callee)) is not None:
        return special(call, callee, *args, **kwargs)
    if callee in PURE:
        return pure(callee, args, kwargs)
    if callee in CHANGES_FIRST and args:
        changed(args[0])
    return foreign(callee, args, kwargs)


def _class(callee: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if (special := SPECIAL.get(callee)) is not None:
        return special(call, callee, *args, **kwargs)
    if callee in PURE:
        return pure(callee, args, kwargs)
    if fields_of(callee):
        return callee(*args, **kwargs)
    return foreign(callee, args, kwargs)


helpers: dict[str, Any] = dict(
    zip(
        HELPERS,
        (
            *(call, format_, ready, forced, scope, settled, each_settled, await_),
            *(set_item, del_item, slice, binary, in_place, item_of, change_item),
            *(paused, resumed, delegated),
        ),
        strict=True,
    )
)
"""The helpers by their names in rewritten code."""
