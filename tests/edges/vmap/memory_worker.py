"""Prints how much memory a batch takes in slices, besides what goes in and what comes out, as a multiple of a
slice."""

import resource

import numpy as np

from mahsm import jit_edge, vmap

SLICE = 20
ITEM = np.dtype("f4").itemsize * 2_500_000


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


edge = vmap(
    jit_edge(lambda x: (x * 2).mean(), in_keys=["x"], out_key="y"),
    batch_key="xs",
    out_key="ys",
    item_to_state=lambda x: {"x": x},
    result="y",
    batch_size=SLICE,
)
edge.invoke({"xs": [np.ones(2, np.float32)] * 3})  # so that JAX has started
xs = [np.full(ITEM // 4, number, np.float32) for number in range(3 * SLICE)]
before = peak()
assert edge.invoke({"xs": xs})["ys"] == [2.0 * number for number in range(3 * SLICE)]
print((peak() - before) / (SLICE * ITEM))
