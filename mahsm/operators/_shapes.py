"""Shapes of arrays in specs, checked by jaxtyping: a named dimension has one size in input and output."""

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

from jaxtyping import AbstractArray, jaxtyped  # pyright: ignore[reportUnknownVariableType]
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from typing_extensions import is_typeddict


def misfit(*checked: tuple[Any, Any]) -> str | None:
    """Return a description of the first array that does not fit its spec, or None.

    Args:
        checked: Pairs of a spec and a value that fits it, shapes aside. Named dimensions hold for all pairs.
    """
    arrays = [
        (name, hint, found)
        for spec, value in checked
        for name, hint in _arrays(spec)
        for found in _at(value, name)
    ]
    if not arrays:
        return None
    # Inside this block, the first array with a named dimension binds its size.
    with jaxtyped("context"):
        for place, (name, hint, value) in enumerate(arrays):
            try:
                _adapter(hint).validate_python(value)
            except ValidationError:
                before = ", ".join(f"{name or 'it'} is {_shape(value)}" for name, _, value in arrays[:place])
                where = f", where {before}" if before else ""
                return f"{name or 'It'} is {_shape(value)}; expected {told(hint)}{where}"
    return None


@cache
def _arrays(spec: Any) -> tuple[tuple[str, Any], ...]:
    """Return the fields of a spec whose annotations have shapes; the spec itself has the name ''."""
    if _has_shapes(spec):
        return (("", spec),)
    if not (
        dataclasses.is_dataclass(spec)
        or is_typeddict(spec)
        or (isinstance(spec, type) and issubclass(spec, BaseModel))
    ):
        return ()
    try:
        hints = get_type_hints(spec)
    except NameError:  # a name that only type checkers know
        return ()
    return tuple((name, hint) for name, hint in hints.items() if _has_shapes(hint))


def _has_shapes(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(map(_has_shapes, get_args(hint)))


@cache
def _adapter(hint: Any) -> "TypeAdapter[Any]":
    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))


def _at(value: Any, name: str) -> list[Any]:
    """Return a field of a value, in a list that is empty if it is missing; the value itself for ''."""
    if not name:
        return [value]
    fields = cast("Mapping[str, Any]", value if isinstance(value, Mapping) else vars(value))
    return [fields[name]] if name in fields else []


def _shape(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else f"a {type(value).__name__}"


def told(spec: Any) -> str:
    """Return a spec as its author wrote it."""
    if get_origin(spec) is Annotated:
        return told(get_args(spec)[0])
    name = getattr(spec, "__name__", None) if isinstance(spec, type) else None
    return (name or str(spec)).replace("jaxlib._jax.Array", "Array").replace("jaxtyping.", "")
