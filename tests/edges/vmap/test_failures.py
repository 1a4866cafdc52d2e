"""What becomes of items that fail, take too long, or are cancelled."""

import asyncio
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy

from mahsm import Retry, is_item_error, vmap
from mahsm.errors import TooFewSucceeded
from tests.helpers import MODES, DictState, graph_of, run, run_edge, thread
from tests.watchdog import ended


class ProviderError(Exception):
    """An exception type of a user."""


def odd_fails(state: dict[str, Any]) -> int:
    if state["item"] % 2:
        raise ProviderError(f"no answer for {state['item']}")
    return state["item"]


async def odd_fails_async(state: dict[str, Any]) -> int:
    return odd_fails(state)


TARGETS = (odd_fails, odd_fails_async)


def edge_of(target: Any = odd_fails, **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", "name": "edge", **options})


@pytest.mark.parametrize("size", [3, 300])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", TARGETS)
def test_the_original_error_comes_out_with_a_note(target: Any, mode: str, size: int) -> None:
    xs = [0, 1, *[2] * (size - 2)]
    with pytest.raises(ProviderError, match="no answer for 1") as caught:
        run(graph_of(edge_of(target)), {"xs": xs}, mode)
    assert type(caught.value) is ProviderError
    ours = [note for note in caught.value.__notes__ if "mahsm" in note]
    assert ours == [f"mahsm: edge, item 1 of {size}, attempt 1"]
    assert len(caught.value.__notes__) <= 3, "LangGraph adds one for the task and one for the node"


def test_the_error_keeps_its_cause() -> None:
    def caused(_: Any) -> None:
        raise ProviderError("late") from ConnectionError("reset")

    for mode in MODES:
        with pytest.raises(ProviderError) as caught:
            run_edge(edge_of(caused), [1], mode)
        assert isinstance(caught.value.__cause__, ConnectionError)


@pytest.mark.parametrize("mode", MODES)
def test_langgraphs_retry_policy_matches_the_original_type(mode: str) -> None:
    calls: list[int] = []

    def fails_once(state: dict[str, Any]) -> int:
        calls.append(state["item"])
        if len(calls) == 1:
            raise ProviderError("once")
        return state["item"]

    builder = StateGraph(DictState)
    policy = RetryPolicy(retry_on=ProviderError, initial_interval=0.001, jitter=False)
    builder.add_node("edge", edge_of(fails_once), retry_policy=policy)
    builder.add_edge(START, "edge")
    assert run(builder.compile(), {"xs": [1, 2]}, mode)["ys"] == [1, 2]


@pytest.mark.parametrize("size", [4, 300])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", TARGETS)
def test_collect_leaves_an_item_error_in_the_slot(target: Any, mode: str, size: int) -> None:
    ys = run_edge(edge_of(target, on_error="collect"), range(size), mode)
    assert [y for y in ys if not is_item_error(y)] == list(range(0, size, 2))
    assert ys[1] == {
        "edge": "edge",
        "index": 1,
        "key": "1",
        "type": "tests.edges.vmap.test_failures.ProviderError",
        "message": "no answer for 1",
        "attempts": 1,
    }


@pytest.mark.parametrize("size", [4, 300])
@pytest.mark.parametrize("mode", MODES)
def test_drop_leaves_the_item_out_and_errors_key_gets_it(mode: str, size: int) -> None:
    edge = edge_of(on_error="drop", errors_key="errors")
    result = run(edge, {"xs": range(size)}, mode)
    assert result["ys"] == list(range(0, size, 2))
    assert [error["index"] for error in result["errors"]] == list(range(1, size, 2))


@pytest.mark.parametrize("mode", MODES)
def test_errors_of_overlay_and_result_are_the_items_own(mode: str) -> None:
    overlay = edge_of(lambda s: s["x"], item_to_state=lambda d: {"x": d["x"]}, on_error="collect")
    ys = run_edge(overlay, [{"x": 1}, {"y": 2}], mode)
    assert ys[0] == 1
    assert ys[1]["type"] == "KeyError"
    result = edge_of(lambda s: {"y": s["item"]}, result=lambda update: 1 / update["y"], on_error="collect")
    assert run_edge(result, [0, 2], mode)[0]["type"] == "ZeroDivisionError"


@pytest.mark.parametrize(("least", "works"), [(2, True), (3, False), (0.5, True), (0.6, False), (5, False)])
@pytest.mark.parametrize("mode", MODES)
def test_min_success(mode: str, least: float, works: bool) -> None:
    edge = edge_of(on_error="drop", min_success=least, max_concurrency=1)
    if works:
        assert run_edge(edge, range(4), mode) == [0, 2]
        return
    with pytest.raises(
        TooFewSucceeded, match=rf"of 4 items failed, and min_success={least} cannot be reached"
    ):
        run_edge(edge, range(4), mode)


@pytest.mark.parametrize("mode", MODES)
def test_min_success_stops_as_soon_as_it_cannot_be_reached(mode: str) -> None:
    calls: list[int] = []

    def fails(state: dict[str, Any]) -> None:
        calls.append(state["item"])
        raise ProviderError("down")

    with pytest.raises(TooFewSucceeded) as caught:
        run_edge(edge_of(fails, on_error="collect", min_success=0.9, max_concurrency=1), range(500), mode)
    assert isinstance(caught.value.__cause__, ProviderError)
    assert len(calls) == 51


@pytest.mark.parametrize("mode", MODES)
def test_an_error_stops_what_has_not_begun(mode: str) -> None:
    calls: list[int] = []

    def first_fails(state: dict[str, Any]) -> None:
        calls.append(state["item"])
        raise ProviderError("down")

    with pytest.raises(ProviderError):
        run_edge(edge_of(first_fails, max_concurrency=2), range(500), mode)
    assert len(calls) <= 2


# Checkpointers. The default serialiser logs a warning for types it does not know, so a logged warning fails
# the test.


def collected_with(saver: Any) -> Any:
    graph = graph_of(edge_of(on_error="collect", errors_key="errors"), checkpointer=saver)
    graph.invoke({"xs": [0, 1]}, thread())
    return graph.get_state(thread()).values


@pytest.mark.parametrize("strict", [False, True])
def test_item_error_survives_in_memory(strict: bool, caplog: pytest.LogCaptureFixture) -> None:
    serde = JsonPlusSerializer(allowed_msgpack_modules=None) if strict else JsonPlusSerializer()
    values = collected_with(InMemorySaver(serde=serde))
    assert is_item_error(values["ys"][1])
    assert values["errors"] == [values["ys"][1]]
    assert not caplog.records


def test_item_error_survives_sqlite(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with SqliteSaver.from_conn_string(str(tmp_path / "db")) as saver:
        values = collected_with(saver)
    assert is_item_error(values["ys"][1])
    assert not caplog.records


async def test_item_error_survives_async_sqlite(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "db")) as saver:
        graph = graph_of(edge_of(on_error="collect"), checkpointer=saver)
        await graph.ainvoke({"xs": [0, 1]}, thread())
        values = (await graph.aget_state(thread())).values
    assert is_item_error(values["ys"][1])
    assert not caplog.records


@pytest.mark.parametrize("mode", MODES)
def test_after_an_error_only_what_was_not_finished_runs_again(mode: str) -> None:
    calls: list[int] = []
    broken = True

    def sometimes(state: dict[str, Any]) -> int:
        calls.append(state["item"])
        if broken and state["item"] == 3:
            raise ProviderError("down")
        return state["item"]

    graph = graph_of(edge_of(sometimes, max_concurrency=1), checkpointer=InMemorySaver())
    with pytest.raises(ProviderError):
        run(graph, {"xs": [0, 1, 2, 3, 4]}, mode, thread())
    broken = False
    assert run(graph, None, mode, thread())["ys"] == [0, 1, 2, 3, 4]
    assert calls == [0, 1, 2, 3, 3, 4]


# Time.


async def test_timeout_cancels_an_async_target() -> None:
    cancelled: list[int] = []

    async def stuck(state: dict[str, Any]) -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(state["item"])
            raise
        return 0

    ys = (await edge_of(stuck, timeout=0.02, on_error="collect").ainvoke({"xs": [7]}))["ys"]
    assert (ys[0]["type"], ys[0]["message"]) == ("TimeoutError", "took longer than 0.02 s")
    assert cancelled == [7]


@pytest.mark.parametrize("mode", MODES)
def test_timeout_reports_a_blocking_target_and_leaves_its_thread(mode: str, no_threads_left: None) -> None:
    go_on = threading.Event()
    went_on = threading.Event()

    def stuck(state: dict[str, Any]) -> int:
        if state["item"] == 0:
            go_on.wait(30)
            went_on.set()
        return state["item"]

    ys = run_edge(edge_of(stuck, timeout=0.05, on_error="collect", max_concurrency=1), [0, 1, 2], mode)
    assert ys[0]["message"] == "took longer than 0.05 s"
    assert ys[1:] == [1, 2]
    go_on.set()
    assert went_on.wait(10)


def test_timeout_under_invoke_cancels_an_async_target() -> None:
    cancelled = threading.Event()

    async def stuck(_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError, match=r"took longer than 0\.02 s"):
        edge_of(stuck, timeout=0.02).invoke({"xs": [1]})
    assert cancelled.wait(10)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("blocking", [True, False])
def test_a_timeout_of_the_targets_own_is_its_own(mode: str, blocking: bool) -> None:
    def slow(_: Any) -> None:
        raise TimeoutError("the socket")

    async def slow_async(_: Any) -> None:
        raise TimeoutError("the socket")

    with pytest.raises(TimeoutError, match="the socket"):
        run_edge(edge_of(slow if blocking else slow_async, timeout=10), [1], mode)


# Cancellation.


@pytest.mark.parametrize("size", [4, 300])
async def test_cancelling_the_run_cancels_its_items_and_leaves_nothing(
    size: int, no_threads_left: None
) -> None:
    begun = asyncio.Event()
    cancelled: list[int] = []

    async def stuck(state: dict[str, Any]) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(state["item"])
            raise

    before = asyncio.all_tasks()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            graph_of(edge_of(stuck, max_concurrency=3)).ainvoke({"xs": list(range(size))})
        )
        await begun.wait()
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()
    assert sorted(cancelled) == [0, 1, 2]
    while left := asyncio.all_tasks() - before:  # LangGraph's own tasks take a moment
        await asyncio.wait(left, timeout=5)


