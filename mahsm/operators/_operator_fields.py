"""Fields of operators: what they are converted to, and whether they are static."""

import dataclasses
import string
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mahsm._common import shown
from mahsm.operators._annotations import is_class_variable, may_hold_arrays, own_annotations
from mahsm.operators._binding import ModelBinding

_MISSING: Any = dataclasses.MISSING
SPECS = ("input_spec", "output_spec")


def model_field(*, default: Any = _MISSING, **options: Any) -> Any:
    """A field for a model: a name as "openai/gpt-4o-mini", a `dspy.LM`, or a list or dict of these. It is
    static.

    Args:
        default: What it is if nothing is given.
        **options: What `dspy.LM` takes besides the model's name: `temperature`, `max_tokens`, `api_base`...

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
    """A field for a prompt's template, as `str.format` takes it. It is static.

    Args:
        template_vars: The variables that are filled in; a template that lacks one, or has others, is refused
            when built.
        default: What it is if nothing is given.

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
    """The variables of a template, as `str.format` takes it, in the order in which they appear.

    Raises:
        ValueError: for a template with a brace too many or too few.
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
    """A field for a spec that differs from instance to instance: a pydantic model, a dataclass or a type. It
    is static.

    Args:
        default: What it is if nothing is given; None checks nothing.

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
    """A field for a parameter that is learned: a number or numbers, which become an array.

    Args:
        default: What it is if nothing is given.
        dtype: The array's dtype; a definite one, since a weak one costs compilations.

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
    """Make the fields of a class static whose annotations say that they hold no arrays.

    This runs before Equinox makes the class a dataclass. A required field after one with a default is made
    keyword-only.
    """
    inherited: dict[str, dataclasses.Field[Any]] = {}
    for base in reversed(cls.__mro__[1:]):  # as dataclasses do it
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
                # What is inherited keeps its place, and those after it may have no default.
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
    """The annotation under which the arrays of a value are leaves."""
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
    """What a dataclass field takes: values that may change are made anew for each instance."""
    if value is _MISSING:
        return {}
    if type(value).__hash__ is None:
        return {"default_factory": lambda: value.copy() if hasattr(value, "copy") else value}
    return {"default": value}


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not _MISSING or field.default_factory is not _MISSING


_CLASS_VARIABLE: Any = ClassVar[Any]
