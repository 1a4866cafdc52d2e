"""Operators as trees: what of them is numeric, what is learned, and how that is saved."""

import dataclasses
import io
import json
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import zip_longest
from typing import Any, TypeVar, cast

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from mahsm._jit._jax import jax

TreeT = TypeVar("TreeT")

_FORMAT = 1


@jax.tree_util.register_static
class Rest:
    """What `partition` leaves of an operator without its arrays. It is static for JAX: equal rests share a compilation.

    Args:
        treedef: How the operator is put together.
        others: Its other leaves; None where an array is.
    """

    def __init__(self, treedef: Any, others: Sequence[Any]) -> None:
        self._treedef = treedef
        self._others = tuple(others)

    def with_arrays(self, arrays: Sequence[Any]) -> Any:
        """The operator, with these arrays.

        Raises:
            ValueError: if they are too few or too many.
        """
        wanted = self._others.count(_ARRAY)
        if len(arrays) != wanted:
            raise ValueError(f"combine got {len(arrays)} arrays; expected {wanted}, as partition gave them.")
        left = iter(arrays)
        return self._treedef.unflatten([next(left) if other is _ARRAY else other for other in self._others])

    def __eq__(self, other: object) -> bool:
        theirs: Any = other
        return isinstance(other, Rest) and bool((self._treedef, self._others) == (theirs._treedef, theirs._others))

    def __hash__(self) -> int:
        try:
            return hash((self._treedef, self._others))
        except TypeError:  # some of them can be compared, but not hashed
            return hash(self._treedef)

    def __repr__(self) -> str:
        return f"<Rest of {self._treedef.node_data()[0].__name__}>"


class _Array:
    """Stands for an array."""


_ARRAY = _Array()


def partition(op: TreeT) -> tuple[TreeT, Rest]:
    """An operator as its arrays, and the rest.

    The first is the operator with None for whatever is no array: what `jax.jit`, `jax.grad` and optimisers take. The second
    is one static thing. Partition once, outside of a loop: that costs what going through the operator once costs.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp
        >>> from mahsm.operators import combine, partition
        >>> arrays, rest = partition(eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0)))
        >>> jax.jit(lambda arrays, x: combine(arrays, rest)(x))(arrays, jnp.ones(2)).shape
        (1,)
    """
    leaves, treedef = jax.tree_util.tree_flatten(op)
    arrays: list[Any] = []
    others: list[Any] = []
    for leaf in leaves:
        is_array = isinstance(leaf, _ARRAYS)
        arrays.append(leaf if is_array else None)
        others.append(_ARRAY if is_array else leaf)
    return treedef.unflatten(arrays), Rest(treedef, others)


def combine(arrays: TreeT, rest: Rest) -> TreeT:
    """The operator that `partition` made two of; the arrays may be others by now.

    Raises:
        ValueError: if they are too few or too many.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from mahsm.operators import combine, partition
        >>> arrays, rest = partition({"weights": jnp.ones(2), "label": "a"})
        >>> combine(jax.tree.map(lambda x: x * 2, arrays), rest)
        {'label': 'a', 'weights': Array([2., 2.], dtype=float32)}
    """
    return rest.with_arrays(jax.tree_util.tree_leaves(arrays))


_ARRAYS = (jax.Array, np.ndarray, np.generic)


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


def save(path: str | os.PathLike[str], op: Any) -> None:
    """Write the arrays of an operator to a file, after a line that says what they belong to.

    Nothing else of the operator is in the file: no model, prompt or key.

    Args:
        path: The file, which is replaced.
        op: The operator, or any other tree.

    Example:
        >>> import equinox as eqx, jax, tempfile
        >>> from mahsm.operators import load, save
        >>> linear, other = (eqx.nn.Linear(2, 1, key=jax.random.key(seed)) for seed in (0, 1))
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     save(file.name, linear)
        ...     bool((load(file.name, other).weight == linear.weight).all())
        True
    """
    arrays = io.BytesIO()
    np.savez(arrays, *[_stored(leaf) for _, leaf in _arrays(op)])
    with open(path, "wb") as file:
        file.write(json.dumps(_header(op)).encode() + b"\n" + arrays.getvalue())


