"""The semaphore under the edges: order, bounds, cancellation, across threads and loops."""

import asyncio
import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mahsm._waiting import TASK, THREAD, run_blocking
from mahsm._waiting.slots import Closed, Slots, acquire_all
from tests.helpers import Gauge


async def waiting(slots: Slots, order: int, served: list[int]) -> None:
    await slots.acquire(TASK, (order,))
    served.append(order)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_lowest_order_is_next() -> None:
    slots, served = Slots(1), []
    assert slots.try_acquire()
    async with asyncio.TaskGroup() as group:
        for order in (2, 0, 1):
            group.create_task(waiting(slots, order, served))
        await settle()
        for _ in range(3):
            slots.release()
            await settle()
    assert served == [0, 1, 2]


async def test_nobody_is_passed_by_a_newcomer() -> None:
    slots, served = Slots(1), []
    assert slots.try_acquire()
    async with asyncio.TaskGroup() as group:
        group.create_task(waiting(slots, 0, served))
        await settle()
        slots.release()
        assert not slots.try_acquire(), "the slot went to the one in line"


async def test_a_cancelled_waiter_leaves_the_line() -> None:
    slots, served = Slots(1), []
    assert slots.try_acquire()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(waiting(slots, 0, served))
        group.create_task(waiting(slots, 1, served))
        await settle()
        task.cancel()
        await settle()
        slots.release()
    assert served == [1]


async def test_a_waiter_cancelled_just_after_its_turn_gives_it_back() -> None:
    slots, served = Slots(1), []
    assert slots.try_acquire()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(waiting(slots, 0, served))
        await settle()
        slots.release()  # granted, and the task has not run yet
        task.cancel()
    assert (served, slots.free) == ([], 1)


async def test_slots_given_back_together_go_to_the_first_in_line() -> None:
    slots = Slots(3)
    assert slots.try_acquire(wanted=5) == 3
    async with asyncio.TaskGroup() as group:
        first = group.create_task(slots.acquire(TASK, (0,), wanted=2))
        second = group.create_task(slots.acquire(TASK, (1,), wanted=2))
        await settle()
        for _ in range(3):
            slots.release()
    assert (first.result(), second.result()) == (2, 1)


async def test_several_slots_of_a_cancelled_waiter_all_come_back() -> None:
    slots = Slots(2)
    assert slots.try_acquire(wanted=2) == 2
    async with asyncio.TaskGroup() as group:
        task = group.create_task(slots.acquire(TASK, (0,), wanted=2))
        await settle()
        slots.release()
        slots.release()
        task.cancel()
    assert slots.free == 2


@settings(max_examples=50, deadline=None)
@given(
    limit=st.integers(1, 4), steps=st.lists(st.tuples(st.integers(0, 9), st.sampled_from("arc")), max_size=40)
)
def test_slots_end_as_they_began(limit: int, steps: list[tuple[int, str]]) -> None:
    """Acquire, release and cancel in any order: never more holders than slots, and none is lost."""

    async def scenario() -> None:
        slots, gauge = Slots(limit), Gauge()
        release: dict[int, asyncio.Event] = {}
        tasks: dict[int, asyncio.Task[None]] = {}

        async def hold(key: int) -> None:
            await slots.acquire(TASK, (key,))
            try:
                with gauge.inside():
                    await release[key].wait()
            finally:
                slots.release()

        async with asyncio.TaskGroup() as group:
            for key, action in steps:
                if action == "a" and key not in tasks:
                    release[key] = asyncio.Event()
                    tasks[key] = group.create_task(hold(key))
                elif action == "r" and key in release:
                    release[key].set()
                elif action == "c" and key in tasks:
                    tasks[key].cancel()
                await asyncio.sleep(0)
            for event in release.values():
                event.set()
        assert gauge.most <= limit
        assert slots.free == limit

    asyncio.run(scenario())


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def until(condition: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(1000):
        if condition():
            return
        tick.wait(0.005)
    raise AssertionError("did not happen")


def test_threads_and_loops_share_the_line() -> None:
    slots, served = Slots(1), []
    assert slots.try_acquire()

    def blocking() -> None:
        run_blocking(slots.acquire(THREAD, (1,)))
        served.append("thread")
        slots.release()

    async def on_loop() -> None:
        await slots.acquire(TASK, (0,))
        served.append("loop")
        slots.release()

    threads = [in_thread(blocking), in_thread(lambda: asyncio.run(on_loop()))]
    until(lambda: len(slots._line) == 2)
    slots.release()
    for thread in threads:
        thread.join(10)
    assert served == ["loop", "thread"]
    assert slots.free == 1


def test_close_wakes_threads_with_the_reason() -> None:
    slots, reason = Slots(1), ValueError("down")
    assert slots.try_acquire()
    caught: list[Closed] = []

    def blocking() -> None:
        with pytest.raises(Closed) as error:
            run_blocking(slots.acquire(THREAD, (0,)))
        caught.append(error.value)

    thread = in_thread(blocking)
    until(lambda: len(slots._line) == 1)
    slots.close(reason)
    thread.join(10)
    assert caught[0].reason is reason
    with pytest.raises(Closed, match="closed by ValueError"):
        run_blocking(slots.acquire(THREAD, (1,)))


async def test_close_wakes_tasks_with_the_reason() -> None:
    slots, reason = Slots(1), ValueError("down")
    assert slots.try_acquire()

    async def waits() -> None:
        with pytest.raises(Closed) as error:
            await slots.acquire(TASK, (0,))
        assert error.value.reason is reason

    async with asyncio.TaskGroup() as group:
        group.create_task(waits())
        await settle()
        slots.close(reason)
        slots.release()
    assert slots.free == 1
    with pytest.raises(Closed):
        await slots.acquire(TASK, (1,))


async def test_a_chain_that_is_cut_short_keeps_nothing() -> None:
    first, second = Slots(1), Slots(1)
    assert second.try_acquire()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(acquire_all(TASK, [first, second], (0,)))
        await settle()
        assert first.free == 0
        task.cancel()
    assert first.free == 1
    second.close(ValueError("down"))
    with pytest.raises(Closed):
        run_blocking(acquire_all(THREAD, [first, second], (0,)))
    assert first.free == 1
