"""Steps: the calls that begin as soon as their arguments are there."""

import functools
import inspect
import sys
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from mahsm._common import shown
from mahsm._models import ModelBinding, Models
from mahsm.xcs._current import direct_run

P = ParamSpec("P")
T = TypeVar("T")


class Step(Generic[P, T]):
    """A function whose calls in a jitted function are steps. Made by `step`; elsewhere it is the function.

    Attributes:
        function: The function.
        ordered: True if it runs after all earlier steps, and before all later ones.
    """

    is_async = False
    """True if its calls are awaited."""

    def __init__(self, function: Callable[P, T], *, ordered: bool) -> None:
        functools.update_wrapper(self, function, updated=())
        if "__qualname__" not in vars(self):
            # What is composed of functions has the name of the first one alone.
            inner = inspect.unwrap(function)
            names = {key: getattr(inner, key, None) for key in ("__module__", "__qualname__")}
            vars(self).update(names if names["__qualname__"] else {"__qualname__": name_of(function)})
        self.function = function
        self.ordered = ordered

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return _called(self, self.function, args, kwargs)

    def __get__(self, instance: object, owner: type[Any] | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __reduce__(self) -> str:
        # As functions are pickled: by the name under which they are found; a copy is the step itself.
        return str(vars(self)["__qualname__"])

    def __repr__(self) -> str:
        return f"step({shown(self.function)})"


class _AsyncStep(Step[P, T]):
    is_async = True

    async def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  T is what its call gives: a coroutine
        self, *args: P.args, **kwargs: P.kwargs
    ) -> Any:
        return await _called(self, self.function, args, kwargs)


def _called(step: Step[Any, Any], function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    run = direct_run()
    return function(*args, **kwargs) if run is None else run.step(step, args, kwargs)


@overload
def step(function: Callable[P, T], /, *, ordered: bool = ...) -> Step[P, T]: ...
@overload
def step(*, ordered: bool = ...) -> Callable[[Callable[P, T]], Step[P, T]]: ...
def step(function: Any = None, /, *, ordered: bool = False) -> Any:
    """Mark a function, so that its calls in a jitted function are steps, which run beside each other.

    Operators, DSPy modules, model bindings, edges, graphs and jitted functions are steps without it.

    Args:
        function: A function, sync or async, that does not change its arguments.
        ordered: The function has effects whose order matters: it begins when all earlier steps have ended,
            and later steps begin when it has ended.

    Raises:
        TypeError: if `function` cannot be called, or is a generator function.

    Example:
        >>> from mahsm import xcs
        >>> @xcs.step
        ... def fetch(page):
        ...     return f"page {page}"
        >>> @xcs.jit
        ... def fetch_all(pages):
        ...     return [fetch(page) for page in pages]
        >>> fetch_all([1, 2])
        ['page 1', 'page 2']
    """
    if function is None:
        return functools.partial(step, ordered=ordered)
    if not callable(function) or isinstance(function, type):
        raise TypeError(f"xcs.step got {shown(function)}; expected a function. Write @xcs.step above a def.")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"xcs.step got the generator function {shown(function)}; expected a function that returns its "
            "value. Return a list."
        )
    kind: Any = _AsyncStep if is_async(function) else Step
    return kind(function, ordered=ordered)


def is_async(function: Any) -> bool:
    """Return whether a call gives an awaitable."""
    while isinstance(function, functools.partial):
        function = cast("Any", function).func
    if (bound := method_of(function)) is not None:
        return _is_async_method(*bound)
    if isinstance(function, Step):
        return cast("Step[..., Any]", function).is_async
    operators: Any = sys.modules.get("mahsm.operators")
    if operators is not None and isinstance(function, operators.Operator):
        return _is_async_operator(function)
    call: Any = getattr(cast("Any", type(function)), "__call__", None)  # noqa: B004  of an object
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _is_async_method(function: Any, owner: Any) -> bool:
    if not isinstance(function, FunctionType):
        return is_async(function)
    if _is_unit(owner):
        name = function.__name__
        if name in AWAITED or (name in CALLED and is_async(owner)):
            return True
    return inspect.iscoroutinefunction(function)


