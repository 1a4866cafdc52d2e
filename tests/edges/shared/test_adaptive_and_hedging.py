"""Concurrency that is found out by 429s, second calls for stragglers, and bounds on retries."""

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from langchain_core.runnables import RunnableLambda

from mahsm import RateLimit, Retry, is_item_error, limits, vmap
from mahsm._waiting.slots import Slots
from mahsm.edges._shared.adaptive import Adaptive
from mahsm.errors import EdgeError
from mahsm.nodes._single_try import single_try
from mahsm.policies import Budget, Hedge, is_rate_limited
from mahsm.policies._hedge import Durations
from mahsm.policies._retry_budget import SAVED, RetryBudget, retry_budget
from mahsm.testing import ModelServer, Provider, Reply
from tests.helpers import MODES, Gauge, chat_model, run_edge

ASK = dspy.Predict("item -> answer")


def edge_of(target: Any, **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", "name": "edge", **options})


# adaptive


class TooMany(Exception):
    status_code = 429


async def until(happens: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happens() and time.monotonic() < end:  # noqa: ASYNC110  events are of one loop
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("mode", MODES)
def test_it_settles_at_what_the_provider_takes(mode: str) -> None:
    """The provider takes 20 at once."""
    gauge, lock = Gauge(), threading.Lock()
    seen: list[int] = []

    async def target(state: dict[str, Any]) -> int:
        with gauge.inside():
            with lock:
                seen.append(gauge.now)
            if gauge.now > 20:
                raise TooMany
            # A busy machine is slow to begin what may begin.
            await until(lambda: gauge.now >= 18, seconds=0.3)
            await asyncio.sleep(random.uniform(0.005, 0.015))
            return state["item"]

    edge = edge_of(target, adaptive=True, max_concurrency=200, retry=Retry(attempts=50, base=0.01, cap=0.05))
    assert run_edge(edge, range(800), mode) == list(range(800))
    late = sorted(seen[400:])
    assert 16 <= late[len(late) * 3 // 4] <= 21, "within 20 %"
    assert sum(now > 20 for now in seen) < 0.2 * len(seen)


def test_growth_and_cuts() -> None:
    slots = Slots(100)
    adaptive = Adaptive(slots, 2, 50)
    assert slots.free == 8
    adaptive.succeeded()
    assert adaptive.limit == 8, "nothing to be gained while slots are free"
    slots.try_acquire(8)
    for limit in (9, 10):
        adaptive.succeeded()
        assert (adaptive.limit, slots.free) == (limit, 1)
        slots.try_acquire(1)
    adaptive.limited(began=0)
    assert adaptive.limit == pytest.approx(9)
    adaptive.limited(began=0)
    assert adaptive.limit == pytest.approx(9), "one cut for the calls of one round"
    assert slots.free == -1
    slots.release()
    assert slots.try_acquire() == 0
    adaptive.succeeded()
    assert adaptive.limit == pytest.approx(9 + 4 / 9), "quickly, well below where the 429 came"
    adaptive.succeeded()
    assert adaptive.limit > 9.5
    before = adaptive.limit
    adaptive.succeeded()
    assert adaptive.limit == pytest.approx(before + 1 / before), "and then slowly"
    for cuts in range(1, 20):
        adaptive.limited(began=cuts)
    assert adaptive.limit == 2


def test_it_remembers_what_it_found() -> None:
    slots = Slots(100)
    assert Adaptive(slots, 1, 50, first=30.5).limit == 30.5
    assert slots.free == 30
    assert Adaptive(Slots(5), 1, 5, first=30).limit == 5


@pytest.mark.parametrize("mode", MODES)
def test_the_next_run_begins_where_the_last_one_ended(mode: str) -> None:
    gauge, together = Gauge(), 30

    async def target(state: dict[str, Any]) -> None:
        with gauge.inside():
            await until(lambda: gauge.most >= together, seconds=0.05 if together == 30 else 60)

    edge = edge_of(target, adaptive=(2, 30), max_concurrency=40, retry=Retry())
    for _ in range(50):  # a busy machine needs more than one
        run_edge(edge, range(150), mode)
        if gauge.most == 30:
            break
    gauge.most, together = 0, 25
    run_edge(edge, range(40), mode)
    assert gauge.most >= 25


@pytest.mark.parametrize("adaptive", [(0, 5), (5, 2), (1, 9), (1.0, 5), "yes", (1, 2, 3), [1, 2]])
def test_bounds_that_are_none(adaptive: Any) -> None:
    with pytest.raises(
        EdgeError,
        match=r"expected True, or the fewest and the most items at a time, with 1 <= .* max_concurrency=8",
    ):
        edge_of(str.upper, adaptive=adaptive, retry=Retry())


def test_it_needs_retries() -> None:
    with pytest.raises(
        EdgeError, match=r"adaptive=True finds its bound by 429s, and without retries.*are lost. Pass retry="
    ):
        edge_of(lambda state: None, adaptive=True)


def test_what_is_a_429() -> None:
    assert is_rate_limited(TooMany())
    assert is_rate_limited(dspy.LMRateLimitError("slow down"))
    assert not is_rate_limited(ValueError())
    assert not is_rate_limited(KeyboardInterrupt())


# hedge


class Straggler:
    """The first call of item 30 hangs until it is released."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.cancelled: list[int] = []
        self.release = threading.Event()
        self.lock = threading.Lock()

    def is_slow(self, item: int) -> bool:
        with self.lock:
            self.calls.append(item)
            return item == 30 and self.calls.count(30) == 1

    def __call__(self, state: dict[str, Any]) -> int:
        if self.is_slow(state["item"]):
            self.release.wait(30)
        return state["item"]

    async def later(self, state: dict[str, Any]) -> int:
        if self.is_slow(state["item"]):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.cancelled.append(state["item"])
                raise
        await asyncio.sleep(0.001)
        return state["item"]


@pytest.mark.parametrize("mode", MODES)
def test_a_straggler_is_started_once_more_and_the_first_answer_wins(mode: str) -> None:
    straggler = Straggler()
    edge = edge_of(straggler.later, hedge=Hedge(percentile=0.95, after=10), max_concurrency=4)
    assert run_edge(edge, range(40), mode) == list(range(40))
    assert straggler.calls.count(30) == 2
    assert straggler.cancelled == [30]


@pytest.mark.parametrize("mode", MODES)
def test_a_blocking_straggler_is_left_behind(mode: str) -> None:
    straggler = Straggler()
    try:
        edge = edge_of(straggler, hedge=Hedge(after=10), max_concurrency=4)
        assert run_edge(edge, range(40), mode) == list(range(40))
        assert straggler.calls.count(30) == 2
    finally:
        straggler.release.set()


@pytest.mark.parametrize("mode", MODES)
def test_if_both_fail_the_first_error_comes_out(mode: str) -> None:
    errors = iter(["first", "second"])
    second_has_failed = asyncio.Event()

    async def target(state: dict[str, Any]) -> int:
        if state["item"] == 30:
            error = next(errors)
            if error == "first":
                await second_has_failed.wait()
            second_has_failed.set()
            raise ValueError(error)
        return state["item"]

    with pytest.raises(ValueError, match="first"):
        run_edge(edge_of(target, hedge=Hedge(after=10), max_concurrency=2), range(40), mode)


@pytest.mark.parametrize("mode", MODES)
def test_an_error_before_it_is_late_is_just_an_error(mode: str) -> None:
    def target(state: dict[str, Any]) -> int:
        raise ValueError("at once")

    with pytest.raises(ValueError, match="at once"):
        run_edge(edge_of(target, hedge=Hedge()), range(5), mode)


@pytest.mark.parametrize("mode", MODES)
def test_the_second_call_waits_for_tokens_and_a_slot(mode: str) -> None:
    limits.forget("hedge-test")
    straggler, gauge = Straggler(), Gauge()

    async def target(state: dict[str, Any]) -> int:
        with gauge.inside():
            return await straggler.later(state)

    limit = RateLimit("hedge-test", rps=2000, burst=100)
    edge = edge_of(
        target, hedge=Hedge(after=10), max_concurrency=4, rate_limit=limit, budget=Budget(calls=1000)
    )
    assert run_edge(edge, range(40), mode) == list(range(40))
    assert gauge.most <= 4
    assert limits.stats()["hedge-test"].admitted == len(straggler.calls)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"percentile": 1}, "percentile=1"), ({"after": 0}, "after=0")]
)
def test_hedges_that_are_none(arguments: Any, message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        Hedge(**arguments)
    with pytest.raises(EdgeError, match=r"hedge=True; expected Hedge\(percentile=0.95\)"):
        edge_of(str.upper, hedge=True)


def test_patience_is_the_percentile() -> None:
    durations = Durations(Hedge(percentile=0.9, after=10))
    for seconds in range(9):
        durations.add(seconds)
    assert durations.patience is None
    durations.add(9)
    assert durations.patience == 9


# Retry budgets


@pytest.mark.parametrize("mode", MODES)
def test_a_provider_that_is_down_does_not_get_a_storm(mode: str) -> None:
    limits.forget("down")
    retry = Retry(attempts=5, base=0, cap=0)
    edge = edge_of(
        ASK,
        rate_limit=RateLimit("down", rps=10_000, burst=1000, retry=retry),
        on_error="collect",
        max_concurrency=16,
    )
    with ModelServer(Reply.failed(503)) as server, dspy.context(lm=server.lm()):
        run_edge(edge, range(150), mode)
        before = len(server.calls)
        ys = run_edge(edge, range(100), mode)
        assert len(server.calls) - before <= 1.2 * 100
    assert before <= 150 * 1.2 + SAVED
    assert all(map(is_item_error, ys))


@pytest.mark.parametrize("mode", MODES)
def test_a_provider_that_fails_sometimes_is_tried_until_it_answers(mode: str) -> None:
    limits.forget("openai")
    edge = edge_of(ASK, retry=Retry(attempts=30, base=0), max_concurrency=16, result="answer")
    with (
        Provider(failures=0.2, refusals=0.1, answer={"answer": "yes"}) as provider,
        dspy.context(lm=provider.lm()),
    ):
        assert run_edge(edge, range(300), mode) == ["yes"] * 300
        assert provider.report().calls <= 1.6 * 300


def test_a_note_says_why_an_item_is_not_tried_again() -> None:
    def fails(_: Any) -> None:
        raise ConnectionError("down")

    with pytest.raises(ConnectionError) as caught:
        run_edge(edge_of(fails, retry=Retry(attempts=1000, base=0)), [1], "sync")
    assert (
        "mahsm: not tried again, since too many calls fail; Retry(share=...) bounds the retries"
        in caught.value.__notes__
    )
    assert "mahsm: edge, item 0 of 1, attempt 101" in caught.value.__notes__


def test_what_calls_and_successes_earn() -> None:
    budget = RetryBudget()
    assert sum(budget.take() for _ in range(200)) == SAVED
    for _ in range(5):
        budget.call(0.2)
    assert budget.take()
    assert not budget.take()
    budget.success()
    assert budget.take()
    for _ in range(1000):
        budget.success()
    assert sum(budget.take() for _ in range(200)) == SAVED
    assert retry_budget("x") is retry_budget("x")
    assert retry_budget(None) is not retry_budget(None)


def test_without_a_bound_everything_is_tried() -> None:
    calls: list[int] = []

    def fails(state: dict[str, Any]) -> None:
        calls.append(state["item"])
        raise ConnectionError("down")

    run_edge(edge_of(fails, retry=Retry(attempts=3, base=0, share=None), on_error="drop"), range(100), "sync")
    assert len(calls) == 300
    with pytest.raises(EdgeError, match="share=-1"):
        Retry(share=-1)


# Retries of the clients themselves


@pytest.mark.parametrize("mode", MODES)
def test_dspys_own_retries_are_off_in_an_edge_that_retries(mode: str) -> None:
    own = dspy.Predict("item -> answer")
    with ModelServer(Reply.failed(503)) as server:
        own.lm = server.lm(num_retries=4)
        for module, lm in ((ASK, server.lm(num_retries=4)), (own, None)):
            before = len(server.calls)
            with dspy.context(lm=lm):
                run_edge(edge_of(module, retry=Retry(attempts=2, base=0), on_error="drop"), [1], mode)
            assert len(server.calls) - before == 2
        assert own.lm.num_retries == 4


@pytest.mark.parametrize("mode", MODES)
def test_so_are_those_of_chat_models(mode: str) -> None:
    prompt = RunnableLambda(lambda state: str(state["item"]))
    with ModelServer(Reply.failed(503)) as server:
        model = chat_model(server.base_url, max_retries=4)
        for chain in (prompt | model, prompt | model.with_retry(stop_after_attempt=3), prompt | {"a": model}):
            before = len(server.calls)
            run_edge(edge_of(chain, retry=Retry(attempts=2, base=0), on_error="drop"), [1], mode)
            assert len(server.calls) - before == 2
        assert model.max_retries == 4


def test_what_does_not_try_again_is_left_as_it_is() -> None:
    model = chat_model("http://127.0.0.1")
    chain = RunnableLambda(str) | model
    assert single_try(chain) is chain
    limiter = limits.langchain({"provider": "single-try", "rps": 10})
    again = chat_model("http://127.0.0.1", max_retries=None, temperature=0.5, rate_limiter=limiter)
    made = single_try(again)
    assert (made.max_retries, made.temperature, made.rate_limiter) == (0, 0.5, limiter)
