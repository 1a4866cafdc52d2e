"""Ending a `vmap` before all its items have been called: what is decided, too late, the same as another one,
or known."""

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver

from mahsm import is_item_error, parallel, vmap
from mahsm._waiting import tasks
from mahsm.edges._shared.reducer import decider
from mahsm.errors import EdgeError, StateError, TooFewSucceeded
from mahsm.reducers import majority_vote
from tests.helpers import MODES, graph_of, run, run_edge, thread


def edge_of(target: Any = lambda state: state["item"], **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", "name": "edge", **options})


class Counted:
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, state: dict[str, Any]) -> Any:
        self.calls.append(state["item"])
        return state["item"]

    async def later(self, state: dict[str, Any]) -> Any:
        await asyncio.sleep(0)
        return self(state)


# stop_when


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_a_majority_that_cannot_be_caught_up_ends_it(mode: str, blocks: bool) -> None:
    counted = Counted()
    edge = edge_of(counted if blocks else counted.later, stop_when=majority_vote, max_concurrency=8)
    ys = run_edge(edge, ["yes"] * 101, mode)
    assert 51 <= len(counted.calls) <= 51 + 8
    assert 51 <= len(ys) <= len(counted.calls)
    assert majority_vote(ys) == "yes"


@pytest.mark.parametrize("mode", MODES)
def test_a_majority_of_a_part(mode: str) -> None:
    def target(state: dict[str, Any]) -> dict[str, Any]:
        return {"answer": 4, "reason": state["item"]}

    ys = run_edge(edge_of(target, stop_when=majority_vote(key="answer"), max_concurrency=1), range(9), mode)
    assert len(ys) == 5


@pytest.mark.parametrize("mode", MODES)
def test_a_function_of_the_entries_so_far(mode: str) -> None:
    edge = edge_of(stop_when=lambda entries: len(entries) >= 3, max_concurrency=1)
    ys = run_edge(edge, range(50), mode)
    assert len(ys) == 3
    assert ys == sorted(ys)
    never = edge_of(stop_when=lambda entries: False)
    assert run_edge(never, range(50), mode) == list(range(50))


@pytest.mark.parametrize("mode", MODES)
def test_what_still_runs_is_cancelled(mode: str) -> None:
    cancelled: list[int] = []

    async def target(state: dict[str, Any]) -> int:
        if state["item"] != 3:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancelled.append(state["item"])
                raise
        return state["item"]

    edge = edge_of(target, stop_when=lambda entries: True, max_concurrency=8)
    assert run_edge(edge, range(100), mode) == [3]
    assert set(cancelled) <= {0, 1, 2, 4, 5, 6, 7}
    assert len(cancelled) >= 3, "those that had begun"


@pytest.mark.parametrize("mode", MODES)
def test_edges_inside_are_cancelled_too(mode: str) -> None:
    async def target(state: dict[str, Any]) -> int:
        if state["item"] != 7:
            await asyncio.sleep(3600)
        return state["item"]

    inner = vmap(target, batch_key="items", out_key="ys", name="inner")
    outer = edge_of(inner, item_to_state=lambda x: {"items": x}, stop_when=lambda entries: True, result="ys")
    assert run_edge(outer, [[1, 2], [7], [3]], mode) == [[7]]


@pytest.mark.parametrize("mode", MODES)
def test_failures_do_not_vote(mode: str) -> None:
    def target(state: dict[str, Any]) -> str:
        if state["item"] < 4:
            raise ValueError("no vote")
        return "yes"

    edge = edge_of(target, stop_when=majority_vote, on_error="collect", max_concurrency=1)
    ys = run_edge(edge, range(9), mode)
    assert sum(map(is_item_error, ys)) == 4
    assert len(ys) == 9, "five votes of nine decide"


@pytest.mark.parametrize("mode", MODES)
def test_it_survives_a_resume(mode: str) -> None:
    graph = graph_of(
        edge_of(stop_when=lambda entries: len(entries) >= 3, max_concurrency=1), checkpointer=InMemorySaver()
    )
    ys = run(graph, {"xs": list(range(9))}, mode, thread())["ys"]
    assert len(ys) == 3
    assert graph.get_state(thread()).values["ys"] == ys


@settings(max_examples=200)
@given(votes=st.lists(st.sampled_from("abc"), min_size=1, max_size=15))
def test_an_early_majority_is_the_majority(votes: list[str]) -> None:
    add = decider(majority_vote, len(votes))
    for place, vote in enumerate(votes):
        if add(vote):
            assert majority_vote(votes[: place + 1]) == majority_vote(votes)
            assert majority_vote(votes[place + 1 :] + votes[: place + 1]) == majority_vote(votes), (
                "no tie decides"
            )
            return


# deadline


