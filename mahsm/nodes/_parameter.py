"""Annotations of a function's first parameter and of its result, and conversion to the former."""

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from langchain_core.load.serializable import Serializable
from typing_extensions import is_protocol, is_typeddict

from mahsm._common import State

Annotations = tuple[Any, Any]
"""Those of the first parameter and of the result; None if missing, or if it cannot be resolved."""


def annotations_of(source: Callable[..., Any], inner: Callable[..., Any]) -> Annotations:
    """Return the annotations of a function.

    Args:
        source: The function, perhaps a partial, which decides which parameter is the first.
        inner: The function inside its partials, which has the annotations.
    """
    function: Any = inner if inspect.isroutine(inner) else inner.__call__
    try:
        names = list(inspect.signature(source).parameters)
    except (TypeError, ValueError):
        return None, None
    return _hint(function, names[0]) if names else None, _hint(function, "return")


def _hint(function: Any, name: str) -> Any:
    """Return the annotation of a name; None if it cannot be resolved.

    That is so for names that are imported under `TYPE_CHECKING` only.
    """
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    given = getattr(function, "__annotations__", {})
    if name not in given:
        return None
    alone = types.SimpleNamespace(__annotations__={name: given[name]})
    try:
        return get_type_hints(alone, getattr(function, "__globals__", {}))[name]
    except (NameError, TypeError, AttributeError):
        return None


def is_item(annotation: Any) -> bool:
    """Return whether an annotation is of an item and not of a state.

    Items are numbers, strings, lists, messages, documents, and so on.
    """
    annotation = _plain(annotation)
    if (
        annotation in (None, type(None))
        or annotation is Any
        or annotation is object
        or isinstance(annotation, TypeVar)
    ):
        return False
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return all(part is type(None) or is_item(part) for part in get_args(annotation))
    kind: Any = origin or annotation
    if not inspect.isclass(kind):
        # A generic such as Literal["a", "b"] is an item; anything else is unknown.
        return origin is not None
    if issubclass(kind, Serializable):
        # Messages and documents are items, although other pydantic models are states.
        return True
    return not (issubclass(kind, Mapping) or _is_schema(kind))


def converter(annotation: Any, *, of_items: bool) -> Callable[[State], Any] | None:
    """Return a function from the state to the annotated type; None if the state itself is passed.

    If the annotation is of an item, the function returns `state["item"]`. With `of_items` it also does so if
    `state["item"]` already is an instance of the annotated dataclass or model.
    """
    if is_item(annotation):
        return lambda state: state["item"]
    kinds = [_plain(get_origin(part) or part) for part in _parts(_plain(annotation))]
    schemas = tuple(kind for kind in kinds if _maker(kind) is not None)
    if not schemas:
        return None
    make = _maker(schemas[0]) if len(kinds) == 1 else None

    def convert(state: State) -> Any:
        item = state.get("item") if of_items else None
        return item if isinstance(item, schemas) else make(state) if make else state

    return convert


def _plain(annotation: Any) -> Any:
    """Resolve a NewType or a type alias."""
    return getattr(annotation, "__supertype__", getattr(annotation, "__value__", annotation))


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def keys_of(annotation: Any) -> frozenset[str]:
    """Return the state keys in an annotation: the fields of a TypedDict, dataclass or pydantic model."""
    if not inspect.isclass(annotation) or is_item(annotation):
        return frozenset()
    if is_dataclass(annotation):
        return frozenset(part.name for part in fields(annotation))
    kind: Any = annotation
    return frozenset(kind.__annotations__ if is_typeddict(kind) else getattr(kind, "model_fields", ()))


def _maker(annotation: Any) -> Callable[[State], Any] | None:
    if not inspect.isclass(annotation):
        return None
    if is_dataclass(annotation):
        known = [part.name for part in fields(annotation) if part.init]
        return lambda state: cast("Any", annotation)(**{name: state[name] for name in known if name in state})
    if not _is_model(annotation):
        return None
    model: Any = annotation
    if model.model_config.get("extra") == "allow":
        return model.model_validate
    known = {name for field, info in model.model_fields.items() for name in (field, info.alias) if name}
    return lambda state: model.model_validate({key: value for key, value in state.items() if key in known})


def _is_schema(kind: Any) -> bool:
    return _is_model(kind) or is_typeddict(kind) or is_dataclass(kind) or is_protocol(kind)


def _is_model(kind: Any) -> bool:
    return isinstance(getattr(kind, "model_fields", None), Mapping)
