"""A fake clock: what waits by it, and what it leaves as it was."""

import asyncio
import threading
from typing import Any

import pytest

from mahsm import RateLimit, Retry, limits, vmap
from mahsm.testing import Clock


def times_of(clock: Clock, edge: Any, count: int) -> Any:
    return clock.run(edge.ainvoke({"xs": list(range(count))}))["ys"]


def test_a_rate_limit_waits_by_the_clock(name: str) -> None:
    clock = Clock()

    async def now(_: Any) -> float:
        return clock.now

    edge = vmap(now, batch_key="xs", out_key="ys", rate_limit=RateLimit(name, rpm=6, burst=2))
    assert times_of(clock, edge, 5) == pytest.approx([0, 0, 10, 20, 30], abs=1e-3)


def test_each_run_begins_with_a_full_burst_and_the_clock_goes_on(name: str) -> None:
    clock = Clock()

    async def now(_: Any) -> float:
        return clock.now

    edge = vmap(now, batch_key="xs", out_key="ys", rate_limit=RateLimit(name, rpm=1))
    assert times_of(clock, edge, 2) == pytest.approx([0, 60], abs=1e-3)
    assert times_of(clock, edge, 2) == pytest.approx([60, 120], abs=1e-3)


def test_limits_of_the_process_are_as_they_were(name: str) -> None:
    edge = vmap(lambda _: None, batch_key="xs", out_key="ys", rate_limit=RateLimit(name, rps=1e6))
    edge.invoke({"xs": [1, 2]})

    async def inside() -> int:
        await edge.ainvoke({"xs": [1, 2, 3]})
        return limits.stats()[name].admitted

    assert Clock().run(inside()) == 3
    assert limits.stats()[name].admitted == 2


def test_back_off_and_timeouts_wait_by_the_clock() -> None:
    clock, began = Clock(), []

    async def hangs(_: Any) -> None:
        began.append(clock.now)
        await asyncio.sleep(3600)

    edge = vmap(
        hangs,
        batch_key="xs",
        out_key="ys",
        timeout=100,
        retry=Retry(attempts=2, base=50, cap=50, on=TimeoutError),
        on_error="collect",
    )
    [failed] = times_of(clock, edge, 1)
    assert failed["message"] == "took longer than 100 s"
    assert 100 <= began[1] <= 150
    assert clock.now == pytest.approx(began[1] + 100, abs=1e-3)


def test_a_thread_may_take_its_time() -> None:
    called = threading.Event()

    async def main() -> str:
        asyncio.get_running_loop().call_later(0, called.set)
        return await asyncio.to_thread(lambda: str(called.wait()))

    assert Clock().run(main()) == "True"


def test_waiting_for_what_never_comes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mahsm.testing._clock._PATIENCE", 0.01)

    async def never() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match=r"the coroutine waits for something that never"):
        Clock().run(never())
