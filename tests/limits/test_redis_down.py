"""Limits that are shared while Redis is down, and when it is back."""

import asyncio
import shutil
import subprocess
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from mahsm import RateLimit, Retry, is_item_error, limits, vmap
from mahsm._waiting import TASK, THREAD, run_blocking
from mahsm.errors import LimitError
from mahsm.limits import _shared
from mahsm.limits._registry import bucket, define
from tests.limits.redis_process import RedisProcess, free_port, redis_process, until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisProcess]:
    with redis_process(tmp_path) as server:
        yield server
    limits.share(None)


async def refused(name: str) -> None:
    """A call does not begin, and its timeout ends it."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bucket(name).acquire(TASK), 0.3)


async def test_nobody_begins_and_those_that_wait_keep_their_place(
    name: str, server: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    define(name, RateLimit(rps=1000, burst=1000))
    limits.share(server.url)
    assert await bucket(name).acquire(TASK) is not None
    server.kill()
    order: list[int] = []

    async def one(number: int) -> None:
        assert await bucket(name).acquire(TASK) is not None
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(one(number))
        await refused(name)
        assert await bucket(name).acquire(TASK, may_wait=False) is None
        assert limits.stats()[name].admitted == 1
        assert limits.stats()[name].waiting == 5
        await asyncio.to_thread(server.start)
    assert order == [0, 1, 2, 3, 4]
    said = [record.getMessage() for record in caplog.records if record.name == "mahsm.limits"]
    assert [text.partition(" ")[2] for text in said] == [
        "cannot be reached (ConnectionError). Calls that share a limit wait until it is back.",
        "can be reached again.",
    ]


def test_deadlines_and_timeouts_end_the_wait(name: str, server: RedisProcess) -> None:
    limits.share(server.url)
    server.kill()
    limit = RateLimit(name, rps=1000)
    edge = vmap(
        lambda state: state["item"],
        batch_key="xs",
        out_key="ys",
        rate_limit=limit,
        deadline=0.3,
        on_error="collect",
    )
    found = edge.invoke({"xs": [1, 2]})["ys"]
    assert [is_item_error(entry) and entry["type"] for entry in found] == ["TimeoutError"] * 2
    server.start()
    assert edge.invoke({"xs": [1, 2]})["ys"] == [1, 2]


async def test_a_server_that_hangs_admits_nobody(name: str, server: RedisProcess) -> None:
    define(name, RateLimit(rps=1000))
    limits.share(f"{server.url}?socket_timeout=0.2")
    assert await bucket(name).acquire(TASK) is not None
    server.stop()
    await refused(name)
    assert limits.stats()[name].admitted == 1
    server.go_on()
    assert await bucket(name).acquire(TASK) is not None


async def test_raise(name: str, server: RedisProcess) -> None:
    define(name, RateLimit(rps=1000))
    limits.share(server.url, if_down="raise")
    assert await bucket(name).acquire(TASK) is not None
    server.kill()
    with pytest.raises(LimitError, match=f"the limit of '{name}' is shared, and {server.url} cannot be"):
        await bucket(name).acquire(TASK)
    edge = vmap(
        lambda state: state["item"], batch_key="xs", out_key="ys", rate_limit=name, retry=Retry(attempts=2)
    )
    with pytest.raises(LimitError, match="cannot be reached"):
        await edge.ainvoke({"xs": [1]})
    server.start()
    assert await edge.ainvoke({"xs": [1]}) == {"ys": [1]}


async def test_local_takes_a_part_of_the_rate(name: str, server: RedisProcess) -> None:
    define(name, RateLimit(rps=1000, burst=10))
    limits.share(server.url, if_down="local")
    with redis.Redis.from_url(server.url) as client:
        client.zadd(f"mahsm:{{{name}}}:sharers", {f"other{n}": client.time()[0] + 60 for n in range(3)})
    assert await bucket(name).acquire(TASK) is not None
    server.kill()
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(60):
        assert await bucket(name).acquire(TASK) is not None
    # A quarter of the rate and of the burst, empty at first.
    assert max(1, 10 / 4) + 1000 / 4 * (loop.time() - began) >= 60
    server.start()
    with redis.Redis.from_url(server.url) as client:
        until(lambda: bool(client.exists(f"mahsm:{{{name}}}:sharers")))


@pytest.mark.parametrize("is_mine", [True, False])
async def test_who_waits_for_a_pause_to_end_is_there(
    name: str, server: RedisProcess, monkeypatch: pytest.MonkeyPatch, is_mine: bool
) -> None:
    """A process that is not counted would leave the others a larger part of the rate."""
    monkeypatch.setattr(_shared, "_BEAT", 0.05)
    define(name, RateLimit(rps=1000))
    limits.share(server.url, if_down="local")
    assert await bucket(name).acquire(TASK) is not None
    with redis.Redis.from_url(server.url) as client:
        if is_mine:
            bucket(name).pause(3600)
        else:
            client.hset(f"mahsm:{{{name}}}", "p", client.time()[0] + 3600)
        waiting = asyncio.ensure_future(bucket(name).acquire(TASK))
        await asyncio.to_thread(until, lambda: limits.stats()[name].waiting == 1)
        for _ in range(3):
            client.delete(f"mahsm:{{{name}}}:sharers")
            await asyncio.to_thread(until, lambda: client.zcard(f"mahsm:{{{name}}}:sharers") == 1)
        waiting.cancel()


async def test_local_keeps_to_a_pause_of_another_process(name: str, server: RedisProcess) -> None:
    define(name, RateLimit(rps=1000))
    limits.share(server.url, if_down="local")
    assert await bucket(name).acquire(TASK) is not None
    with redis.Redis.from_url(server.url) as client:
        client.hset(f"mahsm:{{{name}}}", "p", client.time()[0] + 3600)
    assert await bucket(name).acquire(TASK, may_wait=False) is None
    server.kill()
    await refused(name)


async def test_local_without_a_number_of_sharers_waits(name: str, server: RedisProcess) -> None:
    server.kill()
    define(name, RateLimit(rps=1000))
    limits.share(server.url, if_down="local")
    await refused(name)
    server.start()
    assert await bucket(name).acquire(TASK) is not None


async def test_a_pause_that_redis_missed_is_told_when_it_is_back(name: str, server: RedisProcess) -> None:
    define(name, RateLimit(rps=1000))
    limits.share(server.url)
    assert await bucket(name).acquire(TASK) is not None
    server.kill()
    bucket(name).pause(3600)
    await refused(name)
    server.start()
    with redis.Redis.from_url(server.url) as client:
        until(lambda: float(client.hget(f"mahsm:{{{name}}}", "p") or 0) > client.time()[0] + 3000)


@pytest.mark.parametrize("if_down", ["wait", "local", "raise"])
async def test_a_wrong_password_is_an_error_and_is_not_shown(
    name: str, tmp_path: Path, if_down: Any, caplog: pytest.LogCaptureFixture
) -> None:
    define(name, RateLimit(rps=1000))
    with redis_process(tmp_path, password="righ7-One") as server:
        try:
            limits.share(server.url.replace("righ7-One", "wr0ng-One"), if_down=if_down)
            with pytest.raises(LimitError, match="refuses: ") as caught:
                await bucket(name).acquire(TASK)
            limits.share(None)
            limits.share(server.url, if_down=if_down)
            assert await bucket(name).acquire(TASK) is not None
        finally:
            limits.share(None)
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "wr0ng" not in shown
    assert "righ7" not in shown


def certificate(folder: Path) -> tuple[str, str]:
    """Make a certificate of localhost; return the files of its key and of itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl, to make a certificate")
    key, cert = str(folder / "key.pem"), str(folder / "cert.pem")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    subprocess.run([*made, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return key, cert


def test_tls(name: str, tmp_path: Path) -> None:
    key, cert = certificate(tmp_path)
    port = free_port()
    options = ("--tls-port", str(port), "--tls-key-file", key, "--tls-cert-file", cert)
    define(name, RateLimit(rps=1000))
    with redis_process(tmp_path, "righ7-One", (*options, "--tls-auth-clients", "no")):
        limits.share(f"rediss://:righ7-One@localhost:{port}?ssl_ca_certs={cert}")
        try:
            assert run_blocking(bucket(name).acquire(THREAD)) is not None
        finally:
            limits.share(None)
