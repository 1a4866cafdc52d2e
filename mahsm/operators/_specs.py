"""Specs: checks of an operator's input and output."""

import dataclasses
import inspect
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any, Literal, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import is_typeddict

from mahsm._common import shown
from mahsm._numeric import jax
from mahsm.errors import SpecError
from mahsm.operators._shapes import misfit, told
from mahsm.operators._threads import traced


def checked(op: Any, function: Any, input: Any, /, *more: Any, **options: Any) -> Any:
    """Call a function of an operator, and check its input before and its output after the call.

    Raises:
        SpecError: if the input or the output does not fit its spec.
    """
    taken = _fitted(op, "input", input)
    output = function(op, taken, *more, **options)
    if op.output_spec is None:
        return output
    if inspect.isawaitable(output):
        return _awaited(op, taken, output)
    return _fitted(op, "output", output, (op.input_spec, taken))


async def _awaited(op: Any, taken: Any, output: Any) -> Any:
    return _fitted(op, "output", await output, (op.input_spec, taken))


def _fitted(op: Any, what: Literal["input", "output"], value: Any, *before: tuple[Any, Any]) -> Any:
    """Return a value converted to its spec, such as a pydantic model made from a dict.

    Args:
        op: The operator.
        what: The role of the value.
        value: The value.
        before: Pairs of a spec and a value that have bound named dimensions: the input, for an output.

    Raises:
        SpecError: if the value does not fit.
    """
    spec = op.input_spec if what == "input" else op.output_spec
    if spec is None:
        return value
    try:
        found = value if _is_of(spec, value) else _made(spec, value)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or what}: {each['msg']}" for each in error.errors()
        )
        raise _misfit(op, what, value, spec, problems) from error
    except TypeError as error:
        raise _misfit(op, what, value, spec, error) from error
    if (problem := misfit(*before, (spec, found))) is not None:
        raise _misfit(op, what, value, spec, problem)
    return found


def fits(spec: Any, value: Any) -> bool:
    """Return whether a value fits a spec, its shapes aside."""
    try:
        return _is_of(spec, value) or _made(spec, value) is not None
    except (ValidationError, TypeError):
        return False


def _is_of(spec: Any, value: Any) -> bool:
    return inspect.isclass(spec) and not is_typeddict(spec) and isinstance(value, spec)


def _misfit(op: Any, what: str, value: Any, spec: Any, problem: object) -> SpecError:
    return SpecError(
        f"{type(op).title(op)}: the {what} is {shown(value)}; expected {described(spec)}. {problem}."
    )


def _made(spec: Any, value: Any) -> Any:
    if traced() and any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree_util.tree_leaves(value)):
        return _unchecked(spec, value)
    adapter = _adapter(spec)
    return spec(**value) if adapter is None else adapter.validate_python(value)


def _unchecked(spec: Any, value: Any) -> Any:
    """Return a value that holds tracers converted to its spec, without a check of the tracers."""
    if isinstance(value, Mapping) and spec_fields(spec) and not is_typeddict(spec):
        values = cast("Mapping[str, Any]", value)
        known = {name: values[name] for name in spec_fields(spec) if name in values}
        return spec.model_construct(**known) if issubclass(spec, BaseModel) else spec(**known)
    return cast("Any", value)


@cache
def _adapter(spec: Any) -> "TypeAdapter[Any] | None":
    """Return an adapter, or None for a pydantic model with fields that pydantic cannot check (arrays)."""
    try:
        return TypeAdapter(spec)
    except PydanticSchemaGenerationError:  # a class that pydantic does not know, such as an array
        with suppress(PydanticUserError):
            return TypeAdapter(spec, config=ConfigDict(arbitrary_types_allowed=True))
        return None


def spec_fields(spec: Any) -> tuple[str, ...]:
    """Return the names of a spec's fields; empty unless it is a model, a dataclass or a typed dict."""
    if spec is None:
        return ()
    if inspect.isclass(spec) and issubclass(spec, BaseModel):
        return tuple(spec.model_fields)
    if dataclasses.is_dataclass(spec):
        return tuple(field.name for field in dataclasses.fields(spec))
    return tuple(spec.__annotations__) if is_typeddict(spec) else ()


def described(spec: Any) -> str:
    fields = spec_fields(spec)
    return f"{told(spec)} with {', '.join(fields)}" if fields else told(spec)