def _is_async_operator(op: Any) -> bool:
    declared: Any = getattr(op, "is_async", None)  # of compositions
    if isinstance(declared, bool):
        return declared
    function: Any = getattr(op, "function", None) or cast("Any", type(op)).forward
    return inspect.iscoroutinefunction(function)


CALLED = frozenset({"__call__", "forward"})
AWAITED = frozenset({"aforward", "acall", "ainvoke"})
_METHODS = CALLED | AWAITED | {"invoke"}
"""Methods of operators, modules, edges and graphs whose calls are steps."""


def method_of(callee: Any) -> tuple[Any, Any] | None:
    """Return the function and the object of a bound method, such as Equinox makes too; None for others."""
    kind = cast("type[Any]", type(callee))
    is_method = _methods.get(kind)
    if is_method is None:
        is_method = _methods[kind] = "__func__" in getattr(kind, "__dataclass_fields__", ())
    return (callee.__func__, callee.__self__) if is_method else None


_methods: dict[type, bool] = {MethodType: True}


def model_of(callee: Any) -> Any:
    """Return the DSPy module or model, or the binding, that is called, perhaps by `retry` or so; or None."""
    while isinstance(callee, functools.partial):
        callee = cast("Any", callee).func
    if (bound := method_of(callee)) is not None:
        callee = bound[1]
    while hasattr(callee, "made_by") and len(callee.parts) == 1:
        callee = callee.parts[0]
    dspy: Any = sys.modules.get("dspy")
    is_dspy = dspy is not None and isinstance(callee, dspy.Module | dspy.BaseLM)
    return callee if is_dspy or isinstance(callee, ModelBinding) else None


def is_step(callee: Any) -> bool:
    """Return whether calls of something are steps."""
    if (bound := method_of(callee)) is not None:
        function, owner = bound
        return _is_unit(function) or (getattr(function, "__name__", "") in _METHODS and _is_unit(owner))
    return _is_unit(callee)


def _is_unit(callee: Any) -> bool:
    kind = cast("type[Any]", type(callee))
    found = _units.get(kind)
    if found is None:
        found = _units[kind] = isinstance(callee, _unit_types())
    return found


_units: dict[type, bool] = {}


def _unit_types() -> tuple[type, ...]:
    """Return the classes whose instances are steps, of the libraries that are imported."""
    kinds: list[type] = [Step, ModelBinding, Models]
    for module, names in _CLASSES.items():
        if (loaded := sys.modules.get(module)) is not None:
            kinds += [getattr(loaded, name) for name in names]
    return tuple(kinds)


_CLASSES = {
    "mahsm.operators": ("Operator",),
    "langchain_core.runnables": ("Runnable",),
    "dspy": ("Module", "BaseLM"),
}


_NAMES = ("__name__", "name", "model")
_DEFAULTS = frozenset({"<lambda>", "LangGraph"})


def name_of(callee: Any) -> str:
    """Return the name of a step in reports and errors."""
    callee = _named(callee)
    return _own_name(callee) or type(callee).__name__


def has_own_name(callee: Any) -> bool:
    """Return whether a step has a name that is not only that of its class, or of all functions of a kind."""
    callee = _named(callee)
    name = _own_name(callee)
    return name is not None and name not in _DEFAULTS and name != type(inspect.unwrap(callee)).__name__


def _named(callee: Any) -> Any:
    """Return what has the name of a step: without its arguments, and for calls of an object the object."""
    while isinstance(callee, functools.partial):
        callee = callee.func
    if (bound := method_of(callee)) is None:
        return callee
    function, owner = bound
    return _named(owner if is_step(callee) and not _is_unit(function) else function)


def _own_name(callee: Any) -> str | None:
    return next((found for key in _NAMES if isinstance(found := getattr(callee, key, None), str)), None)
