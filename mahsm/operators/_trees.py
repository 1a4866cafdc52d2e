"""Operators as trees: what of them is numeric, and what is learned."""

from typing import Any, TypeVar, cast

import equinox as eqx

from mahsm._common import cached
from mahsm._numeric import jax, tag_of_tree, tagged

TreeT = TypeVar("TreeT")


@jax.tree_util.register_static
class Rest:
    """What `partition` leaves of an operator without its arrays. It is static for JAX: equal rests share a
    compilation.

    They are equal if everything in them is, types and signs included: 1, 1.0 and True differ, and so do 0.0
    and -0.0. One with something that cannot be hashed equals itself only.

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
    """An operator as its arrays, and the rest, as `equinox.partition` gives them.

    The first is the operator with None for whatever is no array: what `jax.jit`, `jax.grad` and optimisers
    take. The second is one static thing, which they take too. Partition once, outside of a loop.

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
    """The operator that `partition` made two of; the arrays may be others by now.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from mahsm.operators import combine, partition
        >>> arrays, rest = partition({"weights": jnp.ones(2), "label": "a"})
        >>> combine(jax.tree.map(lambda x: x * 2, arrays), rest)
        {'label': 'a', 'weights': Array([2., 2.], dtype=float32)}
    """
    return eqx.combine(arrays, rest.tree)


def parameters(op: TreeT) -> TreeT:
    """The parameters of an operator: its arrays of floats or complex numbers, and None for everything else.

    It is what an optimiser of Optax is initialised with.

    Example:
        >>> import equinox as eqx, jax
        >>> from mahsm.operators import parameters
        >>> [leaf.shape for leaf in jax.tree.leaves(parameters(eqx.nn.Linear(2, 1, key=jax.random.key(0))))]
        [(1, 2), (1,)]
    """
    return cast("TreeT", eqx.filter(op, eqx.is_inexact_array))
