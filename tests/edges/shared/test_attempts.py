"""Trying failed items again: what is worth it, how long to wait, and what becomes of the slot meanwhile."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import dspy
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, RetryPolicy, interrupt

from mahsm import Retry, vmap
from mahsm.errors import EdgeError
from mahsm.policies import is_retryable, retry_after
from mahsm.testing import ModelServer, Reply
from tests.helpers import MODES, Gauge, graph_of, run, run_edge, thread


def edge_of(target: Any, **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", "name": "edge", **options})


class Flaky:
    """Fails the first `times` attempts of each item."""

    def __init__(self, times: int, error: type[Exception] = ConnectionError) -> None:
        self.times = times
        self.error = error
        self.calls: list[int] = []

    def __call__(self, state: dict[str, Any]) -> int:
        self.calls.append(state["item"])
        if self.calls.count(state["item"]) <= self.times:
            raise self.error("down")
        return state["item"]

    async def later(self, state: dict[str, Any]) -> int:
        return self(state)


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("size", [3, 40])
@pytest.mark.parametrize("mode", MODES)
def test_tries_again_until_it_succeeds(mode: str, size: int, blocks: bool) -> None:
    flaky = Flaky(times=2)
    edge = edge_of(flaky if blocks else flaky.later, retry=Retry(attempts=3, base=0))
    assert run_edge(edge, range(size), mode) == list(range(size))
    assert len(flaky.calls) == 3 * size


@pytest.mark.parametrize("mode", MODES)
def test_gives_up_with_the_original_error_and_the_number_of_attempts(mode: str) -> None:
    retry = Retry(attempts=3, base=0)
    with pytest.raises(ConnectionError, match="down") as caught:
        run_edge(edge_of(Flaky(times=9), retry=retry), [1], mode)
    assert "mahsm: edge, item 0 of 1, attempt 3" in caught.value.__notes__
    ys = run_edge(edge_of(Flaky(times=9), retry=retry, on_error="collect"), [1, 2], mode)
    assert [y["attempts"] for y in ys] == [3, 3]


@pytest.mark.parametrize("mode", MODES)
def test_what_is_not_worth_it_is_not_tried_again(mode: str) -> None:
    flaky = Flaky(times=1, error=ValueError)
    with pytest.raises(ValueError, match="down"):
        run_edge(edge_of(flaky, retry=Retry(base=0)), [1], mode)
    assert flaky.calls == [1]


@pytest.mark.parametrize("on", [ValueError, (KeyError, ValueError), lambda error: "down" in str(error)])
def test_on_says_what_is(on: Any) -> None:
    assert run_edge(edge_of(Flaky(1, ValueError), retry=Retry(base=0, on=on)), [1], "sync") == [1]
    with pytest.raises(ConnectionAbortedError):
        run_edge(edge_of(Flaky(1, ConnectionAbortedError), retry=Retry(base=0, on=LookupError)), [1], "sync")


@pytest.mark.parametrize("retry_on", [ConnectionError, [ConnectionError], lambda _: True])
@pytest.mark.parametrize("mode", MODES)
def test_langgraphs_policy_works_for_items(mode: str, retry_on: Any) -> None:
    flaky = Flaky(times=1)
    policy = RetryPolicy(initial_interval=0.0, max_attempts=2, retry_on=retry_on)
    assert run_edge(edge_of(flaky, retry=policy), [1, 2], mode) == [1, 2]
    assert len(flaky.calls) == 4, "only the failed item is tried again, not the node"


@pytest.mark.parametrize("mode", MODES)
def test_the_slot_is_free_while_an_item_waits(mode: str) -> None:
    second_ran = threading.Event()
    order: list[int] = []

    def target(state: dict[str, Any]) -> int:
        order.append(state["item"])
        if state["item"] == order[0] and not second_ran.is_set():
            raise ConnectionError("down")
        second_ran.set()
        return state["item"]

    retry = Retry(base=0.05, jitter=False, attempts=100, factor=1)
    assert run_edge(edge_of(target, retry=retry, max_concurrency=1), [0, 1], mode) == [0, 1]
    assert order in ([0, 1, 0], [1, 0, 1]), "whichever thread was first"


@pytest.mark.parametrize("mode", MODES)
def test_no_more_calls_at_once_than_without_retries(mode: str) -> None:
    gauge, flaky = Gauge(), Flaky(times=1)

    def target(state: dict[str, Any]) -> int:
        with gauge.inside():
            threading.Event().wait(0.001)
            return flaky(state)

    run_edge(edge_of(target, retry=Retry(base=0), max_concurrency=2), range(20), mode)
    assert gauge.most == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_stopped_run_does_not_wait_for_the_next_attempt(mode: str) -> None:
    waiting = threading.Event()

    def target(state: dict[str, Any]) -> None:
        if state["item"] == 0:
            waiting.set()
            raise ConnectionError("try again in an hour")
        assert waiting.wait(10)
        raise ValueError("over")

    with pytest.raises(ValueError, match="over"):
        run_edge(edge_of(target, retry=Retry(base=3600, cap=3600, jitter=False)), [0, 1], mode)


async def test_cancelled_while_it_waits() -> None:
    begun = asyncio.Event()

    async def target(_: Any) -> None:
        begun.set()
        raise ConnectionError("down")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            edge_of(target, retry=Retry(base=3600, cap=3600, jitter=False)).ainvoke({"xs": [1]})
        )
        await begun.wait()
        task.cancel()
    assert task.cancelled()


@pytest.mark.parametrize("mode", MODES)
def test_timeout_of_all_attempts(mode: str) -> None:
    flaky = Flaky(times=99)
    with pytest.raises(ConnectionError):
        run_edge(edge_of(flaky, retry=Retry(attempts=99, base=10, jitter=False, timeout=0.5)), [1], mode)
    assert flaky.calls == [1], "the wait would end after the timeout"


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupt_is_never_tried_again(mode: str) -> None:
    calls: list[int] = []

    def ask(state: dict[str, Any]) -> str:
        calls.append(state["item"])
        return interrupt("?")

    graph = graph_of(
        edge_of(ask, chunk_size=1, retry=Retry(base=0, on=Exception)), checkpointer=InMemorySaver()
    )
    assert "__interrupt__" in run(graph, {"xs": [1]}, mode, thread())
    assert run(graph, Command(resume="yes"), mode, thread())["ys"] == ["yes"]
    assert len(calls) == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_provider_that_limits_the_rate_over_http(mode: str) -> None:
    answers = [Reply.rate_limited(retry_after=0.01), Reply.failed(503), {"answer": "yes"}]
    edge = edge_of(dspy.Predict("item -> answer"), result="answer", retry=Retry(base=0, attempts=3))
    with ModelServer(answers) as server, dspy.context(lm=server.lm()):
        assert run_edge(edge, ["?"], mode) == ["yes"]
    assert [call.status for call in server.calls] == [429, 503, 200]


@given(attempt=st.integers(1, 10_000), base=st.floats(0, 10), cap=st.floats(10, 100), factor=st.floats(1, 4))
def test_the_wait_is_full_jitter(attempt: int, base: float, cap: float, factor: float) -> None:
    wait = Retry(base=base, cap=cap, factor=factor).wait(attempt, None)
    ceiling = Retry(base=base, cap=cap, factor=factor, jitter=False).wait(attempt, None)
    assert 0 <= wait <= ceiling <= cap


def test_the_ceiling_doubles_up_to_the_cap() -> None:
    retry = Retry(base=1, cap=5, jitter=False)
    assert [retry.wait(attempt, None) for attempt in (1, 2, 3, 4, 5)] == [1, 2, 4, 5, 5]


def with_response(status: int, headers: dict[str, str] | None = None) -> Exception:
    response = httpx.Response(status, headers=headers, request=httpx.Request("GET", "http://127.0.0.1"))
    return httpx.HTTPStatusError("status", request=response.request, response=response)


def test_retry_after_is_a_floor() -> None:
    retry = Retry(base=0)
    assert retry.wait(1, with_response(429, {"Retry-After": "7"})) == 7
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 50 < retry.wait(1, with_response(503, {"Retry-After": date})) <= 60
    assert retry_after(with_response(503, {"Retry-After": "soon"})) is None
    assert retry_after(with_response(503)) is None


class Api(Exception):
    def __init__(self, status_code: int | None = None, code: str | None = None) -> None:
        self.status_code = status_code
        self.code = code


@pytest.mark.parametrize(
    ("error", "worth_it"),
    [
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (httpx.ReadTimeout("slow"), True),
        (httpx.ConnectError("refused"), True),
        *[(with_response(status), True) for status in (408, 409, 425, 429, 500, 503, 529)],
        *[(Api(status), False) for status in (400, 401, 403, 404, 422)],
        (Api(429, "insufficient_quota"), False),
        (Api(500, "context_length_exceeded"), False),
        (dspy.LMRateLimitError("slow down"), True),
        (dspy.LMAuthError("no key"), False),
        (ValueError(), False),
        (KeyError("x"), False),
    ],
    ids=repr,
)
def test_what_is_retryable(error: Exception, worth_it: bool) -> None:
    assert is_retryable(error) is worth_it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, r"attempts=0; expected an integer >= 1"),
        ({"attempts": True}, r"attempts=True; expected"),
        ({"base": -1}, r"base=-1 and cap=30\.0; expected seconds, 0 <= base <= cap"),
        ({"base": 40}, r"base=40 and cap=30\.0; expected"),
        ({"timeout": 0}, r"timeout=0; expected seconds > 0"),
        ({"factor": 0.5}, r"factor=0\.5; expected a number >= 1"),
    ],
)
def test_values_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        Retry(**options)


def test_retry_must_be_a_policy() -> None:
    with pytest.raises(
        EdgeError, match=r"^vmap 'edge': retry=3; expected Retry\(attempts=3\), or LangGraph's RetryPolicy"
    ):
        edge_of(len, retry=3)