@pytest.mark.parametrize("mode", MODES)
def test_after_the_deadline_nothing_begins_and_nothing_runs_on(mode: str) -> None:
    async def target(state: dict[str, Any]) -> int:
        if state["item"] >= 4:
            await asyncio.sleep(3600)
        return state["item"]

    edge = edge_of(target, deadline=0.2, on_error="collect", max_concurrency=4)
    ys = run_edge(edge, range(20), mode)
    assert ys[:4] == [0, 1, 2, 3]
    assert {y["message"] for y in ys[4:]} == {"edge: the deadline of 0.2 s is over"}
    assert {y["type"] for y in ys[4:]} == {"TimeoutError"}
    with pytest.raises(TimeoutError, match=r"edge: the deadline of 0.2 s is over"):
        run_edge(edge_of(target, deadline=0.2), range(20), mode)


@pytest.mark.parametrize("mode", MODES)
def test_blocking_calls_are_left_behind_at_the_deadline(mode: str) -> None:
    release = threading.Event()
    try:
        edge = edge_of(lambda state: release.wait(30), deadline=0.1, on_error="drop")
        began = time.monotonic()
        assert run_edge(edge, range(9), mode) == []
        assert time.monotonic() - began < 10
    finally:
        release.set()


@pytest.fixture
def no_timers() -> Iterator[None]:
    """The loop that ends runs when their time is up is busy, and comes too late."""
    release = threading.Event()
    tasks.limits_loop().call_soon_threadsafe(release.wait)
    yield
    release.set()


@pytest.mark.usefixtures("no_timers")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("blocks", [True, False])
def test_nothing_begins_after_the_deadline_before_the_run_has_heard_of_it(mode: str, *, blocks: bool) -> None:
    begun: list[int] = []
    release = threading.Event()

    def blocking(state: dict[str, Any]) -> None:
        begun.append(state["item"])
        release.wait()

    async def waiting(state: dict[str, Any]) -> None:
        begun.append(state["item"])
        await asyncio.Event().wait()

    edge = edge_of(blocking if blocks else waiting, deadline=0.5, on_error="collect", max_concurrency=2)
    try:
        ys = run_edge(edge, range(20), mode)
    finally:
        release.set()
    assert set(begun) <= {0, 1}  # two threads begin in any order
    assert {(y["message"], y["attempts"]) for y in ys[2:]} == {("edge: the deadline of 0.5 s is over", 0)}


def test_a_step_that_takes_too_long_ends_a_run_that_is_awaited() -> None:
    calls: list[int] = []

    async def waits(state: dict[str, Any]) -> int:
        calls.append(state["item"])
        if state["item"] and len(calls) == 2:
            await asyncio.Event().wait()
        return state["item"]

    graph = graph_of(edge_of(waits, max_concurrency=1), checkpointer=InMemorySaver())
    graph.step_timeout = 1
    with pytest.raises(TimeoutError):
        run(graph, {"xs": [0, 1, 2]}, "async", thread())
    graph.step_timeout = None
    assert run(graph, None, "async", thread())["ys"] == [0, 1, 2]
    assert calls == [0, 1, 1, 2]


def test_a_run_that_blocks_is_told_nothing_of_a_step_that_takes_too_long() -> None:
    calls: list[int] = []

    def slow(state: dict[str, Any]) -> int:
        calls.append(state["item"])
        time.sleep(0.1)
        return state["item"]

    graph = graph_of(edge_of(slow, max_concurrency=1), checkpointer=InMemorySaver())
    graph.step_timeout = 0.05
    with pytest.raises(TimeoutError):
        graph.invoke({"xs": [0, 1, 2]}, thread())
    graph.step_timeout = None
    assert graph.invoke(None, thread())["ys"] == [0, 1, 2]
    assert calls == [0, 1, 2]


@pytest.mark.parametrize("mode", MODES)
def test_a_deadline_ends_a_step_before_it_takes_too_long(mode: str) -> None:
    async def target(state: dict[str, Any]) -> int:
        if state["item"]:
            await asyncio.Event().wait()
        return state["item"]

    graph = graph_of(edge_of(target, deadline=0.5, on_error="drop"))
    graph.step_timeout = 60
    assert run(graph, {"xs": range(20)}, mode)["ys"] == [0]


@pytest.mark.parametrize("mode", MODES)
def test_an_items_own_timeout_comes_first(mode: str) -> None:
    async def slow(_: Any) -> None:
        await asyncio.sleep(3600)

    with pytest.raises(TimeoutError, match=r"took longer than 0.05 s"):
        run_edge(edge_of(slow, deadline=60, timeout=0.05), [1], mode)


def test_deadlines_that_are_none() -> None:
    with pytest.raises(EdgeError, match=r"deadline=0; expected seconds > 0"):
        edge_of(deadline=0)


# dedupe_key


@pytest.mark.parametrize("mode", MODES)
def test_equal_items_run_once(mode: str) -> None:
    counted = Counted()
    edge = edge_of(counted, dedupe_key=str.lower)
    assert run_edge(edge, ["a", "B", "A", "b", "a"], mode) == ["a", "B", "a", "B", "a"]
    assert sorted(counted.calls) == ["B", "a"]


