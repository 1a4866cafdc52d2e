"""A bucket whose quotas are in Redis, seen from one process."""

import asyncio
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import redis
from langchain_core.language_models import FakeListChatModel

from mahsm import RateLimit, limits, vmap
from mahsm._redis import server_of
from mahsm._waiting import TASK, THREAD, run_blocking, tasks
from mahsm.errors import LimitError
from mahsm.limits._line import Rates
from mahsm.limits._registry import bucket, define
from mahsm.limits._shared_quota import HORIZON, LocalPart, Places, SharedQuota, definition_of
from mahsm.limits._sharing import Sharing
from tests.helpers import MODES, run_edge
from tests.limits.redis_process import until

SLOW = 1e-6
"""A rate at which nothing comes while a test runs."""


@pytest.fixture
def url(redis_server: str) -> Iterator[str]:
    limits.share(f"unix://{redis_server}")
    yield f"unix://{redis_server}"
    limits.share(None)


def quota_of(url: str, name: str, rates: Rates) -> SharedQuota:
    return SharedQuota(server_of(url, url.partition("?")[0]), name, "", rates, "It waits.")


def take(quota: SharedQuota, tokens: list[float], **options: Any) -> Places:
    asked = quota.take([(amount, 0.0) for amount in tokens], **options)
    return asyncio.run_coroutine_threadsafe(asked, tasks.redis_loop()).result()


def flush(quota: SharedQuota, pause: float = 0.0) -> None:
    asyncio.run_coroutine_threadsafe(quota.flush(pause), tasks.redis_loop()).result()


# The quotas.


def test_burst_and_then_the_rate_within_the_horizon(url: str, name: str) -> None:
    places = take(quota_of(url, name, Rates(100, 3, None, 1)), [0.0] * 20)
    assert places.delays == pytest.approx([0, 0, 0, 0.01, 0.02, 0.03, 0.04, 0.05], abs=1e-5)
    assert places.nap == pytest.approx(0.06 - HORIZON / 2, abs=1e-5)
    assert places.sharers == 1


def test_requests_and_tokens_are_taken_together(url: str, name: str) -> None:
    quota = quota_of(url, name, Rates(100, 2, 1000, 30))
    assert take(quota, [10.0, 20.0, 10.0, 1.0]).delays == pytest.approx([0, 0, 0.01, 0.02], abs=1e-5)


def test_more_than_the_bucket_holds_waits_for_a_full_one_and_is_owed(url: str, name: str) -> None:
    quota = quota_of(url, name, Rates(None, 1, 1000, 10))
    assert take(quota, [5.0, 45.0, 1.0]).delays == pytest.approx([0, 0.005, 0.041], abs=1e-5)


def test_who_may_not_wait_gets_what_is_there_now(url: str, name: str) -> None:
    quota = quota_of(url, name, Rates(100, 2, None, 1))
    assert take(quota, [0.0] * 4, may_wait=False).delays == [0, 0]


def test_what_is_given_back_goes_to_the_next_one_and_never_above_the_burst(url: str, name: str) -> None:
    quota = quota_of(url, name, Rates(SLOW, 3, SLOW, 30))
    assert len(take(quota, [10.0] * 5).delays) == 3
    quota.give(1, 10)
    assert len(take(quota, [10.0] * 5).delays) == 1
    quota.give(99, 99)
    assert quota.owes
    flush(quota)
    assert not quota.owes
    assert len(take(quota, [10.0] * 5).delays) == 3


def test_what_was_used_beyond_the_estimate_is_paid_before_the_next_one(url: str, name: str) -> None:
    quota = quota_of(url, name, Rates(None, 1, SLOW, 10))
    assert take(quota, [2.0]).delays == [0]
    quota.give(0, -30)
    assert take(quota, [0.0]).delays == []
    quota.give(0, 23)
    assert take(quota, [0.0]).delays == [0]


def test_a_pause_holds_for_all(url: str, name: str) -> None:
    rates = Rates(100, 5, None, 1)
    flush(quota_of(url, name, rates), pause=30)
    places = take(quota_of(url, name, rates), [0.0])
    assert places.delays == []
    assert places.nap == pytest.approx(30, abs=5)


def test_definitions_that_differ_are_an_error_that_names_both(url: str, name: str) -> None:
    with redis.Redis.from_url(url) as client:
        take(quota_of(url, name, Rates(100, 10, 1000, 60)), [1.0])
        # Another process, which was here just now.
        client.zadd(f"mahsm:{{{name}}}:sharers", {"other": client.time()[0]})
        with pytest.raises(LimitError, match=rf"two limits for '{name}' at {url}: ") as caught:
            take(quota_of(url, name, Rates(50, 10, None, 1)), [0.0])
        assert "RateLimit(rps=50, burst=10) in this process" in str(caught.value)
        assert "RateLimit(rps=100, burst=10, tpm=60000, token_burst=60) in another" in str(caught.value)
        assert len(take(quota_of(url, name, Rates(100, 10, 1000, 60)), [1.0]).delays) == 1
        # It has ended; the limit may change then.
        client.zrem(f"mahsm:{{{name}}}:sharers", "other")
        assert len(take(quota_of(url, name, Rates(50, 10, None, 1)), [0.0]).delays) == 1