def load(path: str | os.PathLike[str], like: TreeT) -> TreeT:
    """An operator with the arrays of a file.

    Args:
        path: A file that `save` has written.
        like: An operator of the same class, with the same labels, and arrays of the same shapes.

    Raises:
        ValueError: for a file that `save` has not written, or that does not fit; it says in what.
    """
    with open(path, "rb") as file:
        try:
            header = json.loads(file.readline())
            written = header["format"]
        except (ValueError, TypeError, KeyError):
            raise ValueError(
                f"{os.fspath(path)} is no file of an operator; expected one that mahsm.operators.save wrote."
            ) from None
        expected = _header(like)
        if written != _FORMAT:
            raise ValueError(f"{os.fspath(path)} has format {written!r}; expected {_FORMAT}. Update mahsm to read it.")
        for what in ("class", "labels", "arrays"):
            if header[what] != expected[what]:
                raise ValueError(
                    f"{os.fspath(path)} does not fit: its {what} {_difference(header[what], expected[what])}. Load it into an "
                    "operator that is made like the one that was saved."
                )
        with np.load(io.BytesIO(file.read()), allow_pickle=False) as stored:
            values = [stored[name] for name in stored.files]
    left = iter(values)
    leaves, treedef = jax.tree_util.tree_flatten(like)
    return treedef.unflatten([_restored(leaf, next(left)) if isinstance(leaf, _ARRAYS) else leaf for leaf in leaves])


def _header(op: Any) -> dict[str, Any]:
    cls = cast("type[Any]", type(op))
    return {
        "format": _FORMAT,
        "mahsm": version("mahsm"),
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "labels": [[where, list(labels)] for where, labels in _labels(op, "")],
        "arrays": [[where, str(leaf.dtype), list(leaf.shape)] for where, leaf in _arrays(op)],
    }


def _arrays(op: Any) -> list[tuple[str, Any]]:
    entries, _ = jax.tree_util.tree_flatten_with_path(op)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in entries if isinstance(leaf, _ARRAYS)]


def _labels(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """What the rows of arrays mean: the fields named `labels`, here and in operators inside."""
    if isinstance(value, eqx.Module):
        for field in dataclasses.fields(value):
            entry = getattr(value, field.name)
            if field.name == "labels" and isinstance(entry, tuple | list):
                yield f"{where}.labels", cast("Sequence[Any]", entry)
            else:
                yield from _labels(entry, f"{where}.{field.name}")
    elif isinstance(value, dict):
        for key, entry in cast("dict[Any, Any]", value).items():
            yield from _labels(entry, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(cast("Sequence[Any]", value)):
            yield from _labels(entry, f"{where}[{index}]")


def _stored(leaf: Any) -> Any:
    """The leaf as a file holds it: keys for random numbers as their numbers, and rare dtypes as their bytes."""
    if _is_random_key(leaf):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return array if array.dtype.kind in "biufc" else np.frombuffer(array.tobytes(), np.uint8)


def _restored(like: Any, stored: Any) -> Any:
    if _is_random_key(like):
        return jax.random.wrap_key_data(jnp.asarray(stored), impl=jax.random.key_impl(like))
    array = stored if stored.dtype == like.dtype else np.frombuffer(stored.tobytes(), like.dtype).reshape(like.shape)
    if isinstance(like, np.generic):
        return array[()]
    return jnp.asarray(array) if isinstance(like, jax.Array) else array


def _is_random_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _difference(found: Any, expected: Any) -> str:
    if isinstance(found, list) and isinstance(expected, list):
        pairs = zip_longest(cast("list[Any]", found), cast("list[Any]", expected))
        one, two = next((one, two) for one, two in pairs if one != two)
        return f"has {one}, and the operator has {two}"
    return f"is {found}, and the operator's is {expected}"
