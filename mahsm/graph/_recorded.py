"""What modules gave, as plain data that a checkpointer can store, and back again."""

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
"""The key of a dict that stands for something else."""
_PARTS: dict[type[Any], str] = {tuple: "tuple", set: "set", frozenset: "frozenset"}


def recorded(value: Any) -> Any:
    """The value as plain data: predictions, models, enums and tuples in it become dicts that say what they
    were.
    """
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
    if isinstance(value, dspy.Code):  # dspy.Code["java"] is a class that nobody finds by its name
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
    """The value with containers of its own, so that what is done to it is not done to the value."""
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(fresh, cast("Iterable[Any]", value)))
    if type(value) is dict:
        return {key: fresh(part) for key, part in cast("dict[Any, Any]", value).items()}
    if isinstance(value, dict | list | set | deque):  # a defaultdict, a Counter
        return copy.copy(cast("Any", value))
    if isinstance(value, dspy.Example):
        return cast("Any", value).copy()
    return value.model_copy(deep=True) if isinstance(value, BaseModel) else value


def digest(arguments: Any) -> str:
    """Tells calls apart by what they are given, as far as that is plain; empty if nobody can say."""
    try:
        plain = json.dumps(recorded(arguments), default=lambda value: type(value).__qualname__)
    except (TypeError, ValueError, RecursionError):  # keys that JSON does not have, or what holds itself
        return ""
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def stored(value: Any) -> Any:
    """The value with those parts as plain data in which there are DSPy's types, and all else as it is."""
    if _has_dspy(value):
        return {KIND: "stored", "value": recorded(value)}
    return _within(value, stored)


def loaded(data: Any) -> Any:
    """The value that `stored` made the data of.

    Raises:
        GraphError: if what was in it cannot be made here.
    """
    if isinstance(data, dict) and cast("dict[Any, Any]", data).get(KIND) == "stored":
        return replayed(cast("dict[Any, Any]", data)["value"])
    return _within(data, loaded)


def _within(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with what it holds changed."""
    if isinstance(value, dict):
        return {key: change(part) for key, part in cast("dict[Any, Any]", value).items()}
    if type(value) in (list, tuple):
        return type(value)(map(change, cast("Sequence[Any]", value)))
    if isinstance(value, Send):
        return Send(value.node, change(value.arg))
    return Interrupt(change(value.value), value.id) if isinstance(value, Interrupt) else value


def _has_dspy(value: Any) -> bool:
    """Whether it is of a class of DSPy's, or of a class of which such are parts."""
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
    """The value that `recorded` made the data of.

    Raises:
        GraphError: if what was in it cannot be made here.
    """
    if isinstance(data, list):
        return [replayed(part) for part in cast("list[Any]", data)]
    if not isinstance(data, dict):
        return data
    entries = cast("dict[Any, Any]", data)
    make = _MAKERS.get(entries.get(KIND, ""))
    return {key: replayed(part) for key, part in entries.items()} if make is None else make(entries)


def recorded_error(error: Exception) -> dict[str, Any]:
    """A failure as plain data.

    Raises:
        GraphError: if it cannot be raised again: its class is not found by its name, or makes another error
            of the same data.
    """
    kind = type(error)
    if _find(_path(kind)) is not kind:
        raise GraphError(
            f"{kind.__name__} is an exception that is defined inside of a function, so that it cannot be "
            "raised again where the run goes on. Define it in a module."
        ) from error
    state = {name: part for name, part in vars(error).items() if name != "__notes__" and _is_plain(part)}
    data = {
        "type": _path(kind),
        "args": [part if _is_plain(part) else str(part) for part in error.args],
        "state": state,
    }
    try:
        same = str(replayed_error(data)) == str(error)
    except Exception:  # noqa: BLE001  it wants other arguments
        same = False
    if not same:
        raise GraphError(
            f"{kind.__name__} is an exception that cannot be raised again with what it says, where the run "
            "goes on. Handle it in the sub-module, or raise another one there."
        ) from error
    return data


def replayed_error(data: Mapping[str, Any]) -> Exception:
    """The failure that `recorded_error` made the data of.

    Raises:
        GraphError: if its class is not there any more.
    """
    kind: Any = _find(data["type"])
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        raise GraphError(
            f"the run has recorded a {data['type']}, which is no exception any more. Define it where it was."
        )
    error = kind.__new__(kind, *data["args"])
    error.args = tuple(data["args"])
    vars(error).update(data["state"])
    return error


def _fields(example: Any) -> dict[str, Any]:
    return {name: recorded(part) for name, part in example.items(include_dspy=True)}


def _made(how: str, value: Any, parts: Any) -> dict[str, Any]:
    """An instance of a class that is found by its name; or itself, which a checkpointer may not give back as
    it was.
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
            f"the run has recorded a {data['type']}, which is defined inside of a function; the checkpointer "
            f"gave back {shown(value)}. Define the class in a module."
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
            f"the run has recorded a {data['type']}, which is not there any more. Define it where it was."
        )
    return kind


def _path(kind: type[Any]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _find(path: str) -> Any:
    """What is found under a name in a module; None if nothing is."""
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