def test_an_earlier_caller_of_another_process_comes_first(url: str, name: str) -> None:
    quota = quota_of(url, name, Rates(SLOW, 2, None, 1))
    keys = [f"mahsm:{{{name}}}:{part}" for part in ("heads", "claims")]
    with redis.Redis.from_url(url) as client:
        now = client.time()[0]
        client.zadd(keys[0], {"other": now - 10})
        client.zadd(keys[1], {"other": now + 3600})
        assert take(quota, [0.0]).delays == []
        # It did not come back when it had said: it holds up nobody.
        client.zadd(keys[1], {"other": now - 1})
        assert take(quota, [0.0]).delays == [0]
        assert client.zrange(keys[0], 0, -1) == []


def test_a_quota_that_redis_has_lost_goes_on(url: str, name: str) -> None:
    quota = quota_of(url, name, Rates(SLOW, 3, SLOW, 50))
    with redis.Redis.from_url(url) as client:
        assert len(take(quota, [10.0, 10.0]).delays) == 2
        client.delete(f"mahsm:{{{name}}}")
        assert len(take(quota, [10.0] * 3).delays) == 1
        client.delete(f"mahsm:{{{name}}}")
        quota.give(1, -5)
        flush(quota)
        assert len(take(quota, [16.0]).delays) == 0
        assert len(take(quota, [15.0] * 2).delays) == 1
        flush(quota, pause=30)
        take(quota, [])
        client.delete(f"mahsm:{{{name}}}")
        assert take(quota_of(url, f"{name} too", Rates(SLOW, 3, None, 1)), [0.0]).delays == [0]
        assert take(quota, [0.0]).pause == pytest.approx(30, abs=5)


def test_a_clock_that_is_set_back_holds_up_nobody(url: str, name: str) -> None:
    quota = quota_of(url, name, Rates(SLOW, 2, None, 1))
    with redis.Redis.from_url(url) as client:
        assert take(quota, [0.0]).delays == [0]
        client.hset(f"mahsm:{{{name}}}", "v", client.time()[0] + 3600)
        assert take(quota, [0.0, 0.0]).delays == [0]


def test_a_clock_that_is_set_back_leaves_a_pause_as_long_as_it_was(url: str, name: str) -> None:
    quota = quota_of(url, name, Rates(SLOW, 2, None, 1))
    keys = [f"mahsm:{{{name}}}{part}" for part in ("", ":heads", ":claims", ":sharers")]
    flush(quota, pause=30)
    with redis.Redis.from_url(url) as client:
        hour = client.time()[0] + 3600
        client.hset(keys[0], mapping={"v": hour, "n": hour, "p": hour + 30})
        client.zadd(keys[1], {"killed": hour - 9})
        client.zadd(keys[2], {"killed": hour + 1})
        client.zadd(keys[3], {"killed": hour})
        places = take(quota, [0.0])
        assert (places.delays, places.sharers) == ([], 1)
        assert places.nap == pytest.approx(30, abs=5)
        client.hset(keys[0], "p", 0)
        assert take(quota, [0.0]).delays == [0]


def test_a_process_that_is_killed_while_it_waits_holds_up_nobody(url: str, name: str) -> None:
    """A large request may wait for hours, and others come first as soon as its process is not seen again."""
    quota = quota_of(url, name, Rates(None, 1, SLOW, 100))
    assert len(take(quota, [90.0, 100.0]).delays) == 1
    with redis.Redis.from_url(url) as client:
        ((_, ends),) = client.zrange(f"mahsm:{{{name}}}:claims", 0, -1, withscores=True)
        assert ends - client.time()[0] <= 2.1


def test_a_key_is_not_shown_in_redis(url: str, name: str) -> None:
    define(name, RateLimit(rps=10))
    assert run_blocking(bucket(name, "sk-secret-tenant").acquire(THREAD)) is not None
    assert f"{name}/sk-secret-tenant" in limits.stats()
    with redis.Redis.from_url(url) as client:
        keys = [key.decode() for key in client.keys("*")]
    assert any(key.startswith(f"mahsm:{{{name}/") for key in keys)
    assert not any("sk-secret" in key for key in keys)


