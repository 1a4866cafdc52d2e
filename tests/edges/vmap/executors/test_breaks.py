"""What a run that breaks off keeps, and leaves behind."""

import pickle
from collections import Counter
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from mahsm import is_item_error, vmap
from mahsm.edges._vmap.executors.marks import marked, remove_mark
from mahsm.edges._vmap.executors.worker import Part, run_part
from tests.edges.vmap.executors import targets
from tests.helpers import MODES, graph_of, run, thread

pytestmark = pytest.mark.slow


class State(TypedDict, total=False):
    xs: Any
    ys: Any
    mark: str


@pytest.mark.parametrize("mode", MODES)
def test_calls_in_progress_are_saved_when_another_item_fails(engine: Any, mode: str, tmp_path: Path) -> None:
    edge = vmap(
        targets.ends_after_a_failure,
        batch_key="xs",
        out_key="ys",
        executor=engine,
        max_concurrency=2,
        chunk_size=1,
    )
    graph = graph_of(edge, state=State, checkpointer=InMemorySaver())
    with pytest.raises(ConnectionError):
        run(graph, {"xs": [0, 1], "mark": str(tmp_path)}, mode, thread())
    assert run(graph, None, mode, thread())["ys"] == [0, 1]
    assert Counter((tmp_path / "calls").read_text().split()) == {"0": 1, "1": 2}


@pytest.mark.parametrize("target", [targets.exits, targets.exits_later])
@pytest.mark.parametrize("mode", MODES)
def test_an_exit_in_a_target_is_one_here(engine: Any, target: Any, mode: str) -> None:
    edge = vmap(target, batch_key="xs", out_key="ys", executor=engine)
    with pytest.raises(SystemExit, match="5"):
        run(edge, {"xs": [1, 2]}, mode)


class Half(Executor):
    """Runs the first part, and never ends another one."""

    max_workers = 2

    def __init__(self) -> None:
        self.parts = 0

    def submit(self, fn: Any, /, *args: Any, **_: Any) -> "Future[Any]":
        self.parts += 1
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        if self.parts == 1:
            future.set_result(fn(*args))
        return future


@pytest.mark.parametrize("mode", MODES)
def test_a_deadline_ends_the_wait_for_calls_in_progress_after_a_failure(mode: str) -> None:
    edge = vmap(
        targets.answers_with_a_status,
        batch_key="xs",
        out_key="ys",
        executor=Half(),
        deadline=0.5,
        chunk_size=1,
    )
    graph = graph_of(edge, state=State, checkpointer=InMemorySaver())
    with pytest.raises((targets.Status, TimeoutError)):
        run(graph, {"xs": list(range(20))}, mode, thread())


class Early(Executor):
    """Has a clock that is before that of the edge."""

    max_workers = 1

    def submit(self, fn: Any, /, *args: Any, **_: Any) -> "Future[Any]":
        part = Part(*pickle.loads(args[-1]))
        future: Future[Any] = Future()
        future.set_result(run_part(*args[:-1], pickle.dumps(tuple(part._replace(seconds=0.05)))))
        return future


def test_a_deadline_that_a_worker_reaches_first_is_that_of_the_edge() -> None:
    edge = vmap(
        targets.process,
        batch_key="xs",
        out_key="ys",
        executor=Early(),
        deadline=600,
        on_error="collect",
        max_concurrency=50,
    )
    found = [one for one in edge.invoke({"xs": list(range(500))})["ys"] if is_item_error(one)]
    assert found
    assert {one["message"] for one in found} == {"vmap_process: the deadline of 600 s is over"}


def test_the_mark_of_a_part_tells_the_next_worker() -> None:
    with marked("example") as is_again, marked("example") as is_after_a_death:
        assert (is_again, is_after_a_death) == (False, True)
        with marked("example"):
            pass
        with marked("example") as is_after_an_end:
            assert not is_after_an_end
            remove_mark("example")
    with marked("") as is_marked:
        assert not is_marked
