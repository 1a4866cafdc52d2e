"""The bucket of a provider: pace, order, what is given back, pauses. In fake time."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mahsm._waiting import TASK, THREAD, run_blocking, tasks
from mahsm.limits._bucket import Bucket
from mahsm.limits._line import Rates, Ticket
from mahsm.limits._quota import Quota
from mahsm.testing import Clock


def bucket_of(
    rate: float | None = None, burst: float = 1, tokens: float | None = None, token_burst: float = 1
) -> Bucket:
    return Bucket("test", Rates(rate, burst, tokens, token_burst), asyncio.get_running_loop())


def now() -> float:
    return asyncio.get_running_loop().time()


async def arrivals(bucket: Bucket, amounts: list[float]) -> list[float]:
    """When each of them was let through, if all come at once."""
    times = [0.0] * len(amounts)

    async def one(place: int) -> None:
        assert await bucket.acquire(TASK, amounts[place])
        times[place] = now()

    async with asyncio.TaskGroup() as group:
        for place in range(len(amounts)):
            group.create_task(one(place))
    return times


def test_burst_and_then_the_rate() -> None:
    async def main() -> list[float]:
        return await arrivals(bucket_of(rate=10, burst=3), [0] * 8)

    assert Clock().run(main()) == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.5], abs=1e-6)


def test_first_come_first_served_also_with_mixed_amounts() -> None:
    async def main() -> list[float]:
        return await arrivals(bucket_of(tokens=100, token_burst=100), [100, 80, 10, 10, 60])

    times = Clock().run(main())
    assert times == sorted(times)
    assert times == pytest.approx([0, 0.8, 0.9, 1.0, 1.6], abs=1e-6)


def test_requests_and_tokens_are_let_through_together() -> None:
    async def main() -> list[float]:
        return await arrivals(bucket_of(rate=1, burst=2, tokens=10, token_burst=10), [10, 1, 1, 10])

    # The second waits for tokens; the third for a request, which was full again by then; the fourth for its
    # ten tokens.
    assert Clock().run(main()) == pytest.approx([0, 0.1, 1.0, 2.0], abs=1e-6)


def test_tokens_count_when_they_are_let_through_and_not_when_they_are_there() -> None:
    async def main() -> list[float]:
        bucket = bucket_of(rate=1, burst=1, tokens=10, token_burst=10)
        await bucket.acquire(TASK, 10)
        await asyncio.sleep(0)
        return await arrivals(bucket, [10, 10])

    assert Clock().run(main()) == pytest.approx([1, 2], abs=1e-6)


def test_more_than_the_bucket_holds_waits_for_a_full_one_and_is_paid_afterwards() -> None:
    async def main() -> list[float]:
        return await arrivals(bucket_of(tokens=10, token_burst=10), [5, 40, 5])

    assert Clock().run(main()) == pytest.approx([0, 0.5, 4.0], abs=1e-6)


def test_a_cancelled_waiter_leaves_no_gap() -> None:
    async def main() -> list[float]:
        bucket = bucket_of(rate=10, burst=1)
        await bucket.acquire(TASK)
        waiters = [asyncio.ensure_future(bucket.acquire(TASK)) for _ in range(4)]
        last = asyncio.ensure_future(arrivals(bucket, [0, 0]))
        await asyncio.sleep(0.05)
        for waiter in waiters:
            waiter.cancel()
        return await last

    assert Clock().run(main()) == pytest.approx([0.1, 0.2], abs=1e-6)


def test_what_was_taken_and_not_used_is_given_back() -> None:
    async def main() -> list[float]:
        bucket = bucket_of(rate=10, burst=2)
        first, second = await bucket.acquire(TASK), await bucket.acquire(TASK)
        assert first is not None
        assert second is not None
        bucket.cancel(first)
        bucket.cancel(second)
        bucket.cancel(second)
        return await arrivals(bucket, [0, 0, 0])

    assert Clock().run(main()) == pytest.approx([0, 0, 0.1], abs=1e-6)


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    async def main() -> list[float]:
        bucket = bucket_of(rate=10, burst=2)
        ticket = await bucket.acquire(TASK)
        assert ticket is not None
        await asyncio.sleep(5)
        bucket.cancel(ticket)
        await asyncio.sleep(5)
        return await arrivals(bucket, [0, 0, 0])

    assert Clock().run(main()) == pytest.approx([10, 10, 10.1], abs=1e-6)


def test_giving_back_lets_the_first_in_line_in_at_once() -> None:
    async def main() -> float:
        bucket = bucket_of(tokens=1, token_burst=100)
        ticket = await bucket.acquire(TASK, 100)
        assert ticket is not None
        waiting = asyncio.ensure_future(arrivals(bucket, [50]))
        await asyncio.sleep(1)
        bucket.settle(ticket, 20)
        return (await waiting)[0]

    assert Clock().run(main()) == pytest.approx(1)


def test_what_was_used_beyond_the_estimate_is_paid_before_the_next_one() -> None:
    async def main() -> float:
        bucket = bucket_of(tokens=10, token_burst=10)
        ticket = await bucket.acquire(TASK, 2)
        assert ticket is not None
        bucket.settle(ticket, 32)
        await asyncio.sleep(0)
        return (await arrivals(bucket, [10]))[0]

    assert Clock().run(main()) == pytest.approx(3.2)


def test_a_pause_holds_for_everyone_and_the_longest_counts() -> None:
    async def main() -> tuple[list[float], int, float]:
        bucket = bucket_of(rate=10, burst=1)
        bucket.pause(5)
        bucket.pause(2)
        times = await arrivals(bucket, [0, 0])
        bucket.pause(1)
        times += await arrivals(bucket, [0])
        stats = await bucket._stats()
        return times, stats.pauses, stats.paused

    times, pauses, paused = Clock().run(main())
    assert times == pytest.approx([5, 5.1, 6.1], abs=1e-6)
    assert (pauses, paused) == (2, pytest.approx(6))


def test_a_pause_that_comes_while_somebody_waits() -> None:
    async def main() -> list[float]:
        bucket = bucket_of(rate=1, burst=1)
        waiting = asyncio.ensure_future(arrivals(bucket, [0, 0]))
        await asyncio.sleep(0.5)
        bucket.pause(3)
        return await waiting

    assert Clock().run(main()) == pytest.approx([0, 3.5], abs=1e-6)


def test_without_waiting() -> None:
    async def main() -> list[bool]:
        bucket = bucket_of(rate=1, burst=1)
        taken = [await bucket.acquire(TASK, may_wait=False) for _ in range(2)]
        waiting = asyncio.ensure_future(bucket.acquire(TASK))
        await asyncio.sleep(0.5)
        taken.append(await bucket.acquire(TASK, may_wait=False))
        await waiting
        await asyncio.sleep(1)
        taken.append(await bucket.acquire(TASK, may_wait=False))
        bucket.pause(1)
        taken.append(await bucket.acquire(TASK, may_wait=False))
        return [ticket is not None for ticket in taken]

    assert Clock().run(main()) == [True, False, False, True, False]


def test_stats() -> None:
    async def main() -> Any:
        bucket = bucket_of(rate=1, burst=1)
        assert (await bucket._stats()).wait_max == 0
        ticket = await bucket.acquire(TASK)
        await bucket.acquire(TASK)
        assert ticket is not None
        bucket.settle(ticket, 30)
        waiting = asyncio.ensure_future(bucket.acquire(TASK))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        stats = await bucket._stats()
        waiting.cancel()
        return stats

    stats = Clock().run(main())
    assert (stats.admitted, stats.waited, stats.waiting, stats.settled_tokens) == (2, 1, 1, 30)
    assert (stats.wait_p50, stats.wait_p95, stats.wait_max) == pytest.approx((0, 1, 1), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    amounts=st.lists(st.integers(0, 30), min_size=1, max_size=25),
    rate=st.sampled_from([None, 1, 7]),
    burst=st.integers(1, 5),
    token_rate=st.sampled_from([3, 20]),
    token_burst=st.integers(1, 25),
)
def test_no_window_holds_more_than_it_may(
    amounts: list[float], rate: float | None, burst: int, token_rate: float, token_burst: int
) -> None:
    async def main() -> list[float]:
        return await arrivals(bucket_of(rate, burst, token_rate, token_burst), amounts)

    times = Clock().run(main())
    assert times == sorted(times), "first come, first served"
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            length = times[last] - begin
            if rate is not None:
                assert last - first + 1 <= burst + rate * length + 1e-6
            # One that the bucket cannot hold is let through by a full one; what is beyond is paid by those
            # that come later.
            before_last = sum(amounts[first:last])
            assert (
                before_last + min(amounts[last], token_burst)
                <= max(token_burst, amounts[first]) + token_rate * length + 1e-6
            )


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_bucket_ends_as_it_began_whatever_is_cancelled(data: st.DataObject) -> None:
    waits = data.draw(
        st.lists(st.tuples(st.floats(0, 3), st.integers(0, 12), st.floats(0, 4) | st.none()), max_size=15)
    )

    async def main() -> None:
        bucket = bucket_of(rate=5, burst=3, tokens=10, token_burst=10)

        async def one(comes: float, amount: float, goes: float | None) -> None:
            await asyncio.sleep(comes)
            try:
                async with asyncio.timeout(goes):
                    ticket = await bucket.acquire(TASK, amount)
                    await asyncio.sleep(0.3)
                assert ticket is not None
                bucket.settle(ticket, amount * data.draw(st.sampled_from([0.5, 1, 2])))
            except TimeoutError:
                pass

        async with asyncio.TaskGroup() as group:
            for wait in waits:
                group.create_task(one(*wait))
        await asyncio.sleep(1000)
        stats = await bucket._stats()
        assert stats.waiting == 0
        assert not bucket._line
        start = now()
        times = [time - start for time in await arrivals(bucket, [3, 3, 4, 1])]
        assert times == pytest.approx([0, 0, 0, 0.2], abs=1e-3), "a full bucket of requests and tokens"

    Clock().run(main())


def test_a_quota_alone() -> None:
    quota = Quota(rate=1, burst=4, now=0)
    quota.take(4, at=0)
    quota.give(1, now=0)
    assert quota.ready(1, now=0) == 0
    assert quota.ready(2, now=0) == 1, "asking takes nothing"
    assert quota.ready(100, now=0) == 3, "for more than it holds, it has to be full"
    quota.take(10, at=3)
    assert quota.ready(1, now=3) == 10, "what exceeds a full bucket is owed"


# Across threads and loops, on the loop that buckets really live on.


@contextmanager
def in_threads(count: int, function: Callable[[], None]) -> Any:
    threads = [threading.Thread(target=function) for _ in range(count)]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()


def test_threads_and_loops_share_a_bucket() -> None:
    bucket = Bucket("test", Rates(2000, 10, None, 1), tasks.limits_loop())

    def blocking() -> None:
        for _ in range(20):
            assert run_blocking(bucket.acquire(THREAD)) is not None

    def awaiting() -> None:
        async def main() -> None:
            for _ in range(20):
                assert await bucket.acquire(TASK) is not None

        asyncio.run(main())

    with in_threads(3, blocking), in_threads(3, awaiting):
        pass
    stats = bucket.stats()
    assert (stats.admitted, stats.waiting) == (120, 0)


def test_a_thread_that_waits_can_be_stopped() -> None:
    bucket = Bucket("test", Rates(0.001, 1, None, 1), tasks.limits_loop())
    assert run_blocking(bucket.acquire(THREAD)) is not None
    stops: list[Callable[[BaseException], object]] = []
    waiting = threading.Event()

    @contextmanager
    def on_stop(stop: Callable[[BaseException], object]) -> Any:
        stops.append(stop)
        waiting.set()
        yield

    result: list[Ticket | None] = []
    thread = threading.Thread(
        target=lambda: result.append(run_blocking(bucket.acquire(THREAD, on_stop=on_stop)))
    )
    thread.start()
    assert waiting.wait(10)
    stops[0](RuntimeError("over"))
    thread.join(10)
    assert result == [None]
    assert bucket.stats().waiting == 0


def test_a_loop_that_is_gone_does_not_hold_up_the_line() -> None:
    bucket = Bucket("test", Rates(100, 1, None, 1), tasks.limits_loop())
    assert run_blocking(bucket.acquire(THREAD)) is not None
    loop = asyncio.new_event_loop()
    task = loop.create_task(bucket.acquire(TASK))
    loop.run_until_complete(asyncio.sleep(0))
    task.cancel()  # never gets to run
    loop.close()
    assert run_blocking(bucket.acquire(THREAD)) is not None
