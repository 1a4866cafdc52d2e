"""Conversion between the keys of a state and the fields of a DSPy module."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

import dspy

from mahsm._common import State, missing, shown
from mahsm.errors import MissingKeyError, NodeError
from mahsm.nodes._module_ref import HoldsGraph

Fields: TypeAlias = Sequence[str] | Mapping[str, str]
"""Names of a module's fields; or from each field to the state key that it is read from or written to."""
Transform: TypeAlias = Callable[[Any], Mapping[str, Any]]

_RETURN = (
    "Return dspy.Prediction(name=value) in its forward, or make it a node with dspy_node(module, "
    "output_transform=lambda value: {'name': value})."
)


class FieldInputs:
    """Reads a module's arguments from a state.

    Args:
        reader: Name of the node, for errors.
        module: The module.
        fields: Its inputs to read, and their state keys; by default all inputs that it is known to take.
        transform: Function from the state to inputs; other inputs are read from the state.

    Attributes:
        keys: The state keys that are read if they exist.

    Raises:
        NodeError: if the inputs are unknown, or `fields` lacks one that the module needs.
    """

    def __init__(self, reader: str, module: Any, fields: Fields | None, transform: Transform | None) -> None:
        self._reader = reader
        self._transform = _function(
            reader, "input_transform", transform, "a function from the state to a dict of inputs"
        )
        names = _input_names(module)
        if fields is None:
            if not any((names.required, names.guessed, names.optional)) and transform is None:
                raise NodeError(
                    f"{reader}: {type(module).__name__}.forward names no inputs, and the module has no "
                    "signature. Pass input_fields=[...]."
                )
            self._keys = {field: field for field in (*names.required, *names.guessed, *names.optional)}
        else:
            self._keys = _pairs(reader, "input_fields", fields)
            if transform is None and (
                lacking := [field for field in names.required if field not in self._keys]
            ):
                raise NodeError(
                    f"{reader}: input_fields={shown(fields)} lacks {lacking}, which the module needs."
                )
        self._required = (frozenset(self._keys) - frozenset(names.optional)) | frozenset(names.required)

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(self._keys.values())

    def of(self, state: State) -> dict[str, Any]:
        """Return the arguments for a state.

        Raises:
            MissingKeyError: if a required input is missing.
        """
        given = (
            {}
            if self._transform is None
            else _mapping(self._reader, "input_transform", self._transform(state))
        )
        read = {field: state[key] for field, key in self._keys.items() if field not in given and key in state}
        arguments = {**read, **given}
        for field in sorted(self._required - arguments.keys()):
            key = self._keys.get(field, field)
            besides = "" if self._transform is None else " input_transform does not return it, either."
            raise MissingKeyError(
                f"{self._reader}: {missing(state, key)} Its module needs {field!r}: write the key first, or "
                f"pass input_fields={{{field!r}: <state key>}}.{besides}"
            )
        return arguments


class Outputs:
    """Converts a module's result to an update of the state.

    Args:
        reader: Name of the node, for errors.
        module: The module.
        fields: Outputs to write, and their state keys; by default all outputs.
        transform: Function from the prediction to the outputs.
        prefix: Prefix of the keys that `fields` does not name.

    Raises:
        NodeError: if a prefix has no key to apply to, or if the module's `forward` is annotated with a type
            that has no fields.
    """

    def __init__(
        self, reader: str, module: Any, fields: Fields | None, transform: Transform | None, prefix: str | None
    ) -> None:
        self._reader = reader
        self._transform = _function(
            reader, "output_transform", transform, "a function from the prediction to a dict"
        )
        self._prefix = _prefix(reader, prefix)
        if isinstance(fields, Mapping) and prefix is not None:
            raise NodeError(
                f"{reader}: prefix={prefix!r} with output_fields={shown(fields)}, which names all keys. "
                "Pass a list of fields, or leave prefix out."
            )
        if transform is None:
            check_gives_fields(reader, module)
        pairs = None if fields is None else _pairs(reader, "output_fields", fields)
        self._keys = None if pairs is None else {field: self._key(key) for field, key in pairs.items()}
        self._known = frozenset[str]() if transform is not None else frozenset(output_names(module))

    @property
    def keys(self) -> frozenset[str]:
        """The state keys that it is known to write."""
        return (
            frozenset(map(self._key, self._known)) if self._keys is None else frozenset(self._keys.values())
        )

    def of(self, result: Any) -> State:
        """Return the update for a result.

        Raises:
            NodeError: if the result has no fields, or lacks one of `fields`.
        """
        if self._transform is not None:
            result = _mapping(self._reader, "output_transform", self._transform(result))
        # A Prediction is an Example.
        if not isinstance(result, dspy.Example | Mapping):
            raise NodeError(
                f"{self._reader}: the module returned {shown(result)}; expected a dspy.Prediction or a dict. "
                f"{_RETURN}"
            )
        update: State = plain(cast("Any", result))
        if self._keys is None:
            return {self._key(field): value for field, value in update.items()}
        for field in self._keys:
            if field not in update:
                raise NodeError(
                    f"{self._reader}: {missing(update, field, 'the prediction')} Change output_fields."
                )
        return {key: update[field] for field, key in self._keys.items()}

    def _key(self, name: str) -> str:
        return f"{self._prefix}{name}"


