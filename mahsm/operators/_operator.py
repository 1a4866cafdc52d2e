"""`Operator`: a unit of work with fields, some of which may be trainable."""

import dataclasses
import inspect
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import equinox as eqx

from mahsm._common import shown
from mahsm.nodes._internal import node_of
from mahsm.operators._operator_fields import SPECS, mark_fields
from mahsm.operators._specs import checked
from mahsm.operators._threads import blocking, in_thread

OperatorT = TypeVar("OperatorT", bound="Operator")


class Operator(eqx.Module):
    """A unit of work: a dataclass of models, prompts, arrays and other operators, with a `forward` method.

    An operator is an Equinox module, and so a tree: its arrays, and those of the operators in it, are leaves.
    A field is static if its annotation excludes arrays, as `str`, `int`, a language model, a client or a
    pydantic model do. If the annotation leaves that open (`Any`, `Callable`, `list`), the value is a leaf,
    which `eqx.partition` and `eqx.filter_jit` sort by its type. A `dict` without a type of its values is
    static too. An array in a static field raises a TypeError.

    A subclass defines `forward(input)`, sync or async; or `forward` and `aforward`. A subclass without them
    only holds data for other operators, and cannot be called. Required fields that follow fields with a
    default are keyword-only.

    `op(input)` calls the operator; `op(x=1, y=2)` is the same as `op({"x": 1, "y": 2})`.

    Attributes:
        input_spec: The spec of the input: a pydantic model, a dataclass or a type; None for no check. Shapes,
            such as `Float[Array, "n d"]`, are checked by jaxtyping; a named dimension has the same size in
            the input and in the output.
        output_spec: The spec of the output, likewise.

    Raises:
        SpecError: when called, if the input or the output does not fit its spec.
        TypeError: when called, if the operator has no `forward`.

    Example:
        >>> import jax.numpy as jnp
        >>> from mahsm.operators import Operator
        >>> class Scaled(Operator):
        ...     label: str
        ...     weights: jnp.ndarray
        ...     def forward(self, input):
        ...         return {self.label: float(self.weights @ input)}
        >>> Scaled("score", jnp.array([1.0, 2.0]))(jnp.array([3.0, 4.0]))
        {'score': 11.0}
    """

    # At run time they have no annotation, so that they are not fields; a subclass can make them fields.
    if TYPE_CHECKING:
        input_spec: ClassVar[Any] = None
        output_spec: ClassVar[Any] = None
    else:
        input_spec = output_spec = None

    _checks: ClassVar[bool] = False
    _composed: ClassVar[bool] = False
    """True if `aforward` can await any operators, also those that block."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        mark_fields(cls)
        # A spec, or a field that may hold one.
        cls._checks = cls._checks or any(getattr(cls, name) is not None for name in SPECS)

    def forward(self, input: Any, /) -> Any:
        """Do the work of the operator, sync or async."""
        aforward: Any = getattr(self, "aforward", None)
        if aforward is None:
            raise TypeError(without_forward(self))
        return blocking(partial(aforward, input), awaits=True)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        # Methods are looked up on the class: on an instance, Equinox wraps each of them, which takes 20 us.
        cls: Any = type(self)
        if options or len(inputs) != 1:
            inputs, options = cls._bound(self, inputs, options)
        if cls._checks:
            return checked(self, cls.forward, *inputs, **options)
        return cls.forward(self, *inputs, **options)

    async def acall(self, *inputs: Any, **options: Any) -> Any:
        """Async version of `__call__`; a blocking `forward` runs in a thread of its own."""
        cls: Any = type(self)
        if options or len(inputs) != 1:
            inputs, options = cls._bound(self, inputs, options)
        call = checked if cls._checks else _called
        if not self.awaits and not cls._composed:
            return await in_thread(partial(call, self, cls.forward, *inputs, **options))
        return await call(self, getattr(cls, "aforward", cls.forward), *inputs, **options)

    def _bound(
        self, inputs: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of `forward`; if only options are given, they are the fields of the input."""
        if not inputs and not options:
            raise TypeError(
                f"{type(self).title(self)} was called without an input; expected one, or its fields by name."
            )
        return (inputs, options) if inputs else ((options,), {})

    def title(self) -> str:
        """Return the operator's name in errors, by default that of its class."""
        return type(self).__name__

    @property
    def awaits(self) -> bool:
        """True if the operator awaits, for instance a model, so that `acall` should be used."""
        cls = type(self)
        return hasattr(cls, "aforward") or inspect.iscoroutinefunction(cls.forward)

    def as_node(self) -> Any:
        """Return this operator as a LangGraph node, which edges make of it too."""
        return node_of(self)

    def update_params(self: OperatorT, **fields: Any) -> OperatorT:
        """Return a copy with new values in some fields, static ones included.

        Args:
            **fields: The new values; they are converted and checked as in the constructor.

        Raises:
            AttributeError: if the operator has no field of that name.

        Example:
            >>> from mahsm.operators import Operator
            >>> class Named(Operator):
            ...     name: str
            ...     def forward(self, input):
            ...         return f"{self.name}: {input}"
            >>> Named("a").update_params(name="b")(1)
            'b: 1'
        """
        return updated(self, fields)


def _called(op: Operator, function: Any, *arguments: Any, **options: Any) -> Any:
    return function(op, *arguments, **options)


def without_forward(op: Operator) -> str | None:
    """Return the reason why an operator cannot be called, if it only holds data."""
    cls = type(op)
    if cls.forward is not Operator.forward or hasattr(cls, "aforward"):
        return None
    return (
        f"{cls.__name__} has no forward, so it only holds data; expected an operator that can be called. "
        "Define forward(input)."
    )


def check_operators(owner: str, field: str, values: Any) -> None:
    """Check a list of operators.

    Raises:
        TypeError: if it is empty or not a list, or if an entry is not an operator or cannot be called.
    """
    if not isinstance(values, list | tuple) or not values:
        raise TypeError(
            f"{owner}: {field}={shown(cast('Any', values))}; expected a list of at least one operator."
        )
    for value in cast("list[Any]", values):
        if not isinstance(value, Operator):
            raise TypeError(
                f"{owner}: {field} has {shown(value)}; expected operators. Make one from a function with "
                "mahsm.operators.op."
            )
        if (problem := without_forward(value)) is not None:
            raise TypeError(f"{owner}: {field}: {problem}")


def updated(op: OperatorT, values: dict[str, Any]) -> OperatorT:
    """Return a copy with new values in some fields, which are converted and checked."""
    fields = {field.name: field for field in dataclasses.fields(op)}
    if unknown := [name for name in values if name not in fields]:
        raise AttributeError(
            f"{type(op).__name__} has no field {unknown[0]!r}; it has {', '.join(map(repr, fields))}."
        )
    made: Any = object.__new__(type(op))
    for name, value in vars(op).items():
        object.__setattr__(made, name, value)
    for name, value in values.items():
        convert = fields[name].metadata.get("converter")
        object.__setattr__(made, name, convert(value) if convert else value)
    for base in type(op).__mro__:
        if "__check_init__" in base.__dict__:
            base.__dict__["__check_init__"](made)
    return made
