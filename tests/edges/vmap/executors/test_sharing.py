"""What the workers of an edge share: the bound on items at a time, the program, the code of modules."""

import importlib
import multiprocessing
import sys
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mahsm import vmap
from mahsm.edges._vmap.executors.processes import Processes
from mahsm.errors import EdgeError
from tests.edges.vmap.executors import targets

pytestmark = pytest.mark.slow


def edge_of(target: Any, engine: Any, **options: Any) -> Any:
    return vmap(target, batch_key="xs", out_key="ys", executor=engine, **options)


def test_fewer_items_at_a_time_than_workers(engine: Any, tmp_path: Path) -> None:
    edge = edge_of(targets.together, engine, max_concurrency=1)
    assert max(edge.invoke({"xs": list(range(30)), "mark": str(tmp_path)})["ys"]) == 1


class Noting(Executor):
    """Notes the bytes of what a pool is sent."""

    max_workers = 2

    def __init__(self, pool: Executor) -> None:
        self.pool, self.sent = pool, list[int]()

    def submit(self, fn: Any, /, *args: Any, **_: Any) -> "Future[Any]":
        self.sent.append(sum(len(one) for one in args if isinstance(one, bytes)))
        return self.pool.submit(fn, *args)


def test_a_large_program_is_sent_to_each_worker_and_not_with_each_part(pool: Executor) -> None:
    data, noting = bytes(10**6), Noting(pool)
    edge = edge_of(lambda state: len(data) + state["item"], noting, max_concurrency=2)
    assert edge.invoke({"xs": list(range(300))})["ys"] == [10**6 + n for n in range(300)]
    assert len(noting.sent) > 20
    assert sum(noting.sent) < 8 * 10**6


def test_a_worker_that_has_older_code_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "changing_code.py"
    source.write_text("def f(state): return 'old'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        module = importlib.import_module("changing_code")
        try:
            edge = edge_of(module.f, pool)
            assert edge.invoke({"xs": [1]})["ys"] == ["old"]
            source.write_text("def f(state): return 'newer'\n")
            assert edge.invoke({"xs": [1]})["ys"] == ["old"]
            importlib.reload(module)
            with pytest.raises(EdgeError, match="the source of the module 'changing_code' differs"):
                edge_of(module.f, pool).invoke({"xs": [1]})
        finally:
            del sys.modules["changing_code"]


def test_a_process_that_ends_does_not_wait_for_a_submit() -> None:
    processes, ended = Processes(1), threading.Event()
    try:
        first = processes.submit(int)
        with processes._lock:  # as a submit that waits for the pool
            first.add_done_callback(lambda _: ended.set())
            assert ended.wait(300)
    finally:
        processes.close()


def test_parts_of_large_items_are_small(pool: Executor) -> None:
    noting = Noting(pool)
    edge = edge_of(targets.length, noting, max_concurrency=8)
    assert edge.invoke({"xs": [bytes([n]) * 10**6 for n in range(40)]})["ys"] == [10**6] * 40
    assert max(noting.sent) < 9 * 10**6
