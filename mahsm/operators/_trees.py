"""Operators as trees: their arrays, their parameters, and the static rest."""

from typing import Any, TypeVar, cast

import equinox as eqx

from mahsm._common import cached, tagged
from mahsm._numeric import jax, tag_of_tree

TreeT = TypeVar("TreeT")


@jax.tree_util.register_static
class Rest:
    """The part of an operator that is not arrays. It is static for JAX: equal rests share a compilation.

    Two rests are equal if all their values are equal and have the same types: 1, 1.0 and True differ, and so
    do 0.0 and -0.0. A rest with an unhashable value is equal only to itself.

    Attributes:
        tree: The operator, with None for each array.
    """

    def __init__(self, tree: Any) -> None:
        self.tree = tree

    @cached
    def _tag(self) -> Any:
        leaves, treedef = jax.tree_util.tree_flatten(self.tree)
        try:
            return tag_of_tree(treedef), tagged(leaves)
        except TypeError:
            return object()

    def __eq__(self, other: object) -> bool:
        theirs: Any = other
        return self is other or (isinstance(other, Rest) and bool(self._tag == theirs._tag))

    def __hash__(self) -> int:
        return hash(self._tag)

    def __repr__(self) -> str:
        return f"<Rest of {type(self.tree).__name__}>"


def partition(op: TreeT) -> tuple[TreeT, Rest]:
    """Split an operator into its arrays and the rest, as `equinox.partition` does.

    The first is the operator with None in place of all leaves that are not arrays, for `jax.jit`, `jax.grad`
    and optimisers. The second is a static value, which JAX functions take as an argument too. In a training
    loop, call `partition` once, before the loop.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp
        >>> from mahsm.operators import combine, partition
        >>> arrays, rest = partition(eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0)))
        >>> jax.jit(lambda arrays, rest, x: combine(arrays, rest)(x))(arrays, rest, jnp.ones(2)).shape
        (1,)
    """
    arrays, rest = cast("tuple[TreeT, Any]", eqx.partition(op, eqx.is_array))
    return arrays, Rest(rest)


def combine(arrays: TreeT, rest: Rest) -> TreeT:
    """Return the operator of arrays and a rest from `partition`; the arrays may be updated ones.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from mahsm.operators import combine, partition
        >>> arrays, rest = partition({"weights": jnp.ones(2), "label": "a"})
        >>> combine(jax.tree.map(lambda x: x * 2, arrays), rest)
        {'label': 'a', 'weights': Array([2., 2.], dtype=float32)}
    """
    return eqx.combine(arrays, rest.tree)


def parameters(op: TreeT) -> TreeT:
    """Return the parameters of an operator: its float or complex arrays, and None in place of other leaves.

    An Optax optimiser is initialised with them.

    Example:
        >>> import equinox as eqx, jax
        >>> from mahsm.operators import parameters
        >>> [leaf.shape for leaf in jax.tree.leaves(parameters(eqx.nn.Linear(2, 1, key=jax.random.key(0))))]
        [(1, 2), (1,)]
    """
    return cast("TreeT", eqx.filter(op, eqx.is_inexact_array))
