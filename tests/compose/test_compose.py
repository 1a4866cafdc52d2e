"""`chain`, `ensemble`, `retry`, `timeout`: what they return is called like what they were made of."""

import asyncio
import inspect
import threading
import time
from typing import Any

import dspy
import pytest
from langgraph.graph import START, StateGraph

from mahsm import chain, ensemble, retry, timeout, vmap, xcs
from mahsm.errors import EdgeError
from mahsm.operators import Operator, op
from mahsm.policies import Retry
from mahsm.reducers import majority_vote
from mahsm.testing import ModelServer, Reply


def double(x: int) -> int:
    """Double a number."""
    return x * 2


async def increment(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


def add(x: int, y: int = 1, *, z: int = 0) -> int:
    return x + y + z


def both(made: Any, *args: Any) -> Any:
    """Call an operator in both ways, and check that they agree."""
    awaited = asyncio.run(made.acall(*args))
    called = made(*args)
    assert (asyncio.run(_await(called)) if inspect.isawaitable(called) else called) == awaited
    return awaited


async def _await(awaitable: Any) -> Any:
    return await awaitable


# Chains.


def test_a_chain() -> None:
    assert both(chain(double, double, str), 3) == "12"
    assert both(chain(double, increment, double), 3) == 14
    assert both(chain(add), 1, 2) == 3
    assert chain(add, double)(1, y=2, z=3) == 12
    assert chain(chain(double, double), chain(str))(1) == "4"


def test_operators_and_modules_in_a_chain() -> None:
    with ModelServer({"answer": "yes"}) as server, dspy.context(lm=server.lm()):
        ask = dspy.Predict("question -> answer")
        program = chain(
            lambda q: {"question": q}, lambda inputs: ask(**inputs), op(lambda found: found.answer)
        )
        assert both(program, "q") == "yes"
        assert chain(ask, lambda found: found.answer)(question="q") == "yes"


def test_a_composition_looks_like_its_function() -> None:
    for made in (chain(add, double), retry(add), timeout(add, 5)):
        assert inspect.signature(made) == inspect.signature(add)
        assert made.__name__ == made.name == "add"
        assert isinstance(made, Operator)


def test_a_composition_is_a_target_a_node_and_a_step() -> None:
    program = chain(lambda state: state["item"], double, increment)
    edge = vmap(program, batch_key="xs", out_key="ys")
    assert edge.invoke({"xs": [1, 2]}) == asyncio.run(edge.ainvoke({"xs": [1, 2]})) == {"ys": [3, 5]}
    builder = StateGraph(dict)
    builder.add_node("work", chain(lambda state: state["x"], double, lambda x: {"x": x}))
    builder.add_edge(START, "work")
    assert builder.compile().invoke({"x": 2}) == {"x": 4}
    barrier = threading.Barrier(3)
    meet = chain(lambda x: (barrier.wait(30), x)[1], double)
    assert xcs.jit(lambda: [meet(i) for i in range(3)])() == [0, 2, 4]
    assert op(meet) is meet


# Ensembles.


def test_an_ensemble() -> None:
    assert both(ensemble(double, increment, add), 3) == [6, 4, 4]
    assert both(ensemble(double, increment, add, reduce=majority_vote), 3) == 4
    assert both(ensemble(double, increment, add, weights=[3, 1, 1]), 3) == 6
    assert both(ensemble(double, increment, add, weights=[1, 1, 1]), 3) == 4
    assert ensemble(lambda x: [x], lambda x: [x], weights=[1, 1])(1) == [1]


def test_members_run_beside_each_other() -> None:
    barrier = threading.Barrier(8)

    def meet(x: int) -> int:
        barrier.wait(30)
        return x

    assert ensemble(*[meet] * 8)(1) == [1] * 8


@pytest.mark.parametrize("most", [1, 3])
def test_members_are_bounded(most: int) -> None:
    now, peak, lock = 0, 0, threading.Lock()

    def work(x: int) -> int:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        time.sleep(0.002)
        with lock:
            now -= 1
        return x

    assert ensemble(*[work] * 9, max_concurrency=most)(1) == [1] * 9
    assert peak <= most


def test_the_first_error_of_a_member_comes_out() -> None:
    cancelled = threading.Event()

    async def hangs(x: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def fails(x: int) -> None:
        raise KeyError(x)

    with pytest.raises(KeyError, match="3"):
        asyncio.run(_await(ensemble(hangs, fails)(3)))
    assert cancelled.is_set()


# Retries.


class Flaky:
    """A function that fails so often, and then answers."""

    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.left = times
        self.calls = 0
        self._error = error or ConnectionError("reset")

    def __call__(self, x: Any) -> Any:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self._error
        return x


def test_a_retry() -> None:
    flaky = Flaky(2)
    assert retry(flaky, max_attempts=3, base=0)("x") == "x"
    assert flaky.calls == 3
    flaky = Flaky(3)
    with pytest.raises(ConnectionError) as caught:
        retry(flaky, max_attempts=3, base=0)("x")
    assert flaky.calls == 3
    assert "mahsm: Flaky, attempt 3" in caught.value.__notes__


def test_what_is_not_tried_again() -> None:
    flaky = Flaky(1, ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        retry(flaky, base=0)("x")
    assert flaky.calls == 1
    assert retry(Flaky(1, ValueError("wrong")), on=ValueError, base=0)("x") == "x"


def test_an_awaited_retry() -> None:
    calls: list[int] = []

    @retry(max_attempts=3, base=0)
    async def ask(x: int) -> int:
        calls.append(x)
        if len(calls) < 3:
            raise TimeoutError
        return x

    assert asyncio.run(_await(ask(1))) == 1
    assert calls == [1, 1, 1]


def test_a_retry_waits_as_long_as_the_provider_asks() -> None:
    with ModelServer([Reply.rate_limited(0.05), {"answer": "yes"}]) as server:
        with dspy.context(lm=server.lm(num_retries=0)):
            began = time.monotonic()
            answer = retry(dspy.Predict("question -> answer"), base=0)(question="q")
        assert answer.answer == "yes"
    assert time.monotonic() - began >= 0.05


def test_retries_of_one_function_are_bounded() -> None:
    flaky = Flaky(10_000)
    tried = retry(flaky, policy=Retry(attempts=5, base=0, share=0.2))
    for _ in range(100):
        with pytest.raises(ConnectionError):
            tried("x")
    assert 200 <= flaky.calls <= 100 + 100 + 21


# Timeouts.


def test_a_timeout() -> None:
    release = threading.Event()
    hangs = timeout(lambda x: release.wait(30), seconds=0.02)
    try:
        with pytest.raises(TimeoutError, match=r"<lambda> took longer than 0\.02 s"):
            hangs(1)
        with pytest.raises(TimeoutError, match=r"<lambda> took longer than 0\.02 s"):
            asyncio.run(hangs.acall(1))
    finally:
        release.set()
    assert both(timeout(double, 30), 2) == 4


def test_an_async_call_that_takes_too_long_is_cancelled() -> None:
    cancelled = threading.Event()

    @timeout(seconds=0.02)
    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError, match=r"hangs took longer than 0\.02 s"):
        asyncio.run(_await(hangs()))
    assert cancelled.is_set()


def test_a_timeout_of_the_function_itself_comes_out_as_it_is() -> None:
    def fails(x: int) -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        timeout(fails, 30)(1)


# Bad input.


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: chain(), TypeError, "chain got no function"),
        (lambda: chain(3), TypeError, "chain got 3; expected a function"),
        (lambda: chain(Flaky), TypeError, "expected a function"),
        (lambda: ensemble(), TypeError, "ensemble got no function"),
        (lambda: ensemble(double, weights=[1, 2]), ValueError, "expected 1 numbers >= 0"),
        (lambda: ensemble(double, weights=[-1]), ValueError, r"weights=\[-1\]"),
        (lambda: ensemble(double, weights=[1], reduce=max), ValueError, "exclude each other"),
        (lambda: ensemble(double, reduce=3), TypeError, "reduce=3"),
        (lambda: ensemble(double, max_concurrency=0), EdgeError, "max_concurrency=0"),
        (lambda: retry(3), TypeError, "retry got 3"),
        (lambda: retry(double, max_attempts=0), EdgeError, "attempts=0"),
        (lambda: retry(double, 3, policy=Retry()), EdgeError, "exclude each other"),
        (lambda: retry(double, wait=3), TypeError, "wait"),
        (lambda: timeout(double), TypeError, "timeout got no seconds"),
        (lambda: timeout(double, 0), EdgeError, "seconds=0"),
        (lambda: timeout(3, 3), TypeError, "timeout got 3"),
    ],
)
def test_what_cannot_be_composed(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