def test_keys_that_are_equal_have_one_quota(url: str, name: str) -> None:
    define(name, RateLimit(rps=SLOW, burst=1))
    sharing = Sharing.of(url, "wait")
    for keys in ((1, 1.0, True), (("a", 0.0), ("a", -0.0), ("a", False))):
        buckets = [sharing.bucket(name, name, key, Rates(SLOW, 1, None, 1)) for key in keys]
        given = [run_blocking(each.acquire(THREAD, may_wait=False)) is not None for each in buckets]
        assert given == [True, False, False]
    assert run_blocking(bucket(name, "1").acquire(THREAD, may_wait=False)) is not None


def test_unused_quotas_are_forgotten(url: str, name: str) -> None:
    take(quota_of(url, name, Rates(10, 1, None, 1)), [0.0] * 9)
    with redis.Redis.from_url(url) as client:
        for key in client.keys(f"mahsm:{{{name}}}*"):
            assert 0 < client.ttl(key) <= 200


@pytest.mark.parametrize(
    ("rates", "text"),
    [
        (Rates(5, 2, None, 1), "rps=5, burst=2"),
        (Rates(None, 1, 10, 20), "tpm=600, token_burst=20"),
        (Rates(1 / 3, 1, None, 1), "rps=0.333333333333, burst=1"),
    ],
)
def test_a_definition_is_the_same_text_in_all_processes(rates: Rates, text: str) -> None:
    assert definition_of(rates) == text


def test_a_part_of_the_rate_while_redis_is_down() -> None:
    part = LocalPart(Rates(10, 4, 100, 40), sharers=2, since=0.0)
    assert part.take(0.0, 5) == pytest.approx(0.2)  # empty at first
    assert part.take(0.2, 5) == 0
    assert part.take(0.2, 5) == pytest.approx(0.2)
    assert [part.take(100.0, 5) for _ in range(3)] == [0, 0, pytest.approx(0.2)]
    part.give(1, 5)
    assert part.take(100.0, 5) == 0
    assert part.owed(100.0) == 0
    assert LocalPart(Rates(None, 1, 100, 40), sharers=2, since=9.0).take(8.0, 0) == 1
    part.give(0, -70)
    assert part.owed(100.0) == pytest.approx(-60)
    assert part.owed(101.0) == pytest.approx(-10)


def test_numbers_of_other_types(url: str, name: str) -> None:
    limit = RateLimit(name, rps=np.float64(SLOW), burst=Fraction(2), tpm=np.int64(60), token_burst=100)
    with limits.admit(limit, tokens=np.float64(100)):
        limits.report(input_tokens=np.int64(50))  # type: ignore[arg-type]
    define(name, RateLimit(rps=SLOW, burst=2, tpm=60, token_burst=100))
    assert run_blocking(bucket(name).acquire(THREAD, np.float64(60), may_wait=False)) is None
    assert run_blocking(bucket(name).acquire(THREAD, Fraction(50))) is not None


@pytest.mark.parametrize("odd", ["a:b {c}\n\ud800", "x" * 10_000])
def test_odd_names(url: str, odd: str) -> None:
    with limits.admit(RateLimit(odd, rps=SLOW, burst=1)):
        pass
    assert run_blocking(bucket(odd).acquire(THREAD, may_wait=False)) is None
    limits.forget(odd)


# The line.


@pytest.mark.parametrize("mode", MODES)
def test_edges_take_from_it(url: str, name: str, mode: str) -> None:
    def call(state: Any) -> int:
        limits.report(input_tokens=70)
        return state["item"]

    limit = RateLimit(name, rps=1000, burst=5, tpm=6_000_000, tokens=100)
    edge = vmap(call, batch_key="xs", out_key="ys", rate_limit=limit, max_concurrency=4)
    assert run_edge(edge, range(30), mode) == list(range(30))
    stats = limits.stats()[name]
    assert (stats.admitted, stats.waiting, stats.settled_tokens) == (30, 0, 2100)
    with redis.Redis.from_url(url) as client:
        assert client.hget(f"mahsm:{{{name}}}", "d") == b"rps=1000, burst=5, tpm=6000000, token_burst=100000"


def test_threads_and_loops_share_the_line(url: str, name: str) -> None:
    define(name, RateLimit(rps=1000, burst=1))
    threads = [threading.Thread(target=lambda: run_blocking(bucket(name).acquire(THREAD))) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert asyncio.run(bucket(name).acquire(TASK)) is not None
    for thread in threads:
        thread.join()
    assert limits.stats()[name].admitted == 9


async def test_a_cancelled_waiter_leaves_the_line(url: str, name: str) -> None:
    define(name, RateLimit(rps=SLOW, burst=1))
    ticket = await bucket(name).acquire(TASK)
    assert ticket is not None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bucket(name).acquire(TASK), 0.05)
    assert await bucket(name).acquire(TASK, may_wait=False) is None
    bucket(name).cancel(ticket)
    assert await bucket(name).acquire(TASK) is not None
    stats = limits.stats()[name]
    assert (stats.admitted, stats.given_back, stats.waiting) == (1, 1, 0)


