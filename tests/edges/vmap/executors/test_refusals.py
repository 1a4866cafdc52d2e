"""What cannot run in other processes is refused when the edge is made, with what to do."""

import importlib
import multiprocessing
import pickle
import sys
import threading
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from langgraph.runtime import Runtime
from langgraph.types import StreamWriter
from pydantic import SecretStr

from mahsm import jit_edge, vmap
from mahsm.edges._vmap.executors import crossing
from mahsm.edges._vmap.executors.worker import run_part
from mahsm.errors import EdgeError
from tests.edges.vmap.executors import targets


def edge_of(target: Any, executor: Any = "process", **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", "executor": executor, **options})


def with_runtime(state: dict[str, Any], runtime: Runtime[Any]) -> None: ...


def with_writer(state: dict[str, Any], writer: StreamWriter) -> None: ...


lock = threading.Lock()
secret = SecretStr("sk-secret")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (with_runtime, "takes runtime, which belong"),
        (with_writer, "takes writer, which belong"),
        (targets.asks, r"calls interrupt\(\)"),
        (targets.graph, r"the compiled graph or edge 'doubles'.*'package.module:graph'"),
        (vmap(targets.double, batch_key="a", out_key="b"), "the compiled graph or edge 'vmap_double'"),
        (lambda state: lock.locked(), "cannot be sent to workers: TypeError: cannot pickle '_thread.lock'"),
        (lambda state: secret.get_secret_value(), "the target holds a secret"),
        (lambda state: targets.graph.invoke(state), None),
        (jit_edge(jnp.sin, in_keys=["item"], out_key="y"), "executor= with a jit_edge"),
        ("tests.edges.vmap.executors.targets:nothing", "cannot be imported: .*'nothing'"),
        ("nothing", "expected 'package.module:name'"),
    ],
)
def test_targets(target: Any, message: str | None) -> None:
    if message is None:  # by the name of its module
        edge_of(target)
        return
    with pytest.raises(EdgeError, match=message):
        edge_of(target)


def test_a_closure_over_a_compiled_graph() -> None:
    graph = targets.graph
    with pytest.raises(EdgeError, match="the target holds the compiled graph or edge 'doubles'"):
        edge_of(lambda state: graph.invoke(state))


def test_a_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_API_KEY", key := "sk-example-0123456789")
    with pytest.raises(EdgeError, match="holds the value of EXAMPLE_API_KEY") as refused:
        edge_of(lambda state: key)
    assert key not in str(refused.value)


class Unknown(Executor):
    """Does not say how many workers it has."""


@pytest.mark.parametrize(
    ("executor", "message"),
    [
        ("threads", "executor='threads'; expected a distributed.Client"),
        (8, "executor=8; expected a distributed.Client"),
        (Unknown(), "does not say how many workers it has"),
    ],
)
def test_executors(executor: Any, message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        edge_of(targets.double, executor)


def test_a_pool_that_forks() -> None:
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool,
        pytest.raises(EdgeError, match=r"executor= forks its processes.*get_context\('spawn'\)"),
    ):
        edge_of(targets.double, pool)


def refusal(theirs: dict[str, str], modules: dict[str, str]) -> str:
    return pickle.loads(run_part(theirs, modules, "d", b"program", b"")).refusal


def test_other_versions_and_modules_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = crossing.versions()
    assert refusal({**mine, "mahsm": "0.1"}, {}) == (
        f"a worker has mahsm {mine['mahsm']} and not 0.1. Install the same versions on all machines."
    )
    assert "a worker cannot import 'no_such_module'" in refusal(mine, {"no_such_module": "x"})
    (tmp_path / "ours_here.py").write_text("def f(state): return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("ours_here")
    try:
        assert crossing.digest_of(module)
        assert "the source of the module 'ours_here' differs" in refusal(mine, {"ours_here": "other"})
        _, modules = crossing.packed("edge", module.f)
        assert modules == {"ours_here": crossing.digest_of(module)}
    finally:
        del sys.modules["ours_here"]
