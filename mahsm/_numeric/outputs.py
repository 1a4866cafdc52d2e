"""Conversion of results to values that a checkpointer can store."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np

from mahsm._common import shown
from mahsm._numeric.spec import Output
from mahsm.errors import JitError


def converter(name: str, output: Output) -> Callable[[Any], Any]:
    """Return a function that converts one output of a function to a value for the state.

    Args:
        name: The edge's name.
        output: "numpy" for NumPy arrays, and Python numbers for arrays without axes; "python" for lists and
            numbers; "jax" for no conversion, also of arrays that are still being computed.
    """
    if output == "jax":
        return _as_it_is
    return partial(_walk, _listed if output == "python" else plain, name)


_USUAL = frozenset(np.dtype(name) for name in ("float32", "int32", "bool", "float64", "int64"))


def _as_it_is(value: Any) -> Any:
    return value


def begin_fetching(outputs: Any) -> None:
    """Start the copies of all outputs from their device. `jax.device_get` does that too, but copies twice."""
    from mahsm._numeric.untyped_jax import jax

    for leaf in jax.tree.leaves(outputs):
        leaf.copy_to_host_async()


def plain(value: Any, name: str) -> Any:
    """Return a NumPy array, or a Python number for an array without axes. Blocks until it is computed."""
    try:
        array: Any = np.asarray(value)
    except TypeError:  # a random key
        raise _no_numbers(value, name) from None
    if array.dtype not in _USUAL:
        array = _known(array, value, name)
    return array if array.ndim else array.item()


def _listed(value: Any, name: str) -> Any:
    found = plain(value, name)
    return found.tolist() if isinstance(found, np.ndarray) else found


def _known(array: Any, value: Any, name: str) -> Any:
    if array.dtype.kind in "biufc":
        return array
    if array.dtype.type.__module__ == "ml_dtypes" and array.dtype.name.startswith(("bfloat", "float")):
        # Checkpointers cannot store these dtypes.
        return array.astype(np.float32)
    raise _no_numbers(value, name)


def _no_numbers(value: Any, name: str) -> JitError:
    return JitError(f"{name}: the function returned {shown(value)}; expected arrays of numbers or booleans.")


def _walk(leaf: Callable[[Any, str], Any], name: str, value: Any) -> Any:
    if hasattr(value, "dtype"):
        return leaf(value, name)
    if type(value) is dict:
        return {key: _walk(leaf, name, entry) for key, entry in cast("dict[Any, Any]", value).items()}
    if type(value) in (list, tuple):
        return type(value)(_walk(leaf, name, entry) for entry in value)
    if value is None or isinstance(value, int | float | complex):  # numbers, where JAX is not installed
        return value
    raise JitError(
        f"{name}: the function returned {shown(value)}, of type {type(value).__name__}, which a checkpointer "
        "cannot store; expected arrays, or a dict, list or tuple of them. Return its arrays in a dict, or "
        "pass output='jax'."
    )