async def test_a_line_that_everybody_left_holds_up_no_other_process(url: str, name: str) -> None:
    define(name, RateLimit(tpm=SLOW, token_burst=100))
    assert await bucket(name).acquire(TASK, 90) is not None
    with redis.Redis.from_url(url) as client:
        waiting = asyncio.ensure_future(bucket(name).acquire(TASK, 100))
        await asyncio.to_thread(until, lambda: client.zcard(f"mahsm:{{{name}}}:heads") == 1)
        waiting.cancel()
        await asyncio.to_thread(until, lambda: client.zcard(f"mahsm:{{{name}}}:heads") == 0)


async def test_who_may_not_wait_is_refused_while_somebody_waits(url: str, name: str) -> None:
    define(name, RateLimit(rps=SLOW, burst=1))
    await bucket(name).acquire(TASK)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(bucket(name).acquire(TASK))
        asking = [group.create_task(bucket(name).acquire(TASK, may_wait=False)) for _ in range(3)]
        await asyncio.wait(asking)
        assert [task.result() for task in asking] == [None] * 3
        waiting.cancel()


async def test_tokens_that_are_given_back_let_the_next_one_in(url: str, name: str) -> None:
    define(name, RateLimit(tpm=SLOW, token_burst=100))
    ticket = await bucket(name).acquire(TASK, 100)
    assert ticket is not None
    async with asyncio.TaskGroup() as group:
        group.create_task(bucket(name).acquire(TASK, 60))
        bucket(name).settle(ticket, 40)
    assert limits.stats()[name].admitted == 2


async def test_a_pause_is_told_to_the_others_and_kept_here(url: str, name: str) -> None:
    define(name, RateLimit(rps=1000, burst=5))
    assert await bucket(name).acquire(TASK) is not None
    bucket(name).pause(3600)
    assert await bucket(name).acquire(TASK, may_wait=False) is None
    with redis.Redis.from_url(url) as client:
        until(lambda: float(client.hget(f"mahsm:{{{name}}}", "p") or 0) > client.time()[0] + 3000)
    assert limits.stats()[name].pauses == 1


async def test_what_was_used_is_told_during_a_pause_that_calls_wait_for(url: str, name: str) -> None:
    define(name, RateLimit(tpm=SLOW, token_burst=100))
    ticket = await bucket(name).acquire(TASK, 10)
    assert ticket is not None
    bucket(name).pause(3600)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(bucket(name).acquire(TASK, 10))
        with redis.Redis.from_url(url) as client:
            await asyncio.to_thread(until, lambda: float(client.hget(f"mahsm:{{{name}}}", "p") or 0) > 0)
            bucket(name).settle(ticket, 50)
            await asyncio.to_thread(until, lambda: float(client.hget(f"mahsm:{{{name}}}", "t") or 0) < 51)
        waiting.cancel()


async def test_a_limit_that_another_process_defines_otherwise_fails_the_calls(url: str, name: str) -> None:
    define(name, RateLimit(rps=100))
    await bucket(name).acquire(TASK)
    with redis.Redis.from_url(url) as client:
        client.hset(f"mahsm:{{{name}}}", "d", "rps=7, burst=1")
        client.zadd(f"mahsm:{{{name}}}:sharers", {"other": client.time()[0]})
    for _ in range(2):
        with pytest.raises(LimitError, match=r"RateLimit\(rps=7, burst=1\) in another one"):
            await bucket(name).acquire(TASK)
    assert limits.stats()[name].waiting == 0


async def test_a_limit_can_be_forgotten_and_defined_anew_by_the_only_process(url: str, name: str) -> None:
    for rps in (100, 200):
        limits.forget(name)
        define(name, RateLimit(rps=rps))
        assert await bucket(name).acquire(TASK) is not None


def test_chat_models_of_langchain_share_from_then_on(redis_server: str, name: str) -> None:
    model = FakeListChatModel(responses=["hello"], rate_limiter=limits.langchain(RateLimit(name, rps=100)))
    model.invoke("hi")
    limits.share(f"unix://{redis_server}")
    try:
        model.invoke("hi")
        assert limits.stats()[name].admitted == 1
        with redis.Redis(unix_socket_path=redis_server) as client:
            assert client.exists(f"mahsm:{{{name}}}")
    finally:
        limits.share(None)
    model.invoke("hi")
    assert limits.stats()[name].admitted == 1


async def test_sharing_ends_and_begins_again(redis_server: str, name: str) -> None:
    define(name, RateLimit(rps=1000))
    for _ in range(3):
        limits.share(f"unix://{redis_server}")
        assert await bucket(name).acquire(TASK) is not None
        limits.share(None)
        assert await bucket(name).acquire(TASK) is not None
