"""Mapping of an operator's input and output to named values: state keys, or fields of a DSPy module."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import jax
from pydantic import BaseModel

from mahsm._common import State, missing, shown
from mahsm._numeric import plain
from mahsm.errors import MissingKeyError, NodeError
from mahsm.operators._specs import spec_fields

Names: TypeAlias = str | Sequence[str] | Mapping[str, str]
"""One name, for the value itself; or the names of its fields; or a name outside for each of its fields."""

_NONE: frozenset[str] = frozenset()


class Boundary:
    """Mapping of named values to an operator's input, and of its output to named values.

    Args:
        reader: The name of the caller in errors.
        op: The operator.
        input_fields: A name whose value is the input; or names of fields, if the input is a dict or a model.
        output_fields: Likewise, for the output.
    """

    def __init__(self, reader: str, op: Any, input_fields: Names | None, output_fields: Names | None) -> None:
        self._reader = reader
        self._spec = op.input_spec
        fields = spec_fields(self._spec)
        self._inputs = {name: name for name in fields} if input_fields is None and fields else input_fields
        # The check against the spec reports fields that are missing and required.
        self._optional = frozenset(fields) if input_fields is None else _NONE
        self._outputs = output_fields
        self._known = spec_fields(op.output_spec) if output_fields is None else ()
        if input_fields is not None:
            _check(reader, "input_fields", input_fields)
        if output_fields is not None:
            _check(reader, "output_fields", output_fields)

    @property
    def reads(self) -> frozenset[str]:
        """The names that are read, as far as they are known."""
        return frozenset(_pairs(self._inputs).values())

    @property
    def writes(self) -> frozenset[str]:
        """The names that are written, as far as they are known."""
        return frozenset(self._known or _pairs(self._outputs).values())

    def names(self, fields: Sequence[str]) -> dict[str, str]:
        """Return the names outside of some fields of the input."""
        pairs = {} if isinstance(self._inputs, str) else _pairs(self._inputs)
        return {field: pairs.get(field, field) for field in fields}

    def input(self, values: State) -> Any:
        """Return the operator's input.

        Raises:
            MissingKeyError: if a name is missing.
        """
        if self._inputs is None:
            return values
        pairs = _pairs(self._inputs)
        for field, name in pairs.items():
            if name not in values and field not in self._optional:
                raise MissingKeyError(
                    f"{self._reader}: {missing(values, name)} Write it first, or change input_fields."
                )
        if isinstance(self._inputs, str):
            return values[self._inputs]
        return {field: values[name] for field, name in pairs.items() if name in values}

    def update(self, result: Any, *, any_value: bool = False) -> Any:
        """Return the named values of the operator's output.

        Args:
            result: The output.
            any_value: If True, an output without fields is returned as it is.

        Raises:
            NodeError: if the output lacks a field, or has no fields.
        """
        if isinstance(self._outputs, str):
            return {self._outputs: storable(result)}
        values = _named(result)
        if values is None:
            if any_value and self._outputs is None:
                return storable(result)
            raise NodeError(
                f"{self._reader}: the operator returned {shown(result)}; expected a dict or a model. Pass "
                "output_fields='key' to write it to one key."
            )
        if self._outputs is None:
            return {name: storable(value) for name, value in values.items()}
        for field in (pairs := _pairs(self._outputs)):
            if field not in values:
                raise NodeError(
                    f"{self._reader}: {missing(values, field, 'the output')} Change output_fields."
                )
        return {name: storable(values[field]) for field, name in pairs.items()}


def storable(value: Any) -> Any:
    """Return a value with NumPy arrays in place of JAX arrays, which checkpointers cannot store."""
    if isinstance(value, jax.Array):
        return plain(value, "operator")
    if type(value) is dict:
        return {key: storable(entry) for key, entry in cast("dict[Any, Any]", value).items()}
    if type(value) in (list, tuple):
        entries = [storable(entry) for entry in cast("Sequence[Any]", value)]
        return entries if isinstance(value, list) else tuple(entries)
    return value


def _named(result: Any) -> dict[str, Any] | None:
    if isinstance(result, Mapping):
        return dict(cast("Mapping[str, Any]", result))
    if isinstance(result, BaseModel):
        return {name: getattr(result, name) for name in type(result).model_fields}
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return None


def _pairs(names: Names | None) -> dict[str, str]:
    if names is None:
        return {}
    if isinstance(names, str):
        return {names: names}
    return dict(names) if isinstance(names, Mapping) else {name: name for name in names}


def _check(reader: str, argument: str, names: Any) -> None:
    pairs: Any = _pairs(cast("Any", names)) if isinstance(names, str | Sequence | Mapping | None) else None
    if pairs is None or any(not isinstance(name, str) or not name for pair in pairs.items() for name in pair):
        raise NodeError(
            f"{reader}: {argument}={shown(cast('Any', names))}; expected a name, a list of field names, "
            "or {field: name}."
        )
