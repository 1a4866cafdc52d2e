"""Fields of operators: converters, and which fields are static."""

import dataclasses
import string
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mahsm._common import shown
from mahsm._models import ModelBinding
from mahsm.operators._annotations import is_class_variable, may_hold_arrays, own_annotations

_MISSING: Any = dataclasses.MISSING
SPECS = ("input_spec", "output_spec")


def model_field(*, default: Any = _MISSING, **options: Any) -> Any:
    """Declare a static field for a model: a name such as "openai/gpt-4o-mini", or a `dspy.LM`.

    Its value may also be a list or dict of models.

    Args:
        default: The default of the field; without it, the field is required.
        **options: Options for `dspy.LM`, such as `temperature`, `max_tokens` or `api_base`.

    Returns:
        A field whose value is a `ModelBinding`, or a list or dict of them.

    Example:
        >>> from mahsm.operators import Operator, model_field
        >>> class Ask(Operator):
        ...     model: object = model_field(temperature=0.0)
        ...     def forward(self, input):
        ...         return self.model(f"Answer: {input}")
        >>> Ask(model="openai/gpt-4o-mini").model
        ModelBinding('openai/gpt-4o-mini', temperature=0.0)
    """

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: convert(entry) for name, entry in cast("dict[str, Any]", value).items()}
        if isinstance(value, list | tuple):
            entries = [convert(entry) for entry in cast("Sequence[Any]", value)]
            return entries if isinstance(value, list) else tuple(entries)
        return ModelBinding.of(value, **options)

    return eqx.field(static=True, converter=convert, **_default(default))


def prompt_field(*, template_vars: Sequence[str] = (), default: Any = _MISSING) -> Any:
    """Declare a static field for a prompt: a template in the syntax of `str.format`.

    Args:
        template_vars: The variables of the template. If a template lacks one of them or has another one, the
            constructor raises a ValueError.
        default: The default of the field; without it, the field is required.

    Example:
        >>> from mahsm.operators import Operator, prompt_field
        >>> class Greet(Operator):
        ...     prompt: str = prompt_field(template_vars=["name"], default="Hello, {name}")
        ...     def forward(self, input):
        ...         return self.prompt.format(name=input)
        >>> Greet()("Ada")
        'Hello, Ada'
        >>> Greet(prompt="Hello")
        Traceback (most recent call last):
        ...
        ValueError: the prompt 'Hello' has no variable {name}; expected {name}.
    """
    wanted = tuple(template_vars)

    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(
                f"the prompt is {shown(value)}; expected a string with {_braced(wanted) or 'a template'}."
            )
        found = template_variables(value)
        for problem, names in (
            ("has no variable", [name for name in wanted if name not in found]),
            ("has an unknown variable", [name for name in found if name not in wanted]),
        ):
            if names:
                raise ValueError(
                    f"the prompt {shown(value)} {problem} {_braced(names)}; expected "
                    f"{_braced(wanted) or 'none'}."
                )
        return value

    return eqx.field(static=True, converter=convert, **_default(default))


def template_variables(template: str) -> tuple[str, ...]:
    """Return the variables of a template in the syntax of `str.format`, in the order of their appearance.

    Raises:
        ValueError: if the braces of the template do not match.
    """
    names = [
        name.split(".")[0].split("[")[0]
        for _, name, _, _ in string.Formatter().parse(template)
        if name is not None
    ]
    return tuple(dict.fromkeys(names))


