"""Converts results of modules to plain data that a checkpointer can store, and back."""

import copy
import dataclasses
import hashlib
import importlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, cast

import dspy
from langgraph.types import Interrupt, Send
from pydantic import BaseModel

from mahsm._common import shown
from mahsm.errors import GraphError

KIND = "mahsm:kind"
"""The key that marks a dict as the record of another type."""
_PARTS: dict[type[Any], str] = {tuple: "tuple", set: "set", frozenset: "frozenset"}


def recorded(value: Any) -> Any:
    """Convert a value to plain data: predictions, models, enums and tuples become dicts with their type."""
    if type(value) is dict:
        return {key: recorded(part) for key, part in cast("dict[Any, Any]", value).items()}
    if type(value) is list:
        return [recorded(part) for part in cast("list[Any]", value)]
    if type(value) in _PARTS:
        return {KIND: _PARTS[type(value)], "parts": [recorded(part) for part in cast("Iterable[Any]", value)]}
    if isinstance(value, dspy.Prediction):
        completions: Any = value.completions
        usage: Any = cast("Any", value).get_lm_usage()
        own = None if type(value) is dspy.Prediction else _path(type(value))
        kept = {
            "completions": completions and recorded(dict(completions.items())),
            "usage": usage,
            "type": own,
        }
        return {
            KIND: "prediction",
            "fields": _fields(value),
            **{name: part for name, part in kept.items() if part},
        }
    if isinstance(value, dspy.Example):
        inputs = cast("Any", value)._input_keys
        return {
            KIND: "example",
            "fields": _fields(value),
            "inputs": None if inputs is None else sorted(inputs),
        }
    return _of_class(value)


def _of_class(value: Any) -> Any:
    if isinstance(value, dspy.Code):
        # A class such as dspy.Code["java"] cannot be found by its name.
        return {KIND: "code", "language": type(value).language, "code": value.code}
    if isinstance(value, BaseModel):
        parts = {**vars(value), **(value.__pydantic_extra__ or {})}
        return _made("model", value, {name: recorded(part) for name, part in parts.items()})
    if isinstance(value, Enum):
        return _made("enum", value, recorded(value.value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value) if hasattr(value, field.name))
        return _made("dataclass", value, {name: recorded(getattr(value, name)) for name in names})
    return value


def fresh(value: Any) -> Any:
    """Copy the containers of a value, so that changes of the copy do not change the original."""
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(fresh, cast("Iterable[Any]", value)))
    if type(value) is dict:
        return {key: fresh(part) for key, part in cast("dict[Any, Any]", value).items()}
    if isinstance(value, dict | list | set | deque):
        # Subclasses, such as defaultdict and Counter, are copied with their own methods.
        return copy.copy(cast("Any", value))
    if isinstance(value, dspy.Example):
        return cast("Any", value).copy()
    return value.model_copy(deep=True) if isinstance(value, BaseModel) else value


def digest(arguments: Any) -> str:
    """Return a hash of a call's arguments, to tell calls apart; empty if they cannot be hashed."""
    try:
        plain = json.dumps(recorded(arguments), default=lambda value: type(value).__qualname__)
    except (TypeError, ValueError, RecursionError):
        # A key is invalid in JSON, or a container contains itself.
        return ""
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def stored(value: Any) -> Any:
    """Convert the parts of a value that contain DSPy's types to plain data; keep other parts."""
    if _has_dspy(value):
        return {KIND: "stored", "value": recorded(value)}
    return _within(value, stored)


def loaded(data: Any) -> Any:
    """Restore a value from the data of `stored`.

    Raises:
        GraphError: if a class in it does not exist any more.
    """
    if isinstance(data, dict) and cast("dict[Any, Any]", data).get(KIND) == "stored":
        return replayed(cast("dict[Any, Any]", data)["value"])
    return _within(data, loaded)


def _within(value: Any, change: Callable[[Any], Any]) -> Any:
    """Apply `change` to the parts of a container, a `Send` or an `Interrupt`."""
    if isinstance(value, dict):
        return {key: change(part) for key, part in cast("dict[Any, Any]", value).items()}
    if type(value) in (list, tuple):
        return type(value)(map(change, cast("Sequence[Any]", value)))
    if isinstance(value, Send):
        return Send(value.node, change(value.arg))
    return Interrupt(change(value.value), value.id) if isinstance(value, Interrupt) else value


def _has_dspy(value: Any) -> bool:
    """Return whether a value is of a type of DSPy's, or is a model or dataclass that contains one."""
    if isinstance(value, dspy.Example) or type(value).__module__.startswith("dspy."):
        return True
    is_class = isinstance(value, BaseModel) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    )
    return is_class and any(map(_has_dspy_inside, getattr(value, "__dict__", {}).values()))


def _has_dspy_inside(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_dspy_inside, cast("dict[Any, Any]", value).values()))
    if isinstance(value, list | tuple):
        return any(map(_has_dspy_inside, cast("Sequence[Any]", value)))
    return _has_dspy(value)


