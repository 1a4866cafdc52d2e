"""Why a function cannot be compiled, in words that say what to change."""

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
        "It hands a traced value to NumPy or another library: use jax.numpy (jnp) instead of np."
    ),
    "TracerBoolConversionError": (
        "It branches on a traced value: use jnp.where or jax.lax.cond instead of if, and jnp.max instead of "
        "max."
    ),
    "TracerIntegerConversionError": (
        "It uses a traced value as an index or a size of Python's: use jnp.take, or an array instead of the "
        "list."
    ),
    "NonConcreteBooleanIndexError": (
        "It keeps the entries for which something holds, so that the size of the result depends on values: "
        "use jnp.where with a default, or multiply by the mask."
    ),
    "ConcretizationTypeError": "It needs the number itself, as float(), int(), .item() and math do: use "
    "jax.numpy (jnp).",
    "UnexpectedTracerError": "It keeps a traced value in a global or an object: return all that is needed "
    "later.",
}

_NO_ARRAY = (
    "It returns something that is no array: return arrays only, and make texts of them in the node after."
)


@contextmanager
def tracing(name: str) -> Generator[None, None, None]:
    """A block that traces a function: calls of models are refused in it, since they would be made once for
    all calls.
    """
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
    """The error, or one that says what to change, if JAX could not trace the function.

    Args:
        error: What was raised.
        spec: What is compiled.
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
            f"Make {working[0]!r} static: static_keys=[{working[0]!r}]. A compilation is then made for each "
            "of its values."
        )
    seen = ", ".join(f"{key} {part!r}" for key, part in zip(spec.reads, parts, strict=True))
    first = str(error).split("\n")[0]
    return JitError(
        f"{spec.name}: the function cannot be compiled ({type(error).__name__}: {first}). {fix} "
        f"Its keys: {seen}."
    )


def _numbers(spec: JitSpec, parts: Sequence[Part], leaves: Sequence[Any]) -> Mapping[str, Any]:
    """The keys whose values are single numbers."""
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
    except Exception:  # noqa: BLE001  then it is not what has to be changed
        return False
    return True


def check_purity(name: str, trace: Callable[[], Any], first: Any) -> None:
    """See that a function does the same when it is traced again.

    Args:
        name: Who says so.
        trace: Traces it again.
        first: What came out the first time.

    Raises:
        JitError: if it does not.
    """
    again = trace()
    if str(again.jaxpr) == str(first.jaxpr) and all(map(_equal, again.consts, first.consts)):
        return
    raise JitError(
        f"{name}: the function computes something else each time that it is traced, as with random, "
        "np.random, a counter or the time; compiled, it would use one of these values for all calls. Pass "
        "seed_key= and draw with jax.random from the key= that it then gets, or read the value from the "
        "state."
    )


def _equal(one: Any, two: Any) -> bool:
    try:
        return bool(np.array_equal(np.asarray(one), np.asarray(two), equal_nan=True))
    except TypeError:  # keys for random numbers, and dtypes without NaN
        return one is two or str(one) == str(two)
