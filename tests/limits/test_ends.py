"""Rate limits when a run is cut short: what waits in line leaves it, and what was taken is given back."""

import asyncio
import itertools
import os
import threading
from typing import Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mahsm import Budget, RateLimit, Retry, is_item_error, limits, vmap
from mahsm._waiting import THREAD, run_blocking
from mahsm.limits._registry import bucket, define
from mahsm.policies import Hedge
from mahsm.testing import ModelServer
from tests.helpers import MODES, run_edge


def edge_of(target: Any = lambda state: state["item"], **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", "name": "edge", **options})


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_fails_does_not_wait_for_its_tokens(name: str, mode: str) -> None:
    def fails(_: Any) -> None:
        raise ValueError("over")

    edge = edge_of(fails, rate_limit=RateLimit(name, rps=0.001, burst=1), max_concurrency=8)
    with pytest.raises(ValueError, match="over"):
        run_edge(edge, range(8), mode)
    assert limits.stats()[name].waiting == 0


async def test_a_cancelled_run_leaves_the_line(name: str) -> None:
    begun = asyncio.Event()

    async def target(_: Any) -> None:
        begun.set()

    edge = edge_of(target, rate_limit=RateLimit(name, rps=0.001, burst=1), max_concurrency=8)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(edge.ainvoke({"xs": list(range(8))}))
        await begun.wait()
        assert limits.stats()[name].waiting == 7
        task.cancel()
    assert task.cancelled()
    assert limits.stats()[name].waiting == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_further_call_that_waits_in_line_can_be_stopped(name: str, mode: str) -> None:
    """One item fails while another one waits for a token for its second call, which would take a thousand
    seconds."""

    class Twice(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict("item -> answer")

        def forward(self, item: str) -> Any:
            self.ask(item=item)
            if item == "0":
                assert second_waits.wait(10)
                raise ValueError("over")
            second_waits.set()
            return self.ask(item=item)

    second_waits = threading.Event()
    edge = edge_of(Twice(), rate_limit=RateLimit(name, rps=0.001, burst=2), max_concurrency=2)
    with (
        ModelServer({"answer": "yes"}) as server,
        dspy.context(lm=server.lm()),
        pytest.raises(ValueError, match="over"),
    ):
        run_edge(edge, ["0", "1"], mode)
    assert limits.stats()[name].waiting == 0


@settings(max_examples=60, deadline=None)
@given(
    cancel_at=st.integers(1, 40),
    at_end=st.booleans(),
    most=st.integers(1, 6),
    failing=st.sampled_from([0, 3]),
    hedged=st.booleans(),
    nested=st.booleans(),
)
def test_whenever_it_is_cancelled_everything_ends_as_it_began(
    cancel_at: int, at_end: bool, most: int, failing: int, hedged: bool, nested: bool
) -> None:
    """The run is cancelled when a call, the one with this number, begins or ends."""
    limits.forget("cancelled")
    limit = RateLimit("cancelled", rps=5000, burst=2, tpm=6e6, tokens=10)
    runs: list[Any] = []
    calls = itertools.count(1)

    async def target(state: dict[str, Any]) -> int:
        runs.append(limited._sync.__wrapped__.__self__.running())
        number = next(calls)
        if number == cancel_at and not at_end:
            task.cancel()
        await asyncio.sleep(0)
        if number == cancel_at and at_end:
            task.cancel()
        if failing and number % failing == 0:
            raise ConnectionError("try again")
        return state["item"]

    edge: Any = edge_of(
        target,
        rate_limit=limit,
        retry=Retry(attempts=10, base=0.0001),
        max_concurrency=most,
        hedge=Hedge(percentile=0.5, after=5) if hedged else None,
        budget=Budget(calls=1000),
    )
    batch: Any = {"xs": list(range(24))}
    limited = edge
    if nested:
        edge = vmap(
            edge,
            batch_key="rows",
            out_key="ys",
            item_to_state=lambda xs: {"xs": xs},
            max_concurrency=2,
            name="outer",
        )
        batch = {"rows": [[1, 2, 3, 4, 5, 6]] * 4}

    async def main() -> None:
        nonlocal task
        task = asyncio.ensure_future(edge.ainvoke(batch))
        await asyncio.wait([task])
        assert asyncio.all_tasks() == {asyncio.current_task()}

    task: asyncio.Future[Any]
    asyncio.run(main())
    assert task.cancelled() or task.result()["ys"]
    stats = limits.stats()["cancelled"]
    assert stats.waiting == 0
    for run_ in runs:
        assert all(slots.free == slots._limit for slots in run_._chain)
        assert run_.begun_slots.free == run_.begun_slots._limit


@pytest.mark.parametrize("mode", MODES)
def test_tokens_that_wait_for_a_slot_go_to_somebody_else(name: str, mode: str) -> None:
    """With one slot and retries there are four open items; three of them give back what they cannot use."""
    edge = edge_of(rate_limit=RateLimit(name, rps=1000, burst=100), max_concurrency=1, retry=Retry())
    assert run_edge(edge, range(20), mode) == list(range(20))
    assert limits.stats()[name].admitted == 20


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # of JAX, if another test has loaded it
def test_a_fork_has_no_buckets() -> None:
    limits.forget("fork-test")
    define("fork-test", RateLimit(rps=1000))
    assert run_blocking(bucket("fork-test").acquire(THREAD)) is not None
    child = os.fork()
    if child == 0:
        try:
            edge = edge_of(rate_limit=RateLimit("fork-test", rps=500))
            works = run_edge(edge, [1, 2], "sync") == [1, 2] and limits.stats()["fork-test"].admitted == 2
        except BaseException:  # noqa: BLE001  a child that goes on would run the rest of the tests
            works = False
        os._exit(0 if works else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    limits.forget("fork-test")


@pytest.mark.parametrize("mode", MODES)
def test_failures_are_collected_under_a_limit(name: str, mode: str) -> None:
    def odd(state: dict[str, Any]) -> int:
        if state["item"] % 2:
            raise ValueError("odd")
        return state["item"]

    ys = run_edge(edge_of(odd, rate_limit=RateLimit(name, rps=5000), on_error="collect"), range(6), mode)
    assert [is_item_error(y) for y in ys] == [False, True] * 3
