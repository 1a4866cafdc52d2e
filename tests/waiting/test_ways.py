"""Code that is written once waits as a task and as a thread."""

import asyncio
import threading

import pytest

from mahsm._waiting import TASK, THREAD, Latch, Way, never_stopped, run_blocking, sides
from tests.watchdog import ended


async def slept(way: Way, seconds: float) -> str:
    turn = way.turn()
    await turn.wait(seconds)
    return "slept"


def test_a_wait_ends_when_its_time_is_over() -> None:
    sync, async_ = sides(slept)
    assert ended(lambda: sync(0.001)) == "slept"
    assert ended(lambda: asyncio.run(async_(0.001))) == "slept"


@pytest.mark.parametrize("way", [TASK, THREAD], ids=["task", "thread"])
def test_a_latch_lets_pass_whoever_comes_before_and_after(way: Way) -> None:
    latch = Latch()

    async def wait() -> None:
        await latch.wait(way, never_stopped)

    def drive() -> None:
        run_blocking(wait()) if way is THREAD else asyncio.run(wait())

    waiting = threading.Thread(target=drive, daemon=True)
    waiting.start()
    latch.open()
    ended(waiting.join)
    ended(drive)


def test_a_thread_that_has_an_event_loop_blocks_all_the_same() -> None:
    async def main() -> str:
        return run_blocking(slept(THREAD, 0.001))

    assert ended(lambda: asyncio.run(main())) == "slept"


def test_what_really_suspends_is_refused_in_a_thread() -> None:
    async def suspends() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="waits for an event loop, and was called to wait as a thread"):
        run_blocking(suspends())


def test_errors_come_out_as_they_are() -> None:
    async def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        run_blocking(fails())
