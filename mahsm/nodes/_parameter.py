"""What a function says that it is called with: the annotation of its first parameter, and of its result."""

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from langchain_core.load.serializable import Serializable
from typing_extensions import is_protocol, is_typeddict

from mahsm._types import State

Annotations = tuple[Any, Any]
"""Of the first parameter and of the result; None for what has none, or none that can be found."""


def annotations_of(source: Callable[..., Any], inner: Callable[..., Any]) -> Annotations:
    """The first parameter is that of `source`; the annotations are those of the function `inner` of its partials."""
    try:
        hints = get_type_hints(inner if inspect.isroutine(inner) else inner.__call__)
        names = list(inspect.signature(source).parameters)
    except (NameError, TypeError, ValueError):
        return None, None
    return hints.get(names[0]) if names else None, hints.get("return")


def is_item(annotation: Any) -> bool:
    """Whether this annotates something that is no state: a number, a text, a list, a message, a document..."""
    annotation = getattr(annotation, "__supertype__", annotation)  # of a NewType
    if annotation in (None, type(None)) or annotation is Any or annotation is object or isinstance(annotation, TypeVar):
        return False
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return all(part is type(None) or is_item(part) for part in get_args(annotation))
    kind: Any = origin or annotation
    if not inspect.isclass(kind):  # Literal["a", "b"], and what nobody knows
        return origin is not None
    if issubclass(kind, Serializable):  # a message or a document, though pydantic's models are states, too
        return True
    return not (issubclass(kind, Mapping) or _is_schema(kind))


def converter(annotation: Any) -> Callable[[State], Any] | None:
    """How to make of a state what the first parameter is annotated with; None if that is the state itself.

    Of an item that is no state this is `state["item"]`, and so it is if the item is such a dataclass or model already.
    """
    if is_item(annotation):
        return lambda state: state["item"]
    make = _maker(annotation)
    if make is None:
        return None

    def convert(state: State) -> Any:
        item = state.get("item")
        return item if isinstance(item, annotation) else make(state)

    return convert


def keys_of(annotation: Any) -> frozenset[str]:
    """The state keys that an annotation names: the fields of a TypedDict, a dataclass or a pydantic model."""
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
    return getattr(annotation, "model_validate", None)  # of a pydantic model


def _is_schema(kind: Any) -> bool:
    is_model = isinstance(getattr(kind, "model_fields", None), Mapping)
    return is_model or is_typeddict(kind) or is_dataclass(kind) or is_protocol(kind)
