"""The rate limits of workers: parts of that of the process that sends them work, or one that all share."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from mahsm import Budget, RateLimit, limits, vmap
from mahsm.errors import BudgetExceeded
from tests.edges.vmap.executors import targets
from tests.limits.redis_process import RedisProcess, redis_process

pytestmark = pytest.mark.slow

CALLS, RATE = 40, 40.0


@pytest.fixture(autouse=True)
def not_shared() -> Iterator[None]:
    yield
    limits.share(None)


def run(engine: Any, folder: Path, limit: RateLimit, items: int = CALLS) -> tuple[list[list[str]], float]:
    """Return the buckets that each item saw in one of two workers, and the seconds that it took."""
    folder.mkdir()
    options: Any = {"batch_key": "xs", "out_key": "ys", "name": "edge", "max_concurrency": 2}
    edge = vmap(targets.meets, **options, executor=engine, rate_limit=limit)
    began = time.monotonic()
    found = edge.invoke({"xs": list(range(items)), "mark": str(folder)})["ys"]
    seconds = time.monotonic() - began
    assert len({process for process, _ in found}) == 2
    return [buckets for _, buckets in found], seconds


def is_kept_by(server: RedisProcess, name: str) -> bool:
    with redis.Redis.from_url(server.url) as client:
        return client.exists(f"mahsm:{{{name}}}") == 1


def test_workers_keep_to_one_quota_that_is_shared(engine: Any, name: str, tmp_path: Path) -> None:
    with redis_process(tmp_path) as server:
        limits.share(server.url)
        seen, seconds = run(engine, tmp_path / "a", RateLimit(name, rps=RATE, burst=1))
        assert seconds >= (CALLS - 1) / RATE - 0.06
        assert all(name in buckets for buckets in seen)
        assert is_kept_by(server, name)
        limits.share(None)
        run(engine, tmp_path / "b", RateLimit(f"{name} too", rps=1000))  # they share no longer


def test_each_worker_has_its_part_of_a_limit_that_is_not_shared(
    engine: Any, name: str, tmp_path: Path
) -> None:
    seen, seconds = run(engine, tmp_path / "a", RateLimit(name, rps=RATE, burst=1))
    assert seconds >= (CALLS / 2 - 1) / (RATE / 2) - 0.06
    assert all(f"{name} (1/2)" in buckets and name not in buckets for buckets in seen)


def test_a_url_with_a_password_is_not_passed_on(own: str, name: str, tmp_path: Path) -> None:
    with redis_process(tmp_path, password="s3cretWord") as server:
        limits.share(server.url)
        seen, _ = run(own, tmp_path / "a", RateLimit(name, rps=1000), 4)
        assert all(f"{name} (1/2)" in buckets and name not in buckets for buckets in seen)


def test_workers_share_as_the_process_does_by_then(own: str, name: str, tmp_path: Path) -> None:
    """Workers outlive a run: they do not go on with a Redis that is no longer the one, nor without one."""
    limit, names = RateLimit(name, rps=1000), iter("abcdef")
    for _ in range(2):
        folder = tmp_path / next(names)
        folder.mkdir()
        with redis_process(folder) as server:
            limits.share(server.url)
            seen, _ = run(own, folder / "a", limit, 4)
            assert all(name in buckets for buckets in seen)
            assert is_kept_by(server, name)
            limits.share(None)
            # The same program as before, and then as the one before that.
            seen, _ = run(own, folder / "b", limit, 4)
            assert all(f"{name} (1/2)" in buckets and name not in buckets for buckets in seen)
            limits.share(server.url)
            with redis.Redis.from_url(server.url) as client:
                client.flushall()
            seen, _ = run(own, folder / "c", limit, 4)
            assert all(name in buckets for buckets in seen)
            assert is_kept_by(server, name)
            limits.share(None)


def test_a_limit_that_is_defined_anew_is_so_in_workers(own: str, name: str, tmp_path: Path) -> None:
    for number, rps in enumerate((1000, 500, 1000)):
        limits.forget(name)
        run(own, tmp_path / str(number), RateLimit(name, rps=rps), 4)


def test_a_shared_budget_that_others_have_spent_begins_nothing(
    engine: Any, name: str, redis_server: str, tmp_path: Path
) -> None:
    spent = Budget(calls=9, shared=f"unix://{redis_server}", name=name)
    with redis.Redis(unix_socket_path=redis_server) as client:
        client.hset(f"mahsm:budget:{{{name}}}", "calls", 9)
    options: Any = {"batch_key": "xs", "out_key": "ys", "on_error": "drop", "budget": spent}
    edge = vmap(targets.noted, **options, executor=engine)
    assert edge.invoke({"xs": list(range(30)), "mark": str(tmp_path)})["ys"] == []
    assert list(tmp_path.iterdir()) == []
    edge = edge.with_(on_error="raise")
    with pytest.raises(BudgetExceeded, match="9 of 9 calls of the shared budget"):
        edge.invoke({"xs": [1], "mark": str(tmp_path)})


def test_a_deadline_ends_the_wait_for_a_budget_while_redis_is_down(
    own: str, name: str, tmp_path: Path
) -> None:
    budget = Budget(calls=9, shared=f"unix://{tmp_path}/nothing", name=name)
    options: Any = {"batch_key": "xs", "out_key": "ys", "budget": budget, "deadline": 0.2}
    edge = vmap(targets.double, **options, executor=own)
    with pytest.raises(TimeoutError, match="deadline"):
        edge.invoke({"xs": [1, 2]})
