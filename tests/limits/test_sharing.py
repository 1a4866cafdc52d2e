"""`limits.share`: its arguments, and that no password is ever shown."""

import asyncio
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import ClusterDownError, NoPermissionError, ResponseError

from mahsm import RateLimit, limits
from mahsm._redis import _is_refusal, address_of, server_of
from mahsm._waiting import TASK
from mahsm.errors import LimitError
from mahsm.limits._internal import shared
from mahsm.limits._registry import bucket, define
from mahsm.limits._sharing import Sharing
from mahsm.testing import Clock
from tests.limits.redis_process import until

URL = "redis://reader:s3cretPassw0rd@127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def not_shared() -> Iterator[None]:
    yield
    limits.share(None)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (7, "limits.share: 7; expected a URL such as 'redis://localhost:6379/0'"),
        ("localhost:6379", "the URL has the scheme 'localhost'; expected redis://"),
        ("http://localhost", "the URL has the scheme 'http'"),
        ("", "the URL has the scheme ''"),
        ("redis://:half/other@host:6379", "the redis:// URL cannot be read.*percent-encoded"),
        ("redis://:12/other@host:6379", "cannot be read"),
        ("redis://:12#other@host:6379", "cannot be read"),
        ("redis://host:port", "cannot be read"),
        ("redis://host?socket_timeout=soon", "cannot be read"),
        ("redis://host?timeout=3", "has an option that redis-py's connections do not take"),
        ("unix://redis.sock", "has no path; expected three slashes"),
    ],
)
def test_a_url_that_cannot_be(url: Any, why: str) -> None:
    with pytest.raises(LimitError, match=why) as caught:
        limits.share(url)
    shown = "".join(traceback.format_exception(caught.value))
    assert "half" not in shown
    assert "other" not in shown.replace("other@host", "")


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ResponseError("OOM command not allowed when used memory > 'maxmemory'."), True),
        # As Redis 6 says it.
        (ResponseError("ERR Error running script (call to f_1): @user_script: 4: -READONLY You can't"), True),
        (ClusterDownError("Hash slot not served"), True),
        (ResponseError("MISCONF Redis is configured to save RDB snapshots"), True),
        (ResponseError("ERR user_script:4: attempt to compare nil with number"), False),
        (NoPermissionError("this user has no permissions to run the 'evalsha' command"), False),
    ],
)
def test_errors_of_redis_that_pass_are_waited_for(error: Exception, passes: bool) -> None:
    assert _is_refusal(error) is not passes


@pytest.mark.parametrize("if_down", ["open", None, True, "WAIT"])
def test_what_to_do_while_redis_is_down_is_one_of_three(if_down: Any) -> None:
    with pytest.raises(LimitError, match="expected one of 'wait', 'local', 'raise'"):
        limits.share("redis://localhost", if_down=if_down)
    assert shared() is None


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://user:pass@host:7000/3", "redis://host:7000/3"),
        ("rediss://:pass@host/2?ssl_cert_reqs=none", "rediss://host:6379/2"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("unix://user:pass@/run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_an_address_has_no_password(url: str, address: str) -> None:
    assert address_of(url, "test", LimitError) == address


def test_nothing_shows_the_password(name: str) -> None:
    limits.share(URL, if_down="raise")
    sharing = Sharing.of(URL, "raise")
    assert "s3cret" not in f"{sharing!r} {sharing.server!r} {server_of(URL, sharing.address)}"
    with pytest.raises(LimitError, match=r"redis://127\.0\.0\.1:1/0 with if_down='wait'") as caught:
        limits.share(URL)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


async def test_errors_and_logs_do_not_show_the_password(name: str, caplog: pytest.LogCaptureFixture) -> None:
    define(name, RateLimit(rps=10))
    limits.share(URL, if_down="raise")
    with pytest.raises(LimitError, match=r"redis://127\.0\.0\.1:1/0 cannot be reached") as caught:
        await bucket(name).acquire(TASK)
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(limits.stats())
    assert (
        "cannot be reached (ConnectionError). Calls that share a limit fail until it is back." in caplog.text
    )
    assert "s3cret" not in shown
    assert "reader" not in shown


def test_sharing_again_is_of_no_effect_and_otherwise_refused() -> None:
    limits.share("redis://localhost:1")
    limits.share("redis://localhost:1")
    for changed in ({"if_down": "raise"}, {"url": "redis://localhost:2"}):
        with pytest.raises(LimitError, match=r"Call limits.share\(None\) first"):
            limits.share(**{"url": "redis://localhost:1", **changed})
    assert shared() == ("redis://localhost:1", "wait")
    limits.share(None)
    limits.share(None)
    assert shared() is None


def test_without_redis_py_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ImportError, match=r"pip install 'mahsm\[redis\]'"):
        limits.share("redis://localhost")


def test_a_key_must_be_the_same_in_all_processes(name: str) -> None:
    define(name, RateLimit(rps=10))
    limits.share("redis://localhost:1")
    assert bucket(name, ("a", 1)) is not bucket(name, ("a", 2))
    with pytest.raises(LimitError, match="its key returned a object; expected a string"):
        bucket(name, object())


async def test_it_is_refused_while_calls_wait(name: str) -> None:
    define(name, RateLimit(rps=0.001, burst=1))
    await bucket(name).acquire(TASK)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(bucket(name).acquire(TASK))
        await asyncio.to_thread(until, lambda: limits.stats()[name].waiting == 1)
        with pytest.raises(LimitError, match=f"calls wait in line for '{name}'"):
            limits.share("redis://localhost:1")
        waiting.cancel()


def test_a_fake_clock_has_limits_of_its_own(name: str) -> None:
    limits.share("redis://localhost:1", if_down="raise")
    define(name, RateLimit(rps=1, burst=1))

    async def twice() -> None:
        await bucket(name).acquire(TASK)
        await bucket(name).acquire(TASK)

    clock = Clock()
    clock.run(twice())
    assert clock.now == pytest.approx(1)
    assert shared() == ("redis://localhost:1", "raise")