def _braced(names: Sequence[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)


def spec_field(*, default: Any = None) -> Any:
    """Declare a static field for a spec of each instance: a pydantic model, a dataclass or a type.

    Args:
        default: The default of the field; None for no check.

    Example:
        >>> from mahsm.operators import Operator, spec_field
        >>> class Double(Operator):
        ...     input_spec: type = spec_field()
        ...     def forward(self, input):
        ...         return input * 2
        >>> Double(input_spec=int)("21")
        42
    """
    return eqx.field(static=True, **_default(default))


def param(default: Any = _MISSING, *, dtype: Any = jnp.float32) -> Any:
    """Declare a field for a trainable parameter: a number, or a list of numbers, which becomes an array.

    Args:
        default: The default of the field; without it, the field is required.
        dtype: The dtype of the array. It is explicit, since a weak type causes more compilations.

    Example:
        >>> from mahsm.operators import LearnableOperator, param, parameters
        >>> class Scale(LearnableOperator):
        ...     by: object = param(2.0)
        ...     def forward(self, input):
        ...         return input * self.by
        >>> Scale().by.shape, float(Scale()(3.0))
        ((), 6.0)
    """

    def convert(value: Any) -> Any:
        return (
            jnp.asarray(value, dtype=dtype)
            if isinstance(value, int | float | list | tuple | np.ndarray | np.generic)
            else value
        )

    return eqx.field(converter=convert, **_default(default))


def mark_fields(cls: type[Any]) -> None:
    """Make fields static if their annotations exclude arrays.

    This runs before Equinox makes the class a dataclass. A required field that follows a field with a default
    is made keyword-only.
    """
    inherited: dict[str, dataclasses.Field[Any]] = {}
    # The order in which dataclasses collect the fields of base classes.
    for base in reversed(cls.__mro__[1:]):
        if dataclasses.is_dataclass(base):
            inherited.update((field.name, field) for field in dataclasses.fields(base))
    after_default = any(map(_has_default, inherited.values()))
    for name, annotation in own_annotations(cls).items():
        value = cls.__dict__.get(name, _MISSING)
        if name in SPECS and not isinstance(value, dataclasses.Field):
            cls.__annotations__[name] = _CLASS_VARIABLE
        elif not is_class_variable(annotation) and not isinstance(value, property):
            field = _field(cls, name, annotation, value)
            if field.init and (name in inherited if _has_default(field) else after_default):
                # An inherited field keeps its place, and fields after it may be without a default.
                field.kw_only = True
            after_default = after_default or _has_default(field)


def _field(cls: type[Any], name: str, annotation: Any, value: Any) -> dataclasses.Field[Any]:
    if isinstance(value, dataclasses.Field):
        return cast("dataclasses.Field[Any]", value)
    static: dict[str, Any] = (
        {} if may_hold_arrays(annotation) else {"static": True, "converter": _no_arrays(cls, name)}
    )
    field: dataclasses.Field[Any] = eqx.field(**static, **_default(value))
    setattr(cls, name, field)
    return field


def _no_arrays(cls: type[Any], name: str) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if isinstance(value, np.generic):
            return cast("Any", value).item()
        if _holds_arrays(value):
            raise TypeError(
                f"{cls.__qualname__}.{name} got {shown(value)}, which holds an array, but its annotation "
                f"makes it static. Annotate it as {_says_so(value)}, as Any if it holds more than that, or "
                "use param()."
            )
        return value

    return convert


def _says_so(value: Any) -> str:
    """Return an annotation under which the arrays of a value are leaves."""
    if isinstance(value, dict):
        entry = next(entry for entry in cast("dict[Any, Any]", value).values() if _holds_arrays(entry))
        return f"dict[str, {_says_so(entry)}]"
    if isinstance(value, list | tuple):
        entry = next(entry for entry in cast("Sequence[Any]", value) if _holds_arrays(entry))
        return f"list[{_says_so(entry)}]" if isinstance(value, list) else f"tuple[{_says_so(entry)}, ...]"
    return type(value).__name__ if isinstance(value, eqx.Module) else "jax.Array"


def _holds_arrays(value: Any) -> bool:
    return any(eqx.is_array(leaf) for leaf in jax.tree_util.tree_leaves(value))


def _default(value: Any) -> dict[str, Any]:
    """Return the default as arguments of a dataclass field; mutable values are copied for each instance."""
    if value is _MISSING:
        return {}
    if type(value).__hash__ is None:
        return {"default_factory": lambda: value.copy() if hasattr(value, "copy") else value}
    return {"default": value}


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not _MISSING or field.default_factory is not _MISSING


_CLASS_VARIABLE: Any = ClassVar[Any]
