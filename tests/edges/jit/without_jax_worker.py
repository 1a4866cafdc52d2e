"""Runs where JAX is not installed: what works, what warns, and what is refused."""

import importlib.util
import re
import warnings

import numpy as np
import pytest

import mahsm
from mahsm import connect, fuse, jit_edge, reduce_edge, vmap

for name in ("jax", "jaxlib", "equinox"):
    assert importlib.util.find_spec(name) is None, name


def made(fn, *keys, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        edge = jit_edge(fn, in_keys=list(keys), out_key="y", **options)
    (warning,) = caught
    assert "JAX is not installed, so this edge is not compiled" in str(warning.message), warning
    assert "pip install 'mahsm[jax]'" in str(warning.message)
    assert warning.filename == __file__, warning.filename
    return edge


def refused(error, message, call):
    with pytest.raises(error, match=re.escape(message)):
        call()


def softmax(x):
    xp = x.__array_namespace__()
    e = xp.exp(x - xp.max(x))
    return e / xp.sum(e)


# It computes, by the same rules.
edge = made(softmax, "x")
assert abs(edge.invoke({"x": [1.0, 2.0]})["y"].sum() - 1) < 1e-6
assert edge.invoke({"x": [1.0, 2.0]})["y"].dtype == np.float32
assert (edge.stats.calls, edge.stats.compiles) == (2, 0)
assert made(lambda x: x * 2, "x", x64=True).invoke({"x": [0.1]})["y"].dtype == np.float64
assert made(lambda x: x.sum(), "x").invoke({"x": [1, 2]}) == {"y": 3}
assert made(lambda x: x, "x", output="python").invoke({"x": np.ones(2)}) == {"y": [1.0, 1.0]}
refused(mahsm.errors.StateError, "does not fit int32", lambda: edge.invoke({"x": [2**40]}))
refused(mahsm.errors.StateError, "of type object", lambda: edge.invoke({"x": object()}))

# A changed copy is an edge of its own, with a warning of its own.
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert edge.with_(out_key="z").invoke({"x": [1.0]})["z"] == [1.0]
assert [warning.filename for warning in caught] == [__file__], caught

# What goes in cannot be changed, nor change afterwards.
x = np.ones(2, np.float32)


def in_place(x):
    x += 1
    return x


refused(ValueError, "read-only", lambda: made(in_place, "x").invoke({"x": x}))
same = made(lambda x: x, "x").invoke({"x": x})["y"]
x[:] = 7
assert same.tolist() == [1.0, 1.0]

# Ragged keys are not padded.
ragged = made(lambda x, mask: (x * mask).sum() / mask.sum(), "x", ragged=["x"])
assert ragged.invoke({"x": [1.0, 2.0, 3.0]}) == {"y": 2.0}
ragged.warmup({"x": [1.0]})

# In other edges.
over = {"batch_key": "xs", "out_key": "ys", "item_to_state": lambda x: {"x": x}, "result": "y"}
assert vmap(made(lambda x: x * 2, "x"), **over).invoke({"xs": [1.0, 2.0]}) == {"ys": [2.0, 4.0]}
found = vmap(made(lambda x: x * 2, "x"), **over, on_error="collect").invoke({"xs": [1.0, object()]})["ys"]
assert mahsm.is_item_error(found[1])
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    fused = fuse(
        made(lambda x: x + 1, "x", name="a"), jit_edge(lambda y: y * 2, in_keys=["y"], out_key="z", name="b")
    )
    fused.replace(lambda y: y * 100, step="b")
assert fused.invoke({"x": 1.0}) == {"z": 200.0}

# What needs JAX is refused when it is built.
for argument, options in {"device=": {"device": "cpu"}, "output='jax'": {"output": "jax"}}.items():
    refused(
        ImportError,
        f"{argument} needs JAX, which is not installed: pip install 'mahsm[jax]'",
        lambda options=options: jit_edge(lambda x: x, in_keys=["x"], out_key="y", **options),
    )
refused(
    ImportError,
    "seed_key= needs JAX",
    lambda: jit_edge(lambda x, *, key: x, in_keys=["x"], out_key="y", seed_key="seed"),
)
refused(
    ImportError,
    "mahsm.operators needs JAX and Equinox, which are not installed: pip install 'mahsm[jax]'",
    lambda: mahsm.Operator,
)

# The rest of the package does not need it.
total = reduce_edge(input_key="ys", output_key="total", reducer=sum)
assert total.invoke({"ys": [1, 2]}) == {"total": 3}
assert callable(connect)
print("fine")
