"""Processes that make calls together, and a Redis for them."""

import json
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TASKS = 64
"""Tasks of each process that wait in line."""

WORKER = r"""
import asyncio, json, os, struct, sys, time

kind, url, given, out = sys.argv[1:]
given = json.loads(given)
file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
waits = []


async def target():
    os.write(file, struct.pack("d", time.monotonic()))


def median(values):
    return sorted(values)[len(values) // 2] if values else 0.0


async def crowd(take):
    items = iter(range(given["items"]))

    async def one():
        for _ in items:
            began = time.monotonic()
            await take()
            waits.append(time.monotonic() - began)
            await target()

    async with asyncio.TaskGroup() as group:
        for _ in range(given["tasks"]):
            group.create_task(one())


async def throttled_gcra():
    from throttled.asyncio import RateLimiterType, Throttled, rate_limiter, store

    throttle = Throttled(
        key="benchmark",
        using=RateLimiterType.GCRA.value,
        quota=rate_limiter.per_sec(int(given["rps"]), burst=int(given["burst"])),
        store=store.RedisStore(server=url),
        timeout=60,
    )
    await crowd(throttle.limit)


async def pyrate_bucket():
    from pyrate_limiter import Limiter, Rate, RedisBucket
    from redis.asyncio import Redis

    rates = [Rate(int(given["burst"]), int(1000 * given["burst"] / given["rps"]))]
    limiter = Limiter(await RedisBucket.init(rates, Redis.from_url(url), "benchmark"))
    await crowd(lambda: limiter.try_acquire_async("benchmark"))


async def ours():
    async def take():
        async with limits.admit("benchmark", tokens=given.get("tokens", 0)):
            limits.report(input_tokens=given.get("used", 0))

    await crowd(take)


if kind == "mahsm":
    from mahsm import RateLimit, limits

    limits.share(url)
    names = ("rps", "burst", "tpm", "token_burst")
    limits.admit(RateLimit("benchmark", **{name: given[name] for name in names if name in given}))
print("ready", flush=True)
sys.stdin.readline()
began = time.process_time()
asyncio.run({"mahsm": ours, "throttled": throttled_gcra, "pyrate": pyrate_bucket}[kind]())
print(json.dumps([median(waits), time.process_time() - began]))
"""


class Redis:
    """A Redis on a socket of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "socket"
        self.url = f"unix://{self.socket}"
        self.start()

    def start(self) -> None:
        given = ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--save", ""]
        self._process = subprocess.Popen([*given, "--appendonly", "no"], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "ready to accept" in line.lower():
                break

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def redis() -> Generator[Redis, None, None]:
    with tempfile.TemporaryDirectory() as folder:
        server = Redis(Path(folder))
        try:
            yield server
        finally:
            server.kill()


class Run:
    """Processes that make calls together; `began` is when they were let go."""

    def __init__(
        self, server: Redis, folder: Path, processes: int, kind: str = "mahsm", **given: Any
    ) -> None:
        self.files = [folder / f"{kind}{number}" for number in range(processes)]
        shown = json.dumps({"tasks": TASKS, **given})
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, kind, server.url, shown, str(file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for file in self.files
        ]
        for process in self.processes:
            assert process.stdout is not None
            process.stdout.readline()
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        self.began = time.monotonic()
        self.reports: list[list[float]] = []

    def times(self) -> list[float]:
        """When each call began."""
        found = [file.read_bytes() for file in self.files if file.exists()]
        return sorted(
            time for data in found for (time,) in struct.iter_unpack("d", data[: len(data) // 8 * 8])
        )

    def wait_for(self, calls: int) -> None:
        """Wait until so many calls have begun."""
        while sum(file.stat().st_size for file in self.files if file.exists()) < 8 * calls:
            time.sleep(0.01)

    def end(self) -> list[float]:
        """Wait for the processes; return when each call began."""
        for process in self.processes:
            printed, _ = process.communicate()
            if process.returncode == 0:
                self.reports.append(json.loads(printed))
        return self.times()


def installed() -> bool:
    """Whether there is a Redis to start."""
    return shutil.which("redis-server") is not None
