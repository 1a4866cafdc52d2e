"""How a callable of any kind is called: a function, an operator, a DSPy module or an edge."""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import CoroutineType
from typing import Any, Literal, cast, get_type_hints

from langchain_core.runnables import Runnable

from mahsm._common import as_dict, missing, shown
from mahsm._waiting import THREAD, Way, tasks
from mahsm.errors import StateError
from mahsm.nodes._internal import FieldInputs
from mahsm.operators import FunctionOperator, Operator
from mahsm.operators._internal import Parameters, in_thread, parameters_of


@dataclass(frozen=True)
class Kind:
    """The kind of a callable.

    Attributes:
        name: Its name, for errors and nodes.
        is_async: True if its call returns an awaitable.
        awaits: True if it awaits, though its call may block, as that of an operator with a model does.
        side: The name of its async method, if it has one.
        of: What it is.
        parameters: Its parameters, by name. A DSPy module's are its input fields.
    """

    name: str
    is_async: bool
    awaits: bool
    side: Literal["acall", "ainvoke"] | None
    of: Literal["function", "operator", "module"]
    parameters: Parameters

    @property
    def by_fields(self) -> bool:
        """True if one argument that is a dict or a model stands for arguments by name."""
        return self.parameters.several or self.of == "module"


def name_of(function: Any) -> str:
    """Return the name of a callable."""
    return getattr(function, "__name__", type(function).__name__)


def kind_of(owner: str, function: Any) -> Kind:
    """Return the kind of a callable.

    Raises:
        TypeError: if it is not one, or a generator function.
    """
    name = name_of(function)
    dspy: Any = sys.modules.get("dspy")
    if dspy is not None and isinstance(function, dspy.Module):
        keys = tuple(sorted(FieldInputs(owner, function, None, None).keys))
        side = "acall" if hasattr(cast("Any", type(function)), "aforward") else None
        return Kind(name, False, side is not None, side, "module", Parameters(keys, ()))
    if isinstance(function, Operator):
        inner = getattr(function, "kind", None)
        if isinstance(inner, Kind):
            return replace(inner, side="acall")
        name = type(function).title(function)
        return Kind(name, _is_async(function), function.awaits, "acall", "operator", Parameters())
    if isinstance(function, type) and "forward" in dir(function):
        raise TypeError(f"{owner}: got the class {shown(cast('Any', function))}; expected an instance of it.")
    if not callable(function):
        hint = " Pass lambda state: graph.invoke(state)." if isinstance(function, Runnable) else ""
        raise TypeError(
            f"{owner}: got {shown(cast('Any', function))}; expected a function, an operator "
            f"or a DSPy module.{hint}"
        )
    parts = _parts(function)
    if any(inspect.isgeneratorfunction(part) or inspect.isasyncgenfunction(part) for part in parts):
        raise TypeError(f"{owner}: {name} is a generator function; expected a function that returns a value.")
    if isinstance(function, Runnable):
        return Kind(name, False, True, "ainvoke", "operator", Parameters())
    is_async = any(map(inspect.iscoroutinefunction, parts))
    return Kind(name, is_async, is_async, None, "function", parameters_of(function))


def _parts(function: Any) -> tuple[Any, ...]:
    inner = function
    while isinstance(inner, partial):
        inner = cast("Any", inner).func
    return inner, getattr(inner, "__call__", None)  # noqa: B004  of an object


def _is_async(op: Operator) -> bool:
    return op.awaits if isinstance(op, FunctionOperator) else inspect.iscoroutinefunction(type(op).forward)


def hints_of(function: Any) -> Mapping[str, Any]:
    """Return the annotations of a function; empty if they cannot be found."""
    function = getattr(function, "__wrapped__", function)
    try:
        return get_type_hints(function if inspect.isroutine(function) else type(function).__call__)
    except Exception:  # noqa: BLE001  names that only type checkers know, and builtins
        return {}


def arguments(
    kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call; one dict or model may stand for arguments by name."""
    if len(args) != 1 or kwargs or not kind.by_fields:
        return args, kwargs
    try:
        values = as_dict(args[0])
    except StateError:
        raise StateError(_not_by_fields(kind, args[0])) from None
    absent = [name for name in kind.parameters.required if name not in values]
    if absent:
        raise TypeError(f"{kind.name}: {missing(values, absent[0], 'its input')} It needs {_names(kind)}.")
    return (), {name: values[name] for name in kind.parameters.names if name in values}


def _not_by_fields(kind: Kind, value: object) -> str:
    if kind.of == "module":
        what, expected = "its input fields", "them by name"
    else:
        what, expected = "its parameters", "an argument for each"
    return (
        f"{kind.name}: got {shown(value)}, of type {type(value).__name__}, for {what} {_names(kind)}; "
        f"expected {expected}, or one dict, dataclass or pydantic model of them. In a chain, let the "
        "function before return that."
    )


def _names(kind: Kind) -> str:
    return ", ".join(map(repr, kind.parameters.required or kind.parameters.names))


def call(function: Any, kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call from synchronous code, and wait for the result."""
    if kind.by_fields:
        args, kwargs = arguments(kind, args, kwargs)
    value: Any = function(*args, **kwargs)
    return tasks.call(partial(_itself, value)) if type(value) is CoroutineType else value


def _itself(value: Any) -> Any:
    return value


async def acall(
    function: Any, kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any], left: Any = None
) -> Any:
    """Async version of `call`; what blocks runs in a thread of its own, and `left` counts it if it hangs."""
    if kind.by_fields:
        args, kwargs = arguments(kind, args, kwargs)
    if kind.is_async:
        return await function(*args, **kwargs)
    if kind.side is not None and kind.awaits:
        # Looked up on the class: on an instance, Equinox wraps each method, which takes 20 us.
        side: Callable[..., Any] = getattr(cast("Any", type(function)), kind.side)
        return await side(function, *args, **kwargs)
    value = await in_thread(partial(function, *args, **kwargs), left)
    return await value if inspect.isawaitable(value) else value


async def call_as(way: Way, function: Any, kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call in one of the two ways to wait."""
    if way is THREAD:
        return call(function, kind, args, kwargs)
    return await acall(function, kind, args, kwargs)