async def test_cancelling_the_run_does_not_wait_for_blocking_targets(no_threads_left: None) -> None:
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    calls: list[int] = []

    def stuck(state: dict[str, Any]) -> None:
        calls.append(state["item"])
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(30)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(graph_of(edge_of(stuck, max_concurrency=1)).ainvoke({"xs": list(range(5))}))
        await begun.wait()
        task.cancel()
    assert task.cancelled()
    go_on.set()
    assert calls == [0]


async def test_cancelling_a_run_of_nested_edges_leaves_nothing(no_threads_left: None) -> None:
    begun = asyncio.Event()
    cancelled: list[int] = []

    async def stuck(state: dict[str, Any]) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(state["item"])

    outer = edge_of(vmap(stuck, batch_key="item", out_key="ys"), max_concurrency=2)
    before = asyncio.all_tasks()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(graph_of(outer).ainvoke({"xs": [[1, 2], [3, 4]]}))
        await begun.wait()
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()
    assert 1 <= len(cancelled) <= 2
    while left := asyncio.all_tasks() - before:
        await asyncio.wait(left, timeout=5)


CTRL_C = """
import signal, sys, threading, time
from mahsm import vmap

# A process that a shell began in the background ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
calls = 0

def work(state):
    global calls
    calls += 1
    sys.stdout.write("begun\\n")
    sys.stdout.flush()
    time.sleep(0.05)

try:
    vmap(work, batch_key="xs", out_key="ys", max_concurrency=2).invoke({"xs": range(SIZE)})
except KeyboardInterrupt:
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    left = [thread.name for thread in others if not thread.daemon]
    print("stopped", calls < SIZE, left, flush=True)
"""


