"""Annotations of fields: which fields may hold arrays."""

import collections.abc
import dataclasses
import inspect
import sys
import types
from enum import Enum
from typing import Annotated, Any, ClassVar, Final, ForwardRef, Literal, TypeVar, Union, get_args, get_origin

import equinox as eqx
import jax
import numpy as np
from typing_extensions import is_typeddict

_PLAIN = (str, int, float, bool, bytes, complex, type(None))
_CONTAINERS = (list, tuple, set, frozenset)


def own_annotations(cls: type[Any]) -> dict[str, Any]:
    """Return the annotations in a class's own body; strings are evaluated where that is possible."""
    module = sys.modules.get(cls.__module__)
    names = {**vars(module), cls.__name__: cls} if module else {}
    found: dict[str, Any] = {}
    for name, annotation in inspect.get_annotations(cls).items():
        try:
            found[name] = eval(annotation, names) if isinstance(annotation, str) else annotation
        except Exception:  # noqa: BLE001  a name that is defined in a function, or only for type checkers
            found[name] = annotation
    return found


def is_class_variable(annotation: Any) -> bool:
    """Return whether an annotation declares a class variable (or an `InitVar`), and so not a field."""
    if isinstance(annotation, str):
        return "ClassVar" in annotation or "InitVar" in annotation
    special = (ClassVar, eqx.AbstractVar, eqx.AbstractClassVar)
    return (
        annotation is ClassVar
        or get_origin(annotation) in special
        or isinstance(annotation, dataclasses.InitVar)
    )


def may_hold_arrays(annotation: Any) -> bool:
    """Return whether values of an annotation may hold arrays; True if the annotation leaves it open.

    Dicts are the exception: without a type of its values, a dict is taken for configuration. Otherwise
    numbers in it would be trained.
    """
    if annotation is Any or isinstance(annotation, str | ForwardRef | TypeVar):
        return True
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Annotated, Final):
        return may_hold_arrays(arguments[0])
    if origin is Literal or origin is type:
        return False
    if origin in (Union, types.UnionType):
        return any(map(may_hold_arrays, arguments))
    if _is_mapping(origin) and (not arguments or arguments[-1] in (Any, object)):
        return False
    if origin is not None:
        return (
            not arguments
            or origin is collections.abc.Callable
            or any(_says_more(argument) for argument in arguments)
        )
    return _class_may(annotation) if isinstance(annotation, type) else annotation is not None


def _is_mapping(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, collections.abc.Mapping)


def _says_more(argument: Any) -> bool:
    return argument is not Ellipsis and may_hold_arrays(argument)


def _class_may(cls: type[Any]) -> bool:
    if issubclass(cls, Enum) or (issubclass(cls, _PLAIN) and not issubclass(cls, np.generic)):
        return False
    if is_typeddict(cls):
        return any(may_hold_arrays(annotation) for annotation in cls.__annotations__.values())
    # A mapping without a type of its values is configuration.
    if _is_mapping(cls):
        return False
    if issubclass(cls, (jax.Array, np.ndarray, np.generic, eqx.Module, *_CONTAINERS)):
        return True
    if cls is object or cls.__module__.startswith("jaxtyping") or getattr(cls, "_is_protocol", False):
        return True
    # `Callable` or `Sequence` without arguments leaves it open.
    if cls.__module__ == "collections.abc":
        return True
    if dataclasses.is_dataclass(cls):
        return any(may_hold_arrays(field.type) for field in dataclasses.fields(cls))
    # A client, a language model or a pydantic model is not a container into which JAX looks.
    return False