def replayed(data: Any) -> Any:
    """Restore a value from the data of `recorded`.

    Raises:
        GraphError: if a class in it does not exist any more.
    """
    if isinstance(data, list):
        return [replayed(part) for part in cast("list[Any]", data)]
    if not isinstance(data, dict):
        return data
    entries = cast("dict[Any, Any]", data)
    make = _MAKERS.get(entries.get(KIND, ""))
    return {key: replayed(part) for key, part in entries.items()} if make is None else make(entries)


def recorded_error(error: Exception) -> dict[str, Any]:
    """Convert an exception to plain data.

    Raises:
        GraphError: if it cannot be raised again: its class cannot be found by its name, or the data does not
            restore its message.
    """
    kind = type(error)
    if _find(_path(kind)) is not kind:
        raise GraphError(
            f"{kind.__name__} is an exception that is defined inside a function, so it cannot be raised "
            "again when the run is resumed. Define it in a module."
        ) from error
    state = {name: part for name, part in vars(error).items() if name != "__notes__" and _is_plain(part)}
    data = {
        "type": _path(kind),
        "args": [part if _is_plain(part) else str(part) for part in error.args],
        "state": state,
    }
    try:
        same = str(replayed_error(data)) == str(error)
    except Exception:  # noqa: BLE001
        # The class takes other arguments.
        same = False
    if not same:
        raise GraphError(
            f"{kind.__name__} is an exception that cannot be raised again with its message when the run is "
            "resumed. Handle it in the sub-module, or raise another one there."
        ) from error
    return data


def replayed_error(data: Mapping[str, Any]) -> Exception:
    """Restore an exception from the data of `recorded_error`.

    Raises:
        GraphError: if its class does not exist any more.
    """
    kind: Any = _find(data["type"])
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        raise GraphError(
            f"the run has recorded a {data['type']}, which is no longer an exception. Define it where it was."
        )
    error = kind.__new__(kind, *data["args"])
    error.args = tuple(data["args"])
    vars(error).update(data["state"])
    return error


def _fields(example: Any) -> dict[str, Any]:
    return {name: recorded(part) for name, part in example.items(include_dspy=True)}


def _made(how: str, value: Any, parts: Any) -> dict[str, Any]:
    """Record an instance by the name of its class.

    If the class cannot be found by its name, the instance itself is kept, and `_local` checks that the
    checkpointer has restored it.
    """
    path = _path(cast("type[Any]", type(value)))
    if _find(path) is type(value):
        return {KIND: how, "type": path, "parts": parts}
    return {KIND: "local", "type": path, "value": value}


def _prediction(data: Mapping[str, Any]) -> Any:
    fields = replayed(data["fields"])
    completions = data.get("completions")
    kind = _class(data, dspy.Prediction) if "type" in data else dspy.Prediction
    made: Any = kind.from_completions(replayed(completions)) if completions else kind()
    made._store = fields
    made.set_lm_usage(data.get("usage"))
    return made


def _example(data: Mapping[str, Any]) -> Any:
    made = dspy.Example(**replayed(data["fields"]))
    return made if data["inputs"] is None else made.with_inputs(*data["inputs"])


def _code(data: Mapping[str, Any]) -> Any:
    kind: Any = (
        dspy.Code if data["language"] == dspy.Code.language else cast("Any", dspy.Code)[data["language"]]
    )
    return kind.model_construct(code=data["code"])


def _model(data: Mapping[str, Any]) -> Any:
    return _class(data, BaseModel).model_construct(**replayed(data["parts"]))


def _dataclass(data: Mapping[str, Any]) -> Any:
    made = object.__new__(_class(data, object))
    for name, part in replayed(data["parts"]).items():
        object.__setattr__(made, name, part)
    return made


def _enum(data: Mapping[str, Any]) -> Any:
    return _class(data, Enum)(replayed(data["parts"]))


def _tuple(data: Mapping[str, Any]) -> Any:
    return tuple(replayed(data["parts"]))


def _set(data: Mapping[str, Any]) -> Any:
    return set(replayed(data["parts"]))


def _frozenset(data: Mapping[str, Any]) -> Any:
    return frozenset(replayed(data["parts"]))


def _local(data: Mapping[str, Any]) -> Any:
    value: Any = data["value"]
    if _path(cast("type[Any]", type(value))) != data["type"]:
        raise GraphError(
            f"the run has recorded a {data['type']}, which is defined inside a function; the checkpointer "
            f"returned {shown(value)}. Define the class in a module."
        )
    return value


_MAKERS: dict[Any, Any] = {
    "prediction": _prediction,
    "example": _example,
    "code": _code,
    "model": _model,
    "enum": _enum,
    "dataclass": _dataclass,
    "tuple": _tuple,
    "set": _set,
    "frozenset": _frozenset,
    "local": _local,
}


def _class(data: Mapping[str, Any], base: type[Any]) -> Any:
    kind = _find(data["type"])
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise GraphError(
            f"the run has recorded a {data['type']}, which does not exist any more. Define it where it was."
        )
    return kind


def _path(kind: type[Any]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _find(path: str) -> Any:
    """Find an object by its module and qualified name; None if it does not exist."""
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, cast("Sequence[Any]", value)))
    if isinstance(value, dict):
        return all(
            isinstance(key, str) and _is_plain(part) for key, part in cast("dict[Any, Any]", value).items()
        )
    return value is None or isinstance(value, str | int | float | bool)
