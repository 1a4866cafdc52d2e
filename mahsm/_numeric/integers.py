"""Integers in 64 bits, in functions that are traced in 32 bits.

JAX computes integers in 32 bits, and overflow is silent: `[2**30] * 4` sums to 0. In its 64-bit mode it would
also compute floats in 64 bits, slowly. So the function is traced in 32 bits, and the trace is then evaluated
equation by equation with wide integers:

- Signed results of arithmetic (sums, products, rounded floats and so on) are int64.
- Unsigned arithmetic wraps in 32 bits, as hashes need it; but sums and products over an unsigned array are
  uint64.
- Primitives that only read or move integers, such as comparisons, take either width.
- All other primitives get integers that are cut to 32 bits.

For a small function that costs nothing; where millions of integers are all the work, up to three times the
time. Computing in both widths, and comparing them to raise an error, would cost more everywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from mahsm._numeric.untyped_jax import jax

_SIGNED, _UNSIGNED = np.dtype("int32"), np.dtype("uint32")
_WIDE = {_SIGNED: np.dtype("int64"), _UNSIGNED: np.dtype("uint64")}
_NARROW = {wide: narrow for narrow, wide in _WIDE.items()}

_SUMS = frozenset(
    ("reduce_sum", "reduce_prod", "cumsum", "cumprod", "dot_general", "conv_general_dilated", "scatter-add")
)
"""Primitives that must not overflow, with signed or unsigned integers."""
_ARITHMETIC = _SUMS | {
    "add",
    "add_any",
    "sub",
    "mul",
    "neg",
    "abs",
    "square",
    "integer_pow",
    "pow",
    "shift_left",
    "scatter-mul",
}
_FOLLOWING = frozenset(
    (
        *(
            "max",
            "min",
            "div",
            "rem",
            "sign",
            "and",
            "or",
            "xor",
            "not",
            "eq",
            "ne",
            "lt",
            "le",
            "gt",
            "ge",
            "select_n",
            "clamp",
        ),
        *(
            "broadcast_in_dim",
            "reshape",
            "transpose",
            "squeeze",
            "expand_dims",
            "concatenate",
            "slice",
            "rev",
            "pad",
            "tile",
        ),
        *(
            "reduce_max",
            "reduce_min",
            "cummax",
            "cummin",
            "argmax",
            "argmin",
            "sort",
            "top_k",
            "gather",
            "scatter",
            "split",
        ),
        *(
            "dynamic_slice",
            "dynamic_update_slice",
            "convert_element_type",
            "copy",
            "optimization_barrier",
            "shift_right_arithmetic",
        ),
    )
)
"""Primitives that take wide integers as well as narrow ones."""
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
"""Primitives that call a function, with the name of the parameter that holds it."""


def in_64_bits(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with integers computed in 64 bits; its floats and its trace stay the same."""

    def run(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
        outputs = _evaluated(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return run


def _evaluated(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Return the outputs of a traced function, evaluated equation by equation."""
    env: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def value_of(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else env[atom]

    for eqn in jaxpr.eqns:
        with eqn.ctx.manager:
            found = _outputs(eqn, [value_of(atom) for atom in eqn.invars])
        env.update(zip(eqn.outvars, found if eqn.primitive.multiple_results else [found], strict=True))
    return [value_of(atom) for atom in jaxpr.outvars]


def _outputs(eqn: Any, values: list[Any]) -> Any:
    name = eqn.primitive.name
    follows = any(_dtype(value) in _NARROW for value in values)
    inner = _inner(eqn.params)
    if inner and (follows or any(map(_computes, inner))):
        if name in _CALLS:
            called = eqn.params[_CALLS[name]]
            return _evaluated(*_opened(called), values)
        if name in _LOOPS:
            with jax.enable_x64(True):
                return _LOOPS[name](eqn.params, values)
    if _overflows(eqn) or (follows and name in _FOLLOWING):
        return _bound_wide(eqn, values)
    with jax.enable_x64(False):
        return eqn.primitive.bind(*map(_narrowed, values), **eqn.primitive.get_bind_params(eqn.params))


def _bound_wide(eqn: Any, values: list[Any]) -> Any:
    name, params = eqn.primitive.name, dict(eqn.params)
    with jax.enable_x64(True):
        wide = [
            _narrowed(value) if name == "select_n" and not at else _widened(value)
            for at, value in enumerate(values)
        ]
        if name.startswith("scatter"):
            options = {
                key: params[key]
                for key in ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
            }
            return getattr(jax.lax, name.replace("-", "_"))(*wide, **options)
        # JAX lowers these in 32 bits.
        if name in ("argmax", "argmin"):
            return eqn.primitive.bind(_extreme(eqn, wide[0]), **params)
        for param in ("new_dtype", "preferred_element_type"):
            if params.get(param) is not None:
                params[param] = _WIDE.get(np.dtype(params[param]), params[param])
        return eqn.primitive.bind(*wide, **params)


def _extreme(eqn: Any, wide: Any) -> Any:
    """Return narrow integers with their maximum, or minimum, in the same places as wide ones."""
    most = eqn.primitive.name == "argmax"
    extreme = (jax.numpy.max if most else jax.numpy.min)(wide, axis=eqn.params["axes"], keepdims=True)
    return ((wide == extreme) if most else (wide != extreme)).astype(_SIGNED)


def _overflows(eqn: Any) -> bool:
    """Return whether an equation is arithmetic whose integer result may not fit 32 bits."""
    name = eqn.primitive.name
    if name not in _ARITHMETIC and name != "convert_element_type":
        return False
    dtype = _dtype(eqn.outvars[0].aval)
    if name == "convert_element_type":
        return dtype == _SIGNED and jax.dtypes.issubdtype(_dtype(eqn.invars[0].aval), np.floating)
    return dtype == _SIGNED or (dtype == _UNSIGNED and name in _SUMS)


def _computes(jaxpr: Any) -> bool:
    """Return whether a traced function contains arithmetic that may overflow."""
    return any(_overflows(eqn) or any(map(_computes, _inner(eqn.params))) for eqn in jaxpr.eqns)


# Loops and branches. A carry must have the same dtypes in each round, and an output in each branch. So all
# signed integers among them are int64, and all unsigned ones uint32, whatever the body has computed.


def _scan(params: Mapping[str, Any], values: list[Any]) -> list[Any]:
    jaxpr, consts = _opened(params["jaxpr"])
    fixed, begins, slices = _scanned(params, values)

    def body(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        found = _all_signed(_evaluated(jaxpr, consts, [*fixed, *carry, *xs]))
        return found[: len(carry)], found[len(carry) :]

    options = {key: params[key] for key in ("length", "reverse", "unroll")}
    carry, ys = jax.lax.scan(body, _all_signed(begins), slices, **options)
    return [*carry, *ys]


def _scanned(params: Mapping[str, Any], values: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the constants of a scan, its first carry, and the arrays that it iterates over."""
    if "ft_in" in params:  # from JAX 0.11 on
        fixed, begins, slices = params["ft_in"].update(values).unpack()
        return list(fixed), list(begins), list(slices)
    first, second = params["num_consts"], params["num_consts"] + params["num_carry"]
    return values[:first], values[first:second], values[second:]


def _while(params: Mapping[str, Any], values: list[Any]) -> list[Any]:
    test, step = _opened(params["cond_jaxpr"]), _opened(params["body_jaxpr"])
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]

    def goes_on(carry: list[Any]) -> Any:
        return _evaluated(*test, [*values[:first], *carry])[0]

    def body(carry: list[Any]) -> list[Any]:
        return _all_signed(_evaluated(*step, [*values[first:second], *carry]))

    return jax.lax.while_loop(goes_on, body, _all_signed(values[second:]))


def _cond(params: Mapping[str, Any], values: list[Any]) -> list[Any]:
    def branch(closed: Any, *given: Any) -> list[Any]:
        return _all_signed(_evaluated(*_opened(closed), given))

    return jax.lax.switch(
        _narrowed(values[0]), [partial(branch, each) for each in params["branches"]], *values[1:]
    )


_LOOPS: dict[str, Callable[[Mapping[str, Any], list[Any]], list[Any]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}


def _all_signed(values: Sequence[Any]) -> list[Any]:
    """Return the values with int32 widened and uint64 narrowed, for dtypes that are the same every round."""
    return [
        _widened(value)
        if _dtype(value) == _SIGNED
        else value
        if _dtype(value) == _WIDE[_SIGNED]
        else _narrowed(value)
        for value in values
    ]


def _widened(value: Any) -> Any:
    wide = _WIDE.get(_dtype(value))
    return value if wide is None else jax.lax.convert_element_type(value, wide)


def _narrowed(value: Any) -> Any:
    narrow = _NARROW.get(_dtype(value))
    return value if narrow is None else jax.lax.convert_element_type(value, narrow)


def _dtype(value: Any) -> Any:
    return getattr(value, "dtype", None)


def _inner(params: Mapping[str, Any]) -> list[Any]:
    return list(jax.extend.core.jaxprs_in_params(params))


def _opened(called: Any) -> tuple[Any, Sequence[Any]]:
    """Return a traced function and its constants."""
    return (called.jaxpr, called.consts) if hasattr(called, "consts") else (called, ())
