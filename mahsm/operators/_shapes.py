"""Shapes of arrays in specs, which jaxtyping checks: one name of a size means one size, in an input and its
output.
"""

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

from jaxtyping import AbstractArray, jaxtyped  # pyright: ignore[reportUnknownVariableType]
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from typing_extensions import is_typeddict


def misfit(*checked: tuple[Any, Any]) -> str | None:
    """What does not fit in values of specs, if something does not.

    Args:
        checked: A spec, and a value that fits it apart from shapes; names of sizes hold for all of them.
    """
    arrays = [
        (name, hint, found)
        for spec, value in checked
        for name, hint in _arrays(spec)
        for found in _at(value, name)
    ]
    if not arrays:
        return None
    with jaxtyped("context"):  # what is found in here binds the names of sizes
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
    """The fields of a spec in whose annotations jaxtyping has shapes; the spec itself, without a name, if it
    is such.
    """
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
    except NameError:  # one that only type checkers know
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
    """The value's field, if it is there; the value itself, if the field has no name."""
    if not name:
        return [value]
    fields = cast("Mapping[str, Any]", value if isinstance(value, Mapping) else vars(value))
    return [fields[name]] if name in fields else []


def _shape(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else f"a {type(value).__name__}"


def told(spec: Any) -> str:
    """A spec as its author wrote it."""
    if get_origin(spec) is Annotated:
        return told(get_args(spec)[0])
    name = getattr(spec, "__name__", None) if isinstance(spec, type) else None
    return (name or str(spec)).replace("jaxlib._jax.Array", "Array").replace("jaxtyping.", "")
