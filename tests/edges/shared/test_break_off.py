"""A run that breaks off: whatever has finished is saved, and nothing foreign is logged."""

import asyncio
import random
import threading
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from mahsm import Branch, parallel, vmap
from mahsm.reducers import majority_vote
from tests.helpers import MODES, BranchState, graph_of, logged, run, run_edge, thread
from tests.watchdog import ended

RUNS = 12


class Work:
    """Notes what has finished; one item fails until the work is repaired."""

    def __init__(self, fails: Any) -> None:
        self.fails = fails
        self.finished: list[Any] = []
        self.is_broken = True
        self.lock = threading.Lock()

    def done(self, item: Any) -> Any:
        if self.is_broken and item == self.fails:
            raise ValueError("down")
        with self.lock:
            self.finished.append(item)
        return item

    def target(self, mode: str) -> Any:
        async def later(state: dict[str, Any]) -> Any:
            await asyncio.sleep(0)
            return self.done(state["item"])

        return later if mode == "async" else lambda state: self.done(state["item"])


@pytest.mark.parametrize(
    ("chunk_size", "size", "bound"), [(None, 5, 1), (1, 5, 4), (None, 300, 4), (2, 40, 4), (1, 60, 8)]
)
@pytest.mark.parametrize("mode", MODES)
def test_items_that_had_finished_do_not_run_again(
    mode: str,
    chunk_size: Any,
    size: int,
    bound: int,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for number in range(RUNS):
        work = Work(random.Random(number).randrange(size))
        edge = vmap(
            work.target(mode), batch_key="xs", out_key="ys", max_concurrency=bound, chunk_size=chunk_size
        )
        graph = graph_of(edge, checkpointer=InMemorySaver())
        with pytest.raises(ValueError, match="down"):
            ended(lambda graph=graph: run(graph, {"xs": list(range(size))}, mode, thread()))
        work.is_broken = False
        assert ended(lambda graph=graph: run(graph, None, mode, thread()))["ys"] == list(range(size))
        assert sorted(work.finished) == list(range(size))
    assert not logged(caplog)
    assert "cannot schedule" not in capfd.readouterr().err


@pytest.mark.parametrize("mode", MODES)
def test_branches_that_had_finished_do_not_run_again(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(RUNS):
        work = Work("abcdef"[number % 6])

        def branch(key: str, *after: str, work: Work = work) -> Branch:
            return Branch(lambda _: {"log": [work.done(key)]}, name=key, after=after)

        tree = [
            branch("a"),
            branch("b"),
            branch("c", "a"),
            branch("d", "b"),
            branch("e", "c", "d"),
            branch("f", "a"),
        ]
        edge = parallel(tree, scheduler="wave", eager=bool(number % 2), merge=lambda state, updates: {})
        graph = graph_of(edge, state=BranchState, checkpointer=InMemorySaver())
        with pytest.raises(ValueError, match="down"):
            ended(lambda graph=graph: run(graph, {"text": ""}, mode, thread()))
        work.is_broken = False
        ended(lambda graph=graph: run(graph, None, mode, thread()))
        assert sorted(work.finished) == list("abcdef")
    assert not logged(caplog)


@pytest.mark.parametrize("mode", MODES)
def test_rows_of_rows_that_had_finished_do_not_run_again(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(RUNS):
        work = Work(7 + number)
        inner = vmap(work.target(mode), batch_key="row", out_key="ys", chunk_size=2, max_concurrency=3)
        outer = vmap(
            inner,
            batch_key="xs",
            out_key="ys",
            item_to_state=lambda row: {"row": row},
            result="ys",
            max_concurrency=2,
        )
        graph = graph_of(outer, checkpointer=InMemorySaver())
        rows = [list(range(lo, lo + 6)) for lo in range(0, 30, 6)]
        with pytest.raises(ValueError, match="down"):
            ended(lambda graph=graph, rows=rows: run(graph, {"xs": rows}, mode, thread()))
        work.is_broken = False
        assert ended(lambda graph=graph: run(graph, None, mode, thread()))["ys"] == rows
        assert sorted(work.finished) == list(range(30))
    assert not logged(caplog)


@pytest.mark.parametrize("mode", MODES)
def test_an_error_waits_for_what_else_has_begun(mode: str) -> None:
    """A blocking call cannot be stopped; under `invoke` its result is kept."""
    begun, failed = threading.Event(), threading.Event()
    calls: list[int] = []

    def target(state: dict[str, Any]) -> int:
        calls.append(state["item"])
        if state["item"] == 1 and len(calls) <= 2:
            assert begun.wait(10)
            failed.set()
            raise ValueError("down")
        begun.set()
        assert failed.wait(10)
        return state["item"]

    graph = graph_of(
        vmap(target, batch_key="xs", out_key="ys", max_concurrency=2, chunk_size=1),
        checkpointer=InMemorySaver(),
    )
    with pytest.raises(ValueError, match="down"):
        ended(lambda: run(graph, {"xs": [0, 1, 2]}, "sync", thread()))
    assert ended(lambda: run(graph, None, mode, thread()))["ys"] == [0, 1, 2]
    assert calls.count(0) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_decision_counts_equal_items_as_often_as_there_are(mode: str) -> None:
    others = threading.Event()

    def target(state: dict[str, Any]) -> str:
        if state["item"] == 1:
            assert others.wait(10)
            return "yes"
        if state["item"] == 3:
            others.set()
        return "no"

    edge = vmap(
        target,
        batch_key="xs",
        out_key="ys",
        dedupe_key=lambda x: x,
        stop_when=majority_vote,
        max_concurrency=3,
    )
    ys = ended(lambda: run_edge(edge, [1, 1, 1, 1, 2, 3], mode))
    assert ys.count("yes") == 4
    assert majority_vote(ys) == "yes"


@pytest.mark.parametrize("chunk_size", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_an_error_in_a_later_wave_comes_out(mode: str, chunk_size: int) -> None:
    work = Work(256 * chunk_size + 100)
    size = 256 * chunk_size + 200
    edge = vmap(work.target(mode), batch_key="xs", out_key="ys", chunk_size=chunk_size, max_concurrency=8)
    graph = graph_of(edge, checkpointer=InMemorySaver())
    with pytest.raises(ValueError, match="down"):
        ended(lambda: run(graph, {"xs": list(range(size))}, mode, thread()))
    work.is_broken = False
    assert ended(lambda: run(graph, None, mode, thread()))["ys"] == list(range(size))
    assert sorted(work.finished) == list(range(size))
