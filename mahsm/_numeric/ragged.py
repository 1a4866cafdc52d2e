"""Padding of arrays whose first axis varies, so that they are compiled for few lengths."""

from typing import Any

import numpy as np

from mahsm.errors import JitError

_LEAST = 8


def bucket_of(length: int, multiple: int = 1) -> int:
    """Return the least power of two that is at least `length` and 8, rounded up to a multiple."""
    bucket = max(_LEAST, 1 << (length - 1).bit_length() if length else 0)
    return -(-bucket // multiple) * multiple


def rows_of(count: int, multiple: int = 1) -> int:
    """Return the number of rows for a number of items: 1, 1.25, 1.5 or 1.75 times a power of two.

    It is rounded up to a multiple.
    """
    step = max(1, 1 << max(0, (count - 1).bit_length() - 3))
    return -(-(-(-count // step) * step) // multiple) * multiple


def padded(array: Any, size: int, fill: int) -> Any:
    """Return an array with rows of `fill` added up to a size of its first axis."""
    out = np.full((size, *array.shape[1:]), abs(fill) if array.dtype.kind == "u" else fill, array.dtype)
    out[: array.shape[0]] = array
    return out


def ragged_axes(name: str, small: Any, large: Any, bucket: int) -> Any:
    """Return the axes of each output that vary with the bucket.

    Args:
        name: The edge's name.
        small: The shapes of the outputs in a bucket.
        large: Their shapes in a bucket of twice the size.
        bucket: The size of the bucket.

    Raises:
        JitError: if an axis varies that does not have the size of the bucket.
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
                    "not the padded axis, so its padding cannot be cut off. Return arrays whose varying axes "
                    "have the length of the ragged keys."
                )
        return found

    return jax.tree.map(axes, small, large)


def cut(array: Any, axes: tuple[int, ...], length: int, *, after: int = 0) -> Any:
    """Return an array cut to a length on some axes, which are counted after `after` leading axes."""
    index = [slice(None)] * array.ndim
    for axis in axes:
        index[axis + after] = slice(length)
    return array[tuple(index)]


def check_padding(name: str, outputs: Any, others: Any, *, exactly: bool) -> None:
    """Check that results do not depend on the padding.

    Args:
        name: The edge's name.
        outputs: The results, with the padding cut off.
        others: The results under another padding.
        exactly: If True, all results must be equal. If False, floats must be equal up to rounding, since sums
            of another length are added in another order. Other dtypes are not compared then, since a rounding
            difference can change a ranking.

    Raises:
        JitError: if the results differ.
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
            "softmax and ranking over their first axis, such as jnp.where(mask, x, 0.0), and mask.sum() for "
            "its length. In a fused edge, steps that read a result of an edge with ragged= need ragged= too."
        )
