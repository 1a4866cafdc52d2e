"""Padding: arrays whose first axis varies are compiled for few lengths, and not for each one."""

from typing import Any

import numpy as np

from mahsm.errors import JitError

_LEAST = 8


def bucket_of(length: int, multiple: int = 1) -> int:
    """The least power of two that is at least this length and 8, rounded up to a multiple."""
    bucket = max(_LEAST, 1 << (length - 1).bit_length() if length else 0)
    return -(-bucket // multiple) * multiple


def rows_of(count: int, multiple: int = 1) -> int:
    """How many rows so many items are computed in: 1, 1.25, 1.5 or 1.75 times a power of two, rounded up to a
    multiple.
    """
    step = max(1, 1 << max(0, (count - 1).bit_length() - 3))
    return -(-(-(-count // step) * step) // multiple) * multiple


def padded(array: Any, size: int, fill: int) -> Any:
    """The array with rows of `fill` up to this size of its first axis."""
    out = np.full((size, *array.shape[1:]), abs(fill) if array.dtype.kind == "u" else fill, array.dtype)
    out[: array.shape[0]] = array
    return out


def ragged_axes(name: str, small: Any, large: Any, bucket: int) -> Any:
    """Which axes of each output vary with the bucket, of its shapes in a bucket and in one of twice the size.

    Raises:
        JitError: for an axis that varies, but is not of the bucket's size.
    """
    from mahsm._numeric.untyped_jax import jax

    def axes(one: Any, two: Any) -> tuple[int, ...]:
        if len(one.shape) != len(two.shape):
            raise JitError(
                f"{name}: an output has {len(one.shape)} axes or {len(two.shape)}, depending on the padding."
            )
        found = tuple(
            axis for axis, (size, other) in enumerate(zip(one.shape, two.shape, strict=True)) if size != other
        )
        for axis in found:
            if (one.shape[axis], two.shape[axis]) != (bucket, 2 * bucket):
                raise JitError(
                    f"{name}: axis {axis} of an output of shape {one.shape} depends on the padding, but is "
                    "not the padded axis, so nobody knows what of it to cut. Return arrays whose varying "
                    "axes have the length of the ragged keys."
                )
        return found

    return jax.tree.map(axes, small, large)


def cut(array: Any, axes: tuple[int, ...], length: int, *, after: int = 0) -> Any:
    """The array without padding on these axes, which come after so many others."""
    index = [slice(None)] * array.ndim
    for axis in axes:
        index[axis + after] = slice(length)
    return array[tuple(index)]


def check_padding(name: str, outputs: Any, others: Any, *, exactly: bool) -> None:
    """See that results do not depend on the padding.

    Args:
        name: Who says so.
        outputs: The results, without padding.
        others: The same, from another padding.
        exactly: Whether all of them must be equal; else floats must be so up to rounding, since sums of other
            lengths are added up in another order, and the rest may differ, since such a difference can turn a
            ranking around.

    Raises:
        JitError: if they differ.
    """
    from mahsm._numeric.untyped_jax import jax

    def same(one: Any, two: Any) -> bool:
        floats = one.dtype.kind in "fc"
        if exactly:
            return bool(np.array_equal(one, two, equal_nan=floats))
        return not floats or np.allclose(one, two, rtol=1e-3, atol=1e-5, equal_nan=True)

    if not all(jax.tree.leaves(jax.tree.map(same, outputs, others))):
        raise JitError(
            f"{name}: the result changes with the padding of the ragged keys. Use mask in every sum, mean, "
            "softmax and ranking over their first axis, as jnp.where(mask, x, 0.0), and mask.sum() for its "
            "length. In a fused edge, whatever reads what an edge with ragged= wrote needs ragged= too."
        )
