"""Several processes that share limits: the rate by Redis's own clock, kills, definitions, pauses."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest

from mahsm import RateLimit, limits
from mahsm._waiting import TASK, THREAD, run_blocking
from mahsm.errors import LimitError
from mahsm.limits._registry import bucket, define

SHARER = Path(__file__).parent / "sharer.py"


class Start(NamedTuple):
    """The moments, by the clock of Redis, between which a call was let through."""

    earliest: float
    latest: float


class Sharer:
    """A process that shares limits."""

    def __init__(self, url: str, provider: str, calls: int, tasks: int, **limit: Any) -> None:
        given = [url, provider, str(calls), str(tasks), json.dumps(limit)]
        self.process = subprocess.Popen(
            [sys.executable, str(SHARER), *given], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []

    def ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def wait_for_calls(self) -> None:
        """Wait until some calls have been let through."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if json.loads(line)[2]:
                return

    def drain(self) -> None:
        """Read all that it writes, so that it is not held up."""

        def read() -> None:
            for line in self.process.stdout or []:
                self.lines.append(line)

        Thread(target=read, daemon=True).start()

    def end(self) -> int:
        """Wait for the end; return the number of calls that were made."""
        self.lines += self.process.communicate()[0].splitlines()
        return json.loads(self.lines.pop()) if self.process.returncode == 0 else -1

    def starts(self) -> list[Start]:
        answers = [json.loads(line) for line in self.lines]
        return [
            Start(before + delay, after + delay) for before, after, delays, _ in answers for delay in delays
        ]


@contextmanager
def sharers(count: int, redis_server: str, name: str, calls: int, tasks: int, **limit: Any) -> Generator[Any]:
    given = [Sharer(f"unix://{redis_server}", name, calls, tasks, **limit) for _ in range(count)]
    try:
        for sharer in given:
            sharer.ready()
        for sharer in given:
            sharer.go()
        yield given
    finally:
        for sharer in given:
            sharer.process.kill()
            sharer.process.communicate()


def check_rate(starts: list[Start], rate: float, burst: float) -> None:
    """Between any two moments, no more calls than `burst + rate * t` were let through.

    Only those count that surely began between the two: on a busy machine, a process may learn late that its
    calls were let through.
    """
    starts = sorted(starts, key=lambda start: start.latest)
    for earliest, _ in starts:
        within = [latest for since, latest in starts if since >= earliest]
        for count, latest in enumerate(within, start=1):
            assert count <= burst + rate * (latest - earliest + 1e-3)


CASES = [
    ({"rps": 400, "burst": 8}, 400, 8),
    ({"rps": 300, "burst": 1}, 300, 1),
    # A call takes 8 of the 10 tokens that are reserved.
    ({"tpm": 60 * 3200, "token_burst": 80}, 400, 10),
]


@pytest.mark.parametrize(("limit", "rate", "burst"), CASES)
def test_four_processes_keep_to_one_quota(
    redis_server: str, name: str, limit: dict[str, float], rate: float, burst: float
) -> None:
    with sharers(4, redis_server, name, 60, 16, **limit) as given:
        assert [sharer.end() for sharer in given] == [60] * 4
        starts = [start for sharer in given for start in sharer.starts()]
    assert len(starts) == 240
    # What was given back has been let through a second time; it can be as much as was in flight.
    check_rate(starts, rate, burst if "rps" in limit else burst + 0.25 * 240)


def test_a_process_that_is_killed_takes_nothing_with_it(redis_server: str, name: str) -> None:
    with sharers(3, redis_server, name, 80, 16, rps=300, burst=5) as given:
        for sharer in given:
            sharer.wait_for_calls()
        given[0].process.kill()
        assert [sharer.end() for sharer in given] == [-1, 80, 80]
        check_rate([start for sharer in given for start in sharer.starts()], 300, 5)


def test_few_callers_are_not_starved_by_many_of_another_process(redis_server: str, name: str) -> None:
    limit = {"rps": 200, "burst": 1}
    with (
        sharers(1, redis_server, name, 2000, 24, **limit) as many,
        sharers(1, redis_server, name, 10, 1, **limit) as few,
    ):
        many[0].drain()
        assert few[0].end() == 10
        assert many[0].process.poll() is None


def test_a_large_request_is_not_passed_by(redis_server: str, name: str) -> None:
    """It needs a full bucket, which the small ones of another process would never let fill up."""
    limit = {"tpm": 60 * 2000, "token_burst": 500}
    with sharers(1, redis_server, name, 2000, 24, **limit) as small:
        small[0].wait_for_calls()
        small[0].drain()
        define(name, RateLimit(**limit))
        limits.share(f"unix://{redis_server}")
        try:
            assert run_blocking(bucket(name).acquire(THREAD, 500)) is not None
            assert len(small[0].starts()) < 1000
        finally:
            limits.share(None)


def test_definitions_that_differ_between_processes(redis_server: str, name: str) -> None:
    with sharers(1, redis_server, name, 1000, 4, rps=50, burst=2) as given:
        given[0].wait_for_calls()
        define(name, RateLimit(rps=100, burst=2))
        limits.share(f"unix://{redis_server}")
        try:
            with pytest.raises(
                LimitError, match=r"rps=100, burst=2\) in this .*rps=50, burst=2\) in another"
            ):
                run_blocking(bucket(name).acquire(THREAD))
        finally:
            limits.share(None)


async def test_a_pause_holds_in_the_other_processes(redis_server: str, name: str) -> None:
    define(name, RateLimit(rps=200, burst=2))
    limits.share(f"unix://{redis_server}")
    try:
        with sharers(2, redis_server, name, 10_000, 4, rps=200, burst=2) as given:
            for sharer in given:
                sharer.wait_for_calls()
            assert await bucket(name).acquire(TASK) is not None
            bucket(name).pause(3600)
            for sharer in given:
                await asyncio.to_thread(read_until_paused, sharer)
    finally:
        limits.share(None)


def read_until_paused(sharer: Sharer) -> None:
    """Read until an answer lets nobody through; those that come in an hour are not waited for."""
    for line in sharer.process.stdout or []:
        _, _, delays, nap = json.loads(line)
        if not delays and nap > 3000:
            return
    raise AssertionError("it has ended")


def test_a_fork_shares_too(redis_server: str, name: str) -> None:
    script = f"""
import asyncio, os, sys
from mahsm import RateLimit, limits
from mahsm._waiting import THREAD, run_blocking
from mahsm.limits._registry import bucket, define

def call():
    define("{name}", RateLimit(rps=1e-6, burst=2))
    return run_blocking(bucket("{name}").acquire(THREAD, may_wait=False)) is not None

limits.share("unix://{redis_server}")
assert call()
child = os.fork()
if child == 0:
    os._exit(10 + call() + call())
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11
assert not call()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
