"""Signatures of functions: the names of the parameters, and specs from the annotations."""

import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, ForwardRef, TypeVar, cast, get_origin, get_type_hints
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import AbstractArray
from pydantic import BeforeValidator, ConfigDict
from typing_extensions import is_typeddict


@dataclass(frozen=True)
class Parameters:
    """The parameters of a function that can be passed by name.

    Attributes:
        names: Their names, in order.
        required: The names of those without defaults. If there are several, the function's input is a dict or
            a model of its arguments; otherwise it is the argument.
    """

    names: tuple[str, ...] = ()
    required: tuple[str, ...] = ()

    @property
    def several(self) -> bool:
        return len(self.required) > 1


def parameters_of(function: Any) -> Parameters:
    """Return the parameters of a callable; they are empty if it has no signature."""
    named = [
        each for each in _parameters(function) if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    ]
    required = [each.name for each in named if each.default is each.empty]
    return Parameters(tuple(each.name for each in named), tuple(required))


def _parameters(function: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some builtins have none
        return []


def specs_of(function: Any) -> tuple[Any, Any]:
    """Return the specs of a function's input and output from its annotations, or None without annotations.

    The specs of a function are made once, so that all its operators are equal.
    """
    try:
        return _known[function]
    except (KeyError, TypeError):
        specs = _input_spec(function), spec_of(_hints(function).get("return"))
    try:
        return _known.setdefault(function, specs)
    except TypeError:  # it cannot be hashed, or has no weak references
        return specs


_known: "WeakKeyDictionary[Any, tuple[Any, Any]]" = WeakKeyDictionary()


def _input_spec(function: Any) -> Any:
    hints, found = _hints(function), _parameters(function)
    if not parameters_of(function).several:
        first = next(
            (each for each in found if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)), None
        )
        return None if first is None else spec_of(hints.get(first.name))
    named = [each for each in found if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    fields: list[Any] = [(each.name, spec_of(hints.get(each.name)) or Any, _default(each)) for each in named]
    return make_dataclass(
        getattr(function, "__name__", type(function).__name__),
        fields,
        kw_only=True,
        namespace={"__pydantic_config__": ConfigDict(arbitrary_types_allowed=True)},
    )


def _default(parameter: inspect.Parameter) -> Any:
    if parameter.default is parameter.empty:
        return field()
    # The default itself and not a copy, as in a call of the function.
    return field(default_factory=lambda: parameter.default)


def _hints(function: Any) -> dict[str, Any]:
    if not inspect.isroutine(function) and not isinstance(function, type):
        function = cast("Any", type(function)).__call__
    try:
        return get_type_hints(function, include_extras=True)
    except Exception:  # noqa: BLE001  names that only type checkers know, and builtins
        return {}


def spec_of(hint: Any) -> Any:
    """Return the spec of an annotation; None if it leaves the type open, or if values cannot be checked.

    Typed dicts have no spec: they are states of graphs, which may lack keys. If the annotation asks for it,
    NumPy and JAX scalars become Python numbers, NumPy arrays JAX arrays, and JAX arrays NumPy arrays.
    """
    kind: Any = get_origin(hint) or hint
    if hint in (None, Any, object) or isinstance(hint, str | ForwardRef | TypeVar) or is_typeddict(kind):
        return None
    if not isinstance(kind, type):
        return hint
    cls = cast("type[Any]", kind)
    if (
        cls in _UNCHECKED
        or getattr(cls, "_is_protocol", False)
        or issubclass(cls, Iterator | Awaitable | AsyncIterable)
    ):
        # A check would consume the values, or is impossible.
        return None
    convert = _converter(cls)
    return hint if convert is None else Annotated[hint, BeforeValidator(convert)]


_UNCHECKED: tuple[Any, ...] = (Iterable, Callable)


def _converter(cls: Any) -> Callable[[Any], Any] | None:
    kind = cls.array_type if issubclass(cls, AbstractArray) else cls
    if kind is jax.Array:
        return _as_jaxs
    if kind is np.ndarray:
        return _as_numpys
    return _as_pythons if kind in (int, float, complex, bool) else None


def _as_jaxs(value: Any) -> Any:
    return jnp.asarray(value) if isinstance(value, np.ndarray | np.generic) else value


def _as_numpys(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, jax.Array) else value


def _as_pythons(value: Any) -> Any:
    array: Any = value
    return (
        array.item()
        if isinstance(value, np.ndarray | np.generic | jax.Array) and array.shape == ()
        else array
    )