@pytest.mark.parametrize("size", [100, 1000])
def test_ctrl_c_ends_a_synchronous_run(size: int) -> None:
    code = CTRL_C.replace("SIZE", str(size))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=30)
    assert printed.splitlines()[-1] == "stopped True []"


@pytest.mark.parametrize("size", [2, 300])
@pytest.mark.parametrize("mode", MODES)
def test_an_error_cancels_async_items_that_run(mode: str, size: int, no_threads_left: None) -> None:
    begun = threading.Event()
    cancelled: list[int] = []

    async def target(state: dict[str, Any]) -> None:
        if state["item"]:
            assert await asyncio.to_thread(begun.wait, 10)
            raise ProviderError("down")
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(state["item"])
            raise

    with pytest.raises(ProviderError) as caught:
        run_edge(edge_of(target, max_concurrency=2), range(size), mode)
    assert len([note for note in caught.value.__notes__ if "mahsm" in note]) == 1
    assert cancelled == [0]


class Ladder:
    """An edge inside an edge: item 0 fails once the items of item 1 are under way."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.calls = 0
        self.inner = vmap(self.step, batch_key="row", out_key="ys", max_concurrency=1)

    def step(self, state: dict[str, Any]) -> None:
        self.calls += 1
        self.begun.set()
        threading.Event().wait(0.01)

    def __call__(self, state: dict[str, Any]) -> None:
        if state["item"] == 0:
            assert self.begun.wait(10)
            raise ProviderError("down")
        self.inner.invoke({"row": range(1000)})


@pytest.mark.parametrize("size", [2, 300])
@pytest.mark.parametrize("mode", MODES)
def test_an_error_stops_the_edges_inside_other_items(mode: str, size: int, no_threads_left: None) -> None:
    ladder = Ladder()
    with pytest.raises(ProviderError) as caught:
        run_edge(edge_of(ladder, max_concurrency=2, chunk_size=1), range(size), mode)
    assert ladder.calls < 100
    assert len([note for note in caught.value.__notes__ if "mahsm" in note]) == 1


async def test_cancelling_a_run_stops_the_edges_inside_blocking_items(no_threads_left: None) -> None:
    ladder = Ladder()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(edge_of(ladder).ainvoke({"xs": [1]}))
        await asyncio.to_thread(ladder.begun.wait, 10)
        task.cancel()
    assert task.cancelled()
    calls = ladder.calls
    assert calls < 100


@pytest.mark.parametrize("mode", MODES)
def test_a_target_that_is_cancelled_from_inside_is_a_failure_and_not_lost(mode: str) -> None:
    async def cancels_itself(state: dict[str, Any]) -> int:
        if state["item"] == 1:
            raise asyncio.CancelledError("by a client library")
        return state["item"]

    ys = run_edge(edge_of(cancels_itself, on_error="collect"), range(300), mode)
    assert ys[1]["type"].endswith("CancelledError")
    assert [ys[0], *ys[2:]] == [0, *range(2, 300)]


async def test_a_target_that_cancels_its_own_task_is_a_failure_and_not_lost() -> None:
    async def cancels_its_task(state: dict[str, Any]) -> int:
        if state["item"] == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        return state["item"]

    edge = edge_of(cancels_its_task, on_error="collect")
    ys = (await edge.ainvoke({"xs": range(300)}))["ys"]
    assert ys[1]["message"] == "the target cancelled its own task"
    assert [ys[0], *ys[2:]] == [0, *range(2, 300)]


@pytest.mark.parametrize("options", [{}, {"timeout": 30}, {"retry": Retry(attempts=2, base=0)}], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_an_exhausted_iterator_is_an_error_like_others(mode: str, options: Any) -> None:
    def target(state: Any) -> Any:
        return next(iter(state["item"]))

    edge = vmap(target, batch_key="xs", out_key="ys", on_error="collect", **options)
    first, second = ended(lambda: run(edge, {"xs": [[], [1]]}, mode))["ys"]
    assert (first["type"], second) == ("RuntimeError", 1)
    assert "StopIteration" in first["message"]