def signature_of(module: Any) -> Any:
    """Return the signature of a module: its own, or that of its only predictor; else None."""
    signature = getattr(module, "signature", None)
    if hasattr(signature, "input_fields"):
        return signature
    # BestOfN and Refine have an inner module.
    inner = getattr(module, "module", None)
    if isinstance(inner, dspy.Module):
        return signature_of(inner)
    predictors = module.predictors()
    return predictors[0].signature if len(predictors) == 1 else None


def check_gives_fields(reader: str, module: Any) -> None:
    """Raise `NodeError` if the module's `forward` is annotated with a type that has no fields."""
    try:
        given = get_type_hints(_forward(module)).get("return", Any)
    except Exception:  # noqa: BLE001
        # The annotation has names that cannot be resolved here.
        return
    if not any(map(_may_have_fields, _members(given))):
        raise NodeError(
            f"{reader}: forward of {type(module).__name__} is annotated to return {_type_name(given)}; "
            f"expected a dspy.Prediction or a dict. {_RETURN}"
        )


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _may_have_fields(kind: Any) -> bool:
    kind = get_origin(kind) or kind
    return not isinstance(kind, type) or kind in (Any, object) or issubclass(kind, dspy.Example | Mapping)


def _type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and get_origin(kind) is None else str(kind)


def output_names(module: Any) -> list[str]:
    """Return the outputs that a module is known to have."""
    if isinstance(module, HoldsGraph):
        return sorted(module.gives or ())
    signature = signature_of(module)
    return [] if signature is None else list(signature.output_fields)


def plain(value: Any) -> Any:
    """Return the value with predictions converted to dicts, in lists, tuples and dicts, too."""
    if isinstance(value, dspy.Example):
        value = dict(cast("Mapping[str, Any]", value).items())
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in cast("dict[Any, Any]", value).items()}
    if type(value) in (list, tuple):
        entries = [plain(entry) for entry in cast("Sequence[Any]", value)]
        return entries if isinstance(value, list) else tuple(entries)
    return value


@dataclass(frozen=True)
class _Names:
    """Inputs of a module.

    Attributes:
        required: Parameters of `forward` without a default.
        guessed: Inputs that it probably needs: those of its only signature, if `forward` takes `**kwargs`.
        optional: Inputs that it does not need.
    """

    required: list[str]
    guessed: list[str]
    optional: list[str]


def _input_names(module: Any) -> _Names:
    if isinstance(module, HoldsGraph):
        return _Names([], [], sorted(module.takes or ()))
    parameters = inspect.signature(_forward(module)).parameters.values()
    named = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    required = [parameter.name for parameter in named if parameter.default is parameter.empty]
    optional = [parameter.name for parameter in named if parameter.default is not parameter.empty]
    guessed: list[str] = []
    signature = signature_of(module)
    if signature is not None and any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        for field, info in signature.input_fields.items():
            if field not in required and field not in optional and not _is_made_inside(module, field):
                (guessed if info.is_required() else optional).append(field)
    own = hasattr(getattr(module, "signature", None), "input_fields")
    return _Names([*required, *guessed], [], optional) if own else _Names(required, guessed, optional)


def _forward(module: Any) -> Any:
    """Return the module's `forward`, or its `aforward` if it has only that."""
    name = "forward" if hasattr(cast("Any", type(module)), "forward") else "aforward"
    # Reading `module.forward` would log a warning.
    return object.__getattribute__(module, name)


def _is_made_inside(module: Any, field: str) -> bool:
    """Return whether the module sets the field itself, as `MultiChainComparison` does with its attempts."""
    return (
        isinstance(module, dspy.MultiChainComparison)
        and re.fullmatch(r"reasoning_attempt_\d+", field) is not None
    )


def _pairs(reader: str, argument: str, fields: Fields) -> dict[str, str]:
    if isinstance(fields, Mapping):
        pairs = dict(fields)
    elif isinstance(fields, str):
        raise NodeError(
            f"{reader}: {argument}={fields!r} is a string; expected a list of fields, such as "
            f"{argument}=[{fields!r}]."
        )
    else:
        pairs = {field: field for field in fields}
    if odd := [name for pair in pairs.items() for name in pair if not isinstance(name, str)]:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise NodeError(
            f"{reader}: {argument} has {shown(odd[0])}; expected names of fields, or {{field: state key}}."
        )
    return pairs


def _function(reader: str, argument: str, function: Any, expected: str) -> Any:
    if function is not None and not callable(function):
        raise NodeError(f"{reader}: {argument}={shown(function)}; expected {expected}.")
    return function


def _prefix(reader: str, prefix: Any) -> str:
    if prefix is not None and (not isinstance(prefix, str) or not prefix):
        raise NodeError(f"{reader}: prefix={shown(prefix)}; expected a string, such as prefix='draft_'.")
    return prefix or ""


def _mapping(reader: str, argument: str, given: Any) -> dict[str, Any]:
    if isinstance(given, dspy.Example | Mapping):
        return dict(cast("Mapping[str, Any]", given).items())
    raise NodeError(f"{reader}: {argument} returned {shown(given)}; expected a dict of fields.")
