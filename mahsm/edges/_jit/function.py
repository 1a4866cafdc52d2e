"""`jit_edge`: a numeric function of state keys, compiled by JAX."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast, get_args

from langchain_core.runnables import Runnable

from mahsm._common import check, shown
from mahsm._numeric import JitSpec, Output, Step
from mahsm.edges._jit.edge import JitEdge
from mahsm.edges._shared.constructor import constructor
from mahsm.errors import EdgeError
from mahsm.nodes._internal import node_name


@constructor(
    keep="It belongs to fuse: fuse(first, second, keep=['key']).",
)
def jit_edge(
    fn: Callable[..., Any],
    *,
    # what is computed, and what comes out
    in_keys: Sequence[str] | Mapping[str, str],
    out_key: str | Sequence[str],
    name: str | None = None,
    # what it is compiled for
    static_keys: Sequence[str] = (),
    ragged: Sequence[str] = (),
    seed_key: str | None = None,
    # where, and in which numbers
    device: Any = None,
    shard: str | None = None,
    x64: bool = False,
    output: Output = "numpy",
) -> JitEdge:
    """Compute a function of state keys, compiled by JAX.

    Arrays, floats, ints and lists of numbers are dynamic: one compilation serves all values of a shape.
    Booleans, strings, None and enums are static: each value gets a compilation of its own. Dicts and Equinox
    modules are taken apart leaf by leaf. Anything else is an error that names the key.

    Without JAX, `fn` is called with read-only NumPy arrays, and a warning says so when the edge is built.

    Args:
        fn: A function of the keys' values that JAX can trace; or an Equinox module, whose arrays then stay
            on the device.
        in_keys: State keys of its arguments, in their order; or `{parameter: state key}`.
        out_key: State key that gets the result; or several, if `fn` returns a tuple of that length or a dict.
        name: Node name; by default `jit_` and the function's name.
        static_keys: State keys whose values are static: each value gets a compilation, and must be hashable.
        ragged: State keys whose first axis varies in length. They are padded to powers of two, and `fn` also
            gets `mask=`, a boolean array that is True for the rows that are not padding. Outputs are cut back
            to the length of the input.
        seed_key: State key of a seed, an integer from 0 to 2**32 - 1: `fn` also gets `key=`, a key for
            `jax.random` made from the seed, the edge's name and the item's place in a `vmap`; outside of a
            `vmap`, the place is 0.
        device: Where it runs: a platform and optionally a number, such as "gpu" or "cuda:1", a `jax.Device`,
            or a `jax.sharding.Mesh`; by default JAX's default device. It is looked up when the edge first
            computes.
        shard: With a mesh: the state key, or the field of a module, whose first axis is sharded over the
            mesh's first axis. Or "batch", if no state key has that name: in a `vmap`, the items are sharded,
            and the rest is replicated.
        x64: Compute in 64 bits. Otherwise floats are rounded to 32 bits, and ints that do not fit are an
            error.
        output: Type of the arrays in the update: `"numpy"`, with Python numbers for arrays without axes;
            `"python"`, lists and numbers; or `"jax"`, which no checkpointer can store.

    Returns:
        An edge that reads `in_keys` (and `seed_key`) and writes `out_key`.

    Raises:
        EdgeError: immediately, for invalid arguments; when run, for a device that does not exist.
        ImportError: immediately, for arguments that need JAX if it is not installed.
        StateError: when run, for values that cannot be computed with, and numbers that do not fit.
        JitError: when run, for a function that JAX cannot trace, that draws random numbers of its own, or
            whose result depends on the padding.

    Example:
        >>> from mahsm import jit_edge
        >>> edge = jit_edge(lambda x, k: (x * k).sum(), in_keys=["x", "k"], out_key="y")
        >>> edge.invoke({"x": [1.0, 2.0], "k": 10})
        {'y': 30.0}
    """
    edge = f"jit_edge({shown(out_key)})" if name is None else f"jit_edge {name!r}"
    _check_function(edge, fn)
    arguments = _arguments(edge, in_keys)
    keys = tuple(arguments.values() if isinstance(arguments, Mapping) else arguments)
    static, varying = _some_of(edge, "static_keys", static_keys, keys), _some_of(edge, "ragged", ragged, keys)
    if both := static & varying:
        raise EdgeError(f"{edge}: {sorted(both)[0]!r} is in static_keys and in ragged; expected one of them.")
    for argument, value in {"seed_key": seed_key, "shard": shard}.items():
        if value is not None:
            check.key(edge, argument, value)
    out_keys = _out_keys(edge, out_key)
    if name is not None:
        check.name(edge, name)
    check.choice(edge, "output", output, get_args(Output))
    check.of_type(edge, "x64", x64, bool, "True or False")
    from mahsm._numeric import check_device  # imports NumPy, which the other edges do not need

    check_device(edge, device, shard)
    _check_call(edge, fn, arguments, takes_mask=bool(varying), takes_key=seed_key is not None)
    made = name or f"jit_{node_name(getattr(fn, '__name__', type(fn).__name__))}"
    step = Step(
        name=made,
        fn=fn,
        arguments=arguments,
        out_keys=out_keys,
        single=isinstance(out_key, str),
        ragged=varying,
        takes_mask=bool(varying),
        seed_key=seed_key,
    )
    return JitEdge(
        JitSpec(
            name=made,
            steps=(step,),
            keep=out_keys,
            static_keys=static,
            device=device,
            shard=shard,
            x64=x64,
            output=output,
        )
    )


def _check_function(edge: str, fn: Any) -> None:
    if not callable(fn) or isinstance(fn, type | Runnable):
        hint = " Make an instance of it." if isinstance(fn, type) else ""
        raise EdgeError(
            f"{edge}: fn={shown(cast('Any', fn))}; expected a function of numbers and arrays, or an Equinox "
            f"module.{hint}"
        )
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__):
        raise EdgeError(
            f"{edge}: fn={shown(fn)} is async; expected a function that only computes. Await in "
            "an earlier node."
        )


def _arguments(edge: str, in_keys: Any) -> Sequence[str] | Mapping[str, str]:
    if isinstance(in_keys, str):
        raise EdgeError(
            f"{edge}: in_keys={in_keys!r} is a string; expected a list of state keys, such as "
            f"in_keys=[{in_keys!r}]."
        )
    if not isinstance(in_keys, Mapping | Sequence) or not in_keys:
        raise EdgeError(
            f"{edge}: in_keys={shown(cast('Any', in_keys))}; expected state keys, such as ['x', 'y'], or "
            "{'parameter': 'key'}."
        )
    if isinstance(in_keys, Mapping):
        pairs = cast("Mapping[str, str]", in_keys)
        for pair in pairs.items():
            for key in pair:
                check.key(edge, "in_keys", key)
        return dict(pairs)
    keys = cast("Sequence[str]", in_keys)
    for key in keys:
        check.key(edge, "in_keys", key)
    return tuple(keys)


def _out_keys(edge: str, out_key: Any) -> tuple[str, ...]:
    keys = (
        (out_key,)
        if isinstance(out_key, str) or not isinstance(out_key, Sequence)
        else tuple(cast("Sequence[str]", out_key))
    )
    for key in keys:
        check.key(edge, "out_key", key)
    if not keys or len(set(keys)) < len(keys):
        raise EdgeError(
            f"{edge}: out_key={shown(cast('Any', out_key))}; expected a state key, or several that differ."
        )
    return keys


def _some_of(edge: str, argument: str, given: Any, keys: Sequence[str]) -> frozenset[str]:
    if isinstance(given, str):
        raise EdgeError(
            f"{edge}: {argument}={given!r} is a string; expected a list, such as {argument}=[{given!r}]."
        )
    for key in given:
        if key not in keys:
            raise EdgeError(
                f"{edge}: {argument} has {shown(key)}; expected some of in_keys, "
                f"{', '.join(map(repr, keys))}."
            )
    return frozenset(given)


def _check_call(edge: str, fn: Any, arguments: Any, *, takes_mask: bool, takes_key: bool) -> None:
    """Check that the function takes the arguments that it will be called with."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        # Some builtins have no signature.
        return
    special = {"mask": takes_mask, "key": takes_key}
    given = {special_name: None for special_name, is_given in special.items() if is_given}
    try:
        if isinstance(arguments, Mapping):
            signature.bind(**dict.fromkeys(cast("Mapping[str, str]", arguments)), **given)
        else:
            signature.bind(*arguments, **given)
    except TypeError as error:
        wanted = [f"in_keys={arguments!r}", *(f"{special_name}=" for special_name in given)]
        hint = ""
        if takes_mask and "mask" in str(error):
            hint = " With ragged= it also gets mask=, which is True for rows that are not padding."
        elif "key" in str(error):
            hint = (
                " Pass seed_key= and it gets key=, for jax.random."
                if not takes_key
                else " With seed_key= it also gets key=."
            )
        raise EdgeError(
            f"{edge}: fn{signature} cannot be called with {' and '.join(wanted)}: {error}.{hint}"
        ) from None
