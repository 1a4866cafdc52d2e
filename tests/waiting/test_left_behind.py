"""Calls that nobody waits for any more: nothing further is done for them, and they are not too many."""

import asyncio
import threading
import time
from functools import partial
from typing import Any

import dspy
import pytest

import mahsm
from mahsm import Branch, RateLimit, Retry, is_item_error, limits, parallel, vmap
from mahsm._waiting.left_behind import LeftBehind, OwnCall
from mahsm._waiting.slots import Closed
from mahsm.errors import TooManyHanging
from mahsm.policies import Hedge
from mahsm.testing import FakeLM
from tests.helpers import MODES, run, run_edge

ITEMS = 24
LAST = ITEMS - 1


def edge_of(target: Any, **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", "name": "edge", **options})


def wait_until(condition: Any) -> None:
    """Wait for something that other threads do."""
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.001)


# A second call that waits in line.


class Late:
    """The first call of the last item goes on until a second one waits for tokens, and then ends as it is
    told to."""

    def __init__(self, provider: str, error: Exception | None) -> None:
        self.provider = provider
        self.error = error
        self.calls: list[int] = []

    def __call__(self, state: dict[str, Any]) -> int:
        self.calls.append(state["item"])
        if state["item"] == LAST:
            wait_until(lambda: limits.stats()[self.provider].waiting)
            if self.error is not None:
                raise self.error
        return state["item"]

    async def later(self, state: dict[str, Any]) -> int:
        return await asyncio.to_thread(self, state)


@pytest.mark.usefixtures("no_threads_left")
@pytest.mark.parametrize("error", [None, ValueError("failed")])
@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_a_second_call_that_waits_for_tokens_is_not_made_after_the_first_has_ended(
    mode: str, blocks: bool, error: Exception | None, name: str
) -> None:
    late = Late(name, error)
    limit = RateLimit(name, rps=0.01, burst=ITEMS)
    target = late if blocks else late.later
    edge = edge_of(target, hedge=Hedge(after=10), max_concurrency=1, rate_limit=limit, on_error="collect")
    ys = run_edge(edge, range(ITEMS), mode)
    assert ys[:LAST] == list(range(LAST))
    assert ys[LAST] == LAST if error is None else ys[LAST]["message"] == "failed"
    wait_until(lambda: not limits.stats()[name].waiting)
    assert sorted(late.calls) == list(range(ITEMS))
    assert limits.stats()[name].admitted == ITEMS


@pytest.mark.usefixtures("no_threads_left")
@pytest.mark.parametrize("mode", MODES)
def test_a_second_call_that_waits_for_a_slot_is_not_made_after_the_first_has_ended(mode: str) -> None:
    calls: list[int] = []
    waits = threading.Event()

    def target(state: dict[str, Any]) -> int:
        calls.append(state["item"])
        if state["item"] == LAST:
            waits.wait(0.2)  # there is one slot, which this call holds: the second one can only wait for it
        return state["item"]

    edge = edge_of(target, hedge=Hedge(after=10), max_concurrency=1)
    assert run_edge(edge, range(ITEMS), mode) == list(range(ITEMS))
    assert calls == list(range(ITEMS))


# A call that is inside of a blocking target.


class Stuck:
    """The first call of the last item hangs until it is released, and then wants more."""

    def __init__(self, further: Any) -> None:
        self.further = further
        self.release = threading.Event()
        self.ends: list[Any] = []
        self.seen = 0

    def __call__(self, state: dict[str, Any]) -> int:
        if state["item"] == LAST:
            self.seen += 1
            if self.seen == 1:
                self.release.wait(30)
                try:
                    self.ends.append(self.further())
                except Exception as closed:  # noqa: BLE001  the test looks
                    self.ends.append(closed)
        return state["item"]


@pytest.mark.usefixtures("no_threads_left")
@pytest.mark.parametrize("options", [{"hedge": Hedge(after=10)}, {"timeout": 0.3, "on_error": "drop"}])
@pytest.mark.parametrize("mode", MODES)
def test_a_call_that_was_left_behind_calls_no_model_and_takes_no_tokens(
    mode: str, options: Any, name: str
) -> None:
    lm = FakeLM({"answer": "late"})
    limit = RateLimit(name, rps=1000, burst=1000)

    def admitted() -> None:
        with limits.admit(name):
            pass

    def an_edge() -> Any:
        return edge_of(lambda state: state["item"], name="inner").invoke({"xs": [1, 2]})

    def chat() -> Any:
        return limits.langchain(name).acquire()

    for further in (lambda: dspy.Predict("question -> answer")(question="?"), admitted, an_edge, chat):
        stuck = Stuck(further)
        edge = edge_of(stuck, max_concurrency=4, rate_limit=limit, **options)
        with dspy.context(lm=lm), mahsm.usage() as used:
            ys = run_edge(edge, range(ITEMS), mode)
        assert ys[:LAST] == list(range(LAST))
        admissions = limits.stats()[name].admitted
        stuck.release.set()
        wait_until(partial(len, stuck.ends))
        assert isinstance(stuck.ends[0], Closed | RuntimeError)  # of an edge the reason comes out
        assert used.calls == 0
        assert lm.calls == []
        assert limits.stats()[name].admitted == admissions


