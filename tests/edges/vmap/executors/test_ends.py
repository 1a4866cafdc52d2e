"""A process that is killed leaves no worker behind, and its run is resumed; traces go on in workers."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mahsm import tracing, vmap
from mahsm.testing import LangfuseServer
from tests.edges.vmap.executors import targets
from tests.helpers import MODES, run

pytestmark = pytest.mark.slow

PARENT = """
import sys
from pathlib import Path
from mahsm import vmap
from tests.edges.vmap.executors import targets
from tests.helpers import MODES, run

if __name__ == "__main__":
    edge = vmap(targets.waits, batch_key="xs", out_key="ys", executor="process", max_concurrency=2)
    edge.invoke({"xs": [1, 2], "mark": sys.argv[1]})
"""


UNGUARDED = """
from mahsm import vmap

def double(state):
    return state["item"] * 2

print(vmap(double, batch_key="xs", out_key="ys", executor="process").invoke({"xs": list(range(1000))}))
"""


@pytest.mark.parametrize("is_file", [True, False])
def test_a_program_whose_workers_cannot_begin_ends_and_says_why(tmp_path: Path, is_file: bool) -> None:
    (tmp_path / "program.py").write_text(UNGUARDED)
    ended = subprocess.run(
        [sys.executable, *([tmp_path / "program.py"] if is_file else [])],
        input=None if is_file else UNGUARDED,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert ended.returncode == 1
    assert "If the workers could not begin, their error is on stderr: put" in ended.stderr


NESTED = """
from mahsm import vmap
from tests.edges.vmap.executors import targets

if __name__ == "__main__":
    edge = vmap(targets.fans_out, batch_key="xs", out_key="ys", executor="process", max_concurrency=1)
    print(edge.invoke({"xs": [1, 2]})["ys"])
"""


def test_a_worker_that_has_workers_ends(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(NESTED)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    found = subprocess.check_output([sys.executable, tmp_path / "program.py"], env=environment, text=True)
    assert found == "[[2], [4]]\n"


class Stuck(Executor):
    """Has no worker, and waits for one."""

    max_workers = 1

    def submit(self, *_: Any, **__: Any) -> "Future[Any]":
        return Future()


@pytest.mark.parametrize("mode", MODES)
def test_a_deadline_ends_a_wait_for_workers(mode: str) -> None:
    edge = vmap(targets.double, batch_key="xs", out_key="ys", executor=Stuck(), deadline=0.1)
    with pytest.raises(TimeoutError, match=r"the deadline of 0\.1 s is over"):
        run(edge, {"xs": [1, 2]}, mode)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def test_a_parent_that_is_killed_leaves_no_worker(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen([sys.executable, tmp_path / "parent.py", str(tmp_path)], env=environment) as parent:
        pids = tmp_path / "pids"
        while not pids.exists() or not pids.read_text().strip():
            assert parent.poll() is None
            time.sleep(0.05)
        parent.send_signal(signal.SIGKILL)
    left = [int(pid) for pid in pids.read_text().split()]
    while any(map(is_alive, left)):  # the test's timeout says if they never end
        time.sleep(0.05)


def test_spans_of_workers_are_in_the_trace_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    with LangfuseServer() as server:
        for name, value in {"PUBLIC_KEY": "pk-elsewhere", "SECRET_KEY": "sk", "BASE_URL": server.url}.items():
            monkeypatch.setenv(f"LANGFUSE_{name}", value)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            edge = vmap(targets.process, batch_key="xs", out_key="ys", name="edge", executor=pool)
            tracing.init()
            try:
                with tracing.span("caller"):
                    found = edge.invoke({"xs": [1, 2, 3]})["ys"]
                tracing.flush()
            finally:
                tracing.off()
        assert os.getpid() not in found
        assert len({span.trace_id for span in server.spans}) == 1
        names = Counter(each["name"] for each in server.observations)
    assert names["caller"] == 1
    assert names["vmap:edge"] == 2, "the run here, and its part in a worker"
    assert names["process"] == 3
