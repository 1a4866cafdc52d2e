"""What an annotation says about the values of a field: whether they may hold arrays."""

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
    """The annotations of a class's own body; texts are looked up where that is possible."""
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
    """Whether it makes no field."""
    if isinstance(annotation, str):
        return "ClassVar" in annotation or "InitVar" in annotation
    special = (ClassVar, eqx.AbstractVar, eqx.AbstractClassVar)
    return (
        annotation is ClassVar
        or get_origin(annotation) in special
        or isinstance(annotation, dataclasses.InitVar)
    )


def may_hold_arrays(annotation: Any) -> bool:
    """Whether values of this annotation may hold arrays. If it does not say, they may.

    Dicts are an exception: one that does not say of what it is, is configuration. Its numbers would be
    trained otherwise.
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
    if _is_mapping(cls):  # one that does not say of what: configuration
        return False
    if issubclass(cls, (jax.Array, np.ndarray, np.generic, eqx.Module, *_CONTAINERS)):
        return True
    if cls is object or cls.__module__.startswith("jaxtyping") or getattr(cls, "_is_protocol", False):
        return True
    if cls.__module__ == "collections.abc":  # Callable, Sequence, which do not say of what
        return True
    if dataclasses.is_dataclass(cls):
        return any(may_hold_arrays(field.type) for field in dataclasses.fields(cls))
    return False  # a client, a language model, a pydantic model: it is no container that JAX looks into
