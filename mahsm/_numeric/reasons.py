"""Error messages for functions that cannot be compiled, with the change that helps."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from mahsm._common import add_note
from mahsm._model_calls import calls_refused, observed
from mahsm._numeric.spec import JitSpec
from mahsm._numeric.values import LEAF, Part
from mahsm.errors import JitError

_FIXES = {
    "TracerArrayConversionError": (
        "It passes a traced value to NumPy or another library: use jax.numpy (jnp) instead of np."
    ),
    "TracerBoolConversionError": (
        "It branches on a traced value: use jnp.where or jax.lax.cond instead of if, and jnp.max instead of "
        "max."
    ),
    "TracerIntegerConversionError": (
        "It uses a traced value as an index or a size in Python: use jnp.take, or an array instead of the "
        "list."
    ),
    "NonConcreteBooleanIndexError": (
        "It selects entries by a condition, so that the size of the result depends on values: "
        "use jnp.where with a default, or multiply by the mask."
    ),
    "ConcretizationTypeError": "It needs the number itself, as float(), int(), .item() and math do: use "
    "jax.numpy (jnp).",
    "UnexpectedTracerError": "It keeps a traced value in a global or an object: return all values that are "
    "needed later.",
}

_NO_ARRAY = "It returns a value that is not an array: return arrays only, and make strings in the next node."


@contextmanager
def tracing(name: str) -> Generator[None, None, None]:
    """Return a block for tracing, in which model calls are refused: they would run once, for all calls."""
    with (
        observed(),
        calls_refused(
            f"{name}: its function calls a model while it is compiled. The call would be made once, and its "
            "answer used for all calls. Call the model in a node before, and read its answer from the state."
        ),
    ):
        yield


def explained(
    error: Exception,
    spec: JitSpec,
    parts: Sequence[Part],
    leaves: Sequence[Any],
    shapes: Callable[[Sequence[Part]], Any],
) -> Exception:
    """Return the error itself, or a `JitError` with a fix if JAX could not trace the function.

    Args:
        error: The error that was raised.
        spec: The spec of the program.
        parts: The part of each key.
        leaves: The leaves of all keys.
        shapes: Traces the function with other parts.
    """
    from mahsm._numeric.untyped_jax import jax

    kinds: tuple[type[Exception], ...] = tuple(getattr(jax.errors, kind) for kind in _FIXES)
    returned = isinstance(error, TypeError) and "valid JAX type" in str(error)
    if not isinstance(error, kinds) and not returned and "Tracer" not in str(error):
        add_note(error, f"{spec.name}, while it was compiled")
        return error
    kind = next((known for known in _FIXES if isinstance(error, getattr(jax.errors, known))), "")
    fix = _FIXES.get(kind, _NO_ARRAY if returned else _FIXES["ConcretizationTypeError"])
    working = [
        key for key, part in _numbers(spec, parts, leaves).items() if _works(spec, parts, key, part, shapes)
    ]
    if working:
        fix = (
            f"Make {working[0]!r} static: static_keys=[{working[0]!r}]. The function is then compiled for "
            "each of its values."
        )
    seen = ", ".join(f"{key} {part!r}" for key, part in zip(spec.reads, parts, strict=True))
    first = str(error).split("\n")[0]
    return JitError(
        f"{spec.name}: the function cannot be compiled ({type(error).__name__}: {first}). {fix} "
        f"Its keys: {seen}."
    )


def _numbers(spec: JitSpec, parts: Sequence[Part], leaves: Sequence[Any]) -> Mapping[str, Any]:
    """Return the keys whose values are single numbers, with these numbers."""
    found: dict[str, Any] = {}
    at = 0
    for key, part in zip(spec.reads, parts, strict=True):
        if part is LEAF and np.ndim(leaves[at]) == 0 and not hasattr(leaves[at], "aval"):
            found[key] = np.asarray(leaves[at]).item()
        at += part.leaves
    return found


def _works(
    spec: JitSpec, parts: Sequence[Part], key: str, value: Any, shapes: Callable[[Sequence[Part]], Any]
) -> bool:
    from mahsm._numeric.values import Static

    at = spec.reads.index(key)
    try:
        shapes([*parts[:at], Static(value), *parts[at + 1 :]])
    except Exception:  # noqa: BLE001  then another change is needed
        return False
    return True


def check_purity(name: str, trace: Callable[[], Any], first: Any) -> None:
    """Check that a function gives the same when it is traced again.

    Args:
        name: The edge's name.
        trace: Traces the function again.
        first: The first trace.

    Raises:
        JitError: if the traces differ.
    """
    again = trace()
    if str(again.jaxpr) == str(first.jaxpr) and all(map(_equal, again.consts, first.consts)):
        return
    raise JitError(
        f"{name}: the function computes different values each time it is traced, as with random, "
        "np.random, a counter or the time; compiled, it would use one of these values for all calls. Pass "
        "seed_key= and draw with jax.random from the key= that it then gets, or read the value from the "
        "state."
    )


def _equal(one: Any, two: Any) -> bool:
    try:
        return bool(np.array_equal(np.asarray(one), np.asarray(two), equal_nan=True))
    except TypeError:  # random keys, and dtypes without NaN
        return one is two or str(one) == str(two)
