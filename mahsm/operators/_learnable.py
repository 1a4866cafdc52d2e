"""`LearnableOperator`: an operator whose arrays are its parameters."""

from typing import Any, TypeVar

import equinox as eqx
import jax

from mahsm.operators._operator import Operator
from mahsm.operators._trees import parameters

LearnableT = TypeVar("LearnableT", bound="LearnableOperator")


class LearnableOperator(Operator):
    """A trainable operator: its float arrays, and those of the operators in it, are its parameters.

    A number is a parameter only if its field is a `param()`. All values that are not arrays are static.

    Raises:
        TypeError: immediately, if the operator has no parameters.

    Example:
        >>> import jax
        >>> from mahsm.operators import LearnableOperator, param
        >>> class Scale(LearnableOperator):
        ...     name: str
        ...     by: jax.Array = param(2.0)
        ...     def forward(self, input):
        ...         return input * self.by
        >>> gradient = jax.grad(lambda scale: scale(3.0))(Scale("double"))
        >>> float(gradient.by), gradient.name
        (3.0, 'double')
    """

    def __check_init__(self) -> None:
        if not jax.tree_util.tree_leaves(eqx.filter(self, eqx.is_inexact_array)):
            raise TypeError(
                f"{type(self).__name__} has no parameter: none of its fields holds an array of floats. "
                "Annotate a field as jax.Array, declare a number with param(), or make it a plain Operator."
            )

    @property
    def parameters(self: LearnableT) -> LearnableT:
        """The operator with its parameters as the only leaves, and None for other leaves."""
        return parameters(self)

    def with_parameters(self: LearnableT, new: Any) -> LearnableT:
        """Return a copy with new parameters, such as the result of `optax.apply_updates`."""
        return eqx.combine(new, self)
