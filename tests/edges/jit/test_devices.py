"""`jit_edge` on several devices."""

import subprocess
import sys
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from mahsm import jit_edge, vmap
from mahsm.errors import EdgeError


@pytest.mark.timeout(1200)
def test_results_on_a_mesh_of_four_devices_are_equal() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.edges.jit.devices_worker"],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert (done.returncode, done.stdout) == (0, "{CpuDevice(id=2)}\n"), done.stderr


def test_a_mesh_of_one_device() -> None:
    mesh = Mesh(np.array(jax.devices("cpu")[:1]), ("data",))
    edge = jit_edge(
        lambda docs, by: docs * by, in_keys=["docs", "by"], out_key="y", device=mesh, shard="docs"
    )
    state = {"docs": {"rows": np.ones((3, 2)), "scale": 2.0, "name": "a"}, "by": 3.0}
    several = jit_edge(
        lambda docs, by: docs["rows"] * docs["scale"] * by,
        in_keys=["docs", "by"],
        out_key="y",
        device=mesh,
        shard="docs",
    )
    assert several.invoke(state)["y"].tolist() == [[6.0, 6.0]] * 3
    assert edge.invoke({"docs": np.ones(2), "by": 3.0})["y"].tolist() == [3.0, 3.0]
    over = vmap(edge, batch_key="xs", out_key="ys", item_to_state=lambda x: {"by": x}, result="y")
    assert over.invoke({"xs": [1.0, 2.0, 3.0], "docs": np.ones(2)})["ys"][2].tolist() == [3.0, 3.0]
    items = vmap(edge, batch_key="xs", out_key="ys", item_to_state=lambda x: {"docs": x, "by": 1.0})
    with pytest.raises(
        EdgeError, match="shard='docs' is a key of the items; expected a key that all items share"
    ):
        items.invoke({"xs": [np.ones(2)]})


class Corpus(eqx.Module):
    docs: Any

    def __call__(self, query: Any) -> Any:
        return self.docs @ query


def test_a_field_of_a_module_is_spread() -> None:
    mesh = Mesh(np.array(jax.devices("cpu")[:1]), ("data",))
    edge = jit_edge(Corpus(np.eye(3)), in_keys=["query"], out_key="y", device=mesh, shard="docs")
    assert edge.invoke({"query": [1.0, 2.0, 3.0]})["y"].tolist() == [1.0, 2.0, 3.0]
