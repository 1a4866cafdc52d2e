"""Specs: what an operator takes and gives back, checked at its boundary."""

import dataclasses
import inspect
from contextlib import suppress
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from typing_extensions import is_typeddict

from mahsm._state import shown
from mahsm.errors import SpecError


def checked(op: Any, function: Any, input: Any, /, *more: Any, **options: Any) -> Any:
    """Call a function of an operator between checks of its input and output.

    Raises:
        SpecError: if one of them does not fit.
    """
    name = type(op).__name__
    taken = fitted(op.input_spec, input, name, "input")
    output = function(op, taken, *more, **options)
    if op.output_spec is None:
        return output
    if inspect.isawaitable(output):
        return _awaited(op, output)
    return fitted(op.output_spec, output, name, "output")


async def _awaited(op: Any, output: Any) -> Any:
    return fitted(op.output_spec, await output, type(op).__name__, "output")


def fitted(spec: Any, value: Any, name: str, what: str) -> Any:
    """The value as its spec has it, such as a pydantic model made of a dict.

    Raises:
        SpecError: if it does not fit.
    """
    if spec is None or (inspect.isclass(spec) and isinstance(value, spec)):
        return value
    adapter = _adapter(spec)
    try:
        return spec(**value) if adapter is None else adapter.validate_python(value)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc'])) or what}: {each['msg']}" for each in error.errors())
        raise SpecError(f"{name}: the {what} is {shown(value)}; expected {_described(spec)}. {problems}.") from error
    except TypeError as error:
        raise SpecError(f"{name}: the {what} is {shown(value)}; expected {_described(spec)}. {error}.") from error


@cache
def _adapter(spec: Any) -> "TypeAdapter[Any] | None":
    """None for a model that says nothing of how its fields are checked: one with arrays in it."""
    try:
        return TypeAdapter(spec)
    except PydanticSchemaGenerationError:  # of a class that pydantic does not know, such as an array's
        with suppress(PydanticUserError):
            return TypeAdapter(spec, config=ConfigDict(arbitrary_types_allowed=True))
        return None


def spec_fields(spec: Any) -> tuple[str, ...]:
    """The names of a spec's fields; none if it is no model and no dataclass."""
    if inspect.isclass(spec) and issubclass(spec, BaseModel):
        return tuple(spec.model_fields)
    if dataclasses.is_dataclass(spec):
        return tuple(field.name for field in dataclasses.fields(spec))
    return tuple(spec.__annotations__) if is_typeddict(spec) else ()


def _described(spec: Any) -> str:
    name = getattr(spec, "__name__", str(spec))
    fields = spec_fields(spec)
    return f"{name} with {', '.join(fields)}" if fields else name