# Not too many.


@pytest.mark.usefixtures("no_threads_left")
@pytest.mark.parametrize("policy", ["collect", "drop", "raise"])
@pytest.mark.parametrize("mode", MODES)
def test_calls_that_hang_are_bounded(mode: str, policy: Any) -> None:
    release, lock = threading.Event(), threading.Lock()
    calls: list[int] = []

    def target(state: dict[str, Any]) -> None:
        with lock:
            calls.append(state["item"])
        release.wait(60)

    try:
        edge = edge_of(
            target,
            timeout=0.01,
            max_concurrency=8,
            on_error=policy,
            retry=Retry(base=0, share=None, attempts=1000),
        )
        with pytest.raises(
            TooManyHanging, match=r"edge: \d+ blocking calls .* at most 32 may. Give the client a timeout"
        ):
            run_edge(edge, range(1000), mode)
        assert 24 < len(calls) <= 32
    finally:
        release.set()


@pytest.mark.usefixtures("no_threads_left")
@pytest.mark.parametrize("mode", MODES)
def test_branches_that_hang_are_bounded(mode: str) -> None:
    release = threading.Event()
    calls: list[int] = []

    def hangs(state: dict[str, Any]) -> None:
        calls.append(1)
        release.wait(60)

    try:
        branch = Branch(hangs, timeout=0.01, retry=Retry(base=0, share=None, attempts=1000))
        with pytest.raises(TooManyHanging, match=r"a: 32 blocking calls"):
            run(parallel({"a": branch}, on_error="isolate", name="parallel"), {}, mode)
        assert len(calls) == 32
    finally:
        release.set()


@pytest.mark.usefixtures("no_threads_left")
@pytest.mark.parametrize("mode", MODES)
def test_calls_that_are_slow_but_end_are_not_too_many(mode: str) -> None:
    ends = threading.Semaphore(0)
    begun = threading.Semaphore(0)

    def target(state: dict[str, Any]) -> None:
        begun.release()
        ends.acquire(timeout=30)

    def end_the_oldest() -> None:
        for number in range(100):
            begun.acquire(timeout=30)
            if number >= 16:
                ends.release()
        for _ in range(16):
            ends.release()

    helper = threading.Thread(target=end_the_oldest)
    helper.start()
    edge = edge_of(target, timeout=0.02, max_concurrency=4, on_error="collect")
    ys = run_edge(edge, range(100), mode)
    helper.join()
    assert sum(is_item_error(y) and y["type"] == "TimeoutError" for y in ys) >= 16


def test_a_call_that_ends_frees_its_place() -> None:
    left = LeftBehind(8)
    assert (left.most, LeftBehind(100).most) == (32, 400)
    call = OwnCall(left)
    with call.running():
        call.leave(RuntimeError("late"))
        call.leave(RuntimeError("again"))
        assert left.count == 1
    assert left.count == 0
    call.leave(RuntimeError("too late"))
    assert left.count == 0
    call = OwnCall(left)
    call.leave(RuntimeError("before it began"))
    assert left.count == 0
    with call.running():
        assert left.count == 1
    assert left.count == 0


# Notes on an exception that many items share.


@pytest.mark.parametrize("mode", MODES)
def test_notes_of_a_shared_exception_do_not_grow(mode: str) -> None:
    shared = ValueError("one for all")

    def target(state: dict[str, Any]) -> None:
        raise shared

    ys = run_edge(edge_of(target, on_error="collect", max_concurrency=1), range(300), mode)
    assert len(ys) == 300
    assert shared.__notes__[0] == "mahsm: edge, item 0 of 300, attempt 1"
    assert len(shared.__notes__) == 6
    assert shared.__notes__[5] == "mahsm: the same exception was noted more often; further notes are left out"


def test_a_call_that_ends_after_its_race_stops_nothing_else() -> None:
    """Each call is hedged at once; the later of two answers comes when the item is over, or tries again."""

    async def target(state: dict[str, Any]) -> int:
        for _ in range(state["item"] % 3):
            await asyncio.sleep(0)
        if state["item"] == 2:
            raise ConnectionError("down")
        return state["item"]

    for _ in range(60):
        edge = edge_of(
            target, hedge=Hedge(percentile=0.9, after=1), retry=Retry(attempts=2, base=0, share=None)
        )
        with pytest.raises(ConnectionError, match="down"):
            run_edge(edge, range(20), "sync")