@pytest.mark.parametrize("mode", MODES)
def test_a_failure_counts_for_all_that_equal_it(mode: str) -> None:
    def target(state: dict[str, Any]) -> str:
        if state["item"] == "bad":
            raise ValueError("bad")
        return state["item"]

    edge = edge_of(target, dedupe_key=str, on_error="collect", errors_key="errors")
    update = run(edge, {"xs": ["good", "bad", "good", "bad"]}, mode)
    assert [y if isinstance(y, str) else y["index"] for y in update["ys"]] == ["good", 1, "good", 3]
    assert [error["index"] for error in update["errors"]] == [1, 3]
    with pytest.raises(TooFewSucceeded, match="2 of 4 items failed"):
        run_edge(
            edge_of(target, dedupe_key=str, on_error="drop", min_success=3),
            ["good", "bad", "good", "bad"],
            mode,
        )


def test_keys_that_cannot_be_compared() -> None:
    with pytest.raises(
        StateError,
        match=r"edge: dedupe_key returned \[1\] for item 0, which is not hashable. Return a string",
    ):
        run_edge(edge_of(dedupe_key=lambda x: [x]), [1], "sync")
    with pytest.raises(EdgeError, match=r"dedupe_key='id' cannot be called; expected a function"):
        edge_of(dedupe_key="id")


# cache


@pytest.mark.parametrize("mode", MODES)
def test_what_is_in_the_cache_is_not_called(mode: str, cache: Any) -> None:
    counted = Counted()
    edge = edge_of(counted, cache=cache)
    assert run_edge(edge, [1, 2, 3], mode) == [1, 2, 3]
    assert run_edge(edge, [2, 3, 4], mode) == [2, 3, 4]
    assert sorted(counted.calls) == [1, 2, 3, 4]
    assert run_edge(edge_of(counted, cache=cache, name="another"), [1], mode) == [1]
    assert sorted(counted.calls) == [1, 1, 2, 3, 4]


@pytest.mark.parametrize("mode", MODES)
def test_the_key_of_the_cache_is_that_of_the_item(mode: str) -> None:
    counted, cache = Counted(), InMemoryCache()
    by_id = edge_of(counted, cache=cache, dedupe_key=lambda item: item["id"])
    run_edge(by_id, [{"id": 1, "seen": "today"}], mode)
    run_edge(by_id, [{"id": 1, "seen": "tomorrow"}], mode)
    assert len(counted.calls) == 1
    by_state = edge_of(counted, cache=cache, item_to_state=lambda item: {"item": item["id"]}, name="by_state")
    run_edge(by_state, [{"id": 1, "seen": "today"}], mode)
    run_edge(by_state, [{"id": 1, "seen": "tomorrow"}], mode)
    assert counted.calls[1:] == [1]


@pytest.mark.parametrize("mode", MODES)
def test_a_whole_batch_from_the_cache(mode: str) -> None:
    counted, cache = Counted(), InMemoryCache()
    edge = edge_of(counted, cache=cache, result=lambda update: update * 10)
    assert run_edge(edge, [1, 2], mode) == [10, 20]
    again = edge_of(
        counted, cache=cache, result=lambda update: -update, stop_when=lambda entries: len(entries) == 2
    )
    assert run_edge(again, [1, 2], mode) == [-1, -2], "the update is kept, and not the entry"
    assert len(counted.calls) == 2


@pytest.mark.parametrize("mode", MODES)
def test_failures_are_not_kept(mode: str) -> None:
    tries = itertools.count()

    def target(state: dict[str, Any]) -> int:
        if next(tries) == 0:
            raise ValueError("first")
        return state["item"]

    edge = edge_of(target, cache=InMemoryCache(), on_error="drop")
    assert run_edge(edge, [1], mode) == []
    assert run_edge(edge, [1], mode) == [1]


def test_a_cache_is_langgraphs() -> None:
    with pytest.raises(EdgeError, match=r"cache=\{\}; expected a LangGraph cache, such as InMemoryCache\(\)"):
        edge_of(cache={})


@pytest.mark.parametrize("kind", ["vmap", "parallel"])
@pytest.mark.parametrize("mode", MODES)
def test_nothing_begins_when_a_deadline_has_cut_off_what_ran(mode: str, kind: str) -> None:
    """The call that is cut off leaves its slot before, or after, the edge hears of its deadline."""
    begun: list[int] = []

    async def hangs(state: dict[str, Any]) -> None:
        begun.append(1)
        await asyncio.Event().wait()

    if kind == "vmap":
        edge = vmap(hangs, batch_key="xs", out_key="ys", max_concurrency=1, deadline=0.01, on_error="drop")
    else:
        branches = {f"branch{number}": hangs for number in range(20)}
        edge = parallel(
            branches, scheduler="sequential", timeout=0.01, on_error="isolate", errors_key="errors"
        )
    for _ in range(30):
        begun.clear()
        run(edge, {"xs": range(20)}, mode)
        assert len(begun) <= 1
