"""One quota for several processes, by Redis: pace, fairness, cost, kills, and a Redis that is down."""

import asyncio
import json
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.report import Figure
from mahsm import RateLimit, limits
from mahsm._waiting import TASK
from mahsm.limits._registry import bucket, define

Rows = list[list[str]]

TASKS = 64

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


async def throttled_bucket():
    from throttled.asyncio import RateLimiterType, Throttled, rate_limiter, store

    throttle = Throttled(
        key="benchmark",
        using=RateLimiterType.TOKEN_BUCKET.value,
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
asyncio.run({"mahsm": ours, "throttled": throttled_bucket, "pyrate": pyrate_bucket}[kind]())
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


def above(times: list[float], rate: float, burst: float) -> float:
    """The most calls above `burst + rate * t`, over all times t."""
    most, least = 0.0, float("inf")
    for number, moment in enumerate(times):
        least = min(least, number - rate * (moment - times[0]))
        most = max(most, number + 1 - rate * (moment - times[0]) - least - burst)
    return most


def figures_of(run: Run, times: list[float], rate: float, burst: float) -> tuple[float, float, float, float]:
    """Seconds / ideal; calls above the line; longest / shortest median wait of a process; CPU us."""
    waits = [wait for wait, _ in run.reports]
    cpu = sum(seconds for _, seconds in run.reports) / len(times) * 1e6
    ratio = (times[-1] - times[0]) / ((len(times) - burst) / rate)
    return ratio, above(times, rate, burst), max(waits) / max(min(waits), 1e-3), cpu


CASES: dict[str, tuple[dict[str, float], float, float]] = {
    "100 rps": ({"rps": 100, "burst": 10}, 100, 10),
    "2,000 rps": ({"rps": 2000, "burst": 200}, 2000, 200),
    # Calls take 80 tokens of the 100 that are reserved: 250 of them a second.
    "tokens": ({"tpm": 1_200_000, "token_burst": 2000, "tokens": 100, "used": 80}, 250, 25),
}


def pace(seconds: float, processes: int, *, with_peers: bool) -> tuple[list[Figure], Rows, dict[str, Any]]:
    """Calls for so many seconds; and the same calls by other libraries, at the lower rate."""
    rows = [[f"{processes} processes x {TASKS}", "", "seconds / ideal", "above the line", "waits", "CPU us"]]
    figures: list[Figure] = []
    found: dict[str, Any] = {}
    for name, (given, rate, burst) in CASES.items():
        peers = {"pyrate_limiter": "pyrate", "throttled": "throttled"} if with_peers and rate == 100 else {}
        for kind in ["mahsm", *(kind for module, kind in peers.items() if find_spec(module))]:
            with redis() as server, tempfile.TemporaryDirectory() as folder:
                items = int((rate * seconds + burst) / processes)
                run = Run(server, Path(folder), processes, kind, items=items, **given)
                ratio, most, waits, cpu = figures_of(run, run.end(), rate, burst)
            found[f"{name}, {kind}"] = [ratio, most, waits, cpu]
            rows.append([name, kind, f"{ratio:.4f}", f"{most:.1f}", f"{waits:.2f}", f"{cpu:.0f}"])
            if kind == "mahsm":
                figures += [
                    Figure(f"{name}: seconds / ideal", ratio, 1.02),
                    Figure(f"{name}: seconds / ideal, at least", ratio, 0.99, at_least=True),
                    Figure(f"{name}: longest / shortest median wait of a process", waits, 2),
                    Figure(f"{name}: most above burst + rate * t / burst", most / burst, 1),
                ]
    return figures, rows, found


def cost(calls: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    """CPU of a call of a crowd, all at once, with a quota that holds up nobody."""

    async def crowd() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(calls):
                group.create_task(bucket("benchmark").acquire(TASK))

    found: dict[str, float] = {}
    with redis() as server:
        for kind in ("shared", "one process"):
            limits.share(server.url if kind == "shared" else None)
            limits.forget("benchmark")
            define("benchmark", RateLimit("benchmark", rps=1e6, burst=1e6))
            each: list[float] = []
            for _ in range(5):
                began = time.process_time()
                asyncio.run(crowd())
                each.append((time.process_time() - began) / calls * 1e6)
            found[kind] = min(each)
    rows = [["CPU us of a call", *found], [f"{calls:,} at once", *(f"{us:.1f}" for us in found.values())]]
    figures = [
        Figure(f"CPU of a call, {calls:,} at once", found["shared"], 50, "us"),
        Figure("CPU of a call, shared / one process", found["shared"] / found["one process"], 1.5),
    ]
    return figures, rows, found


def kill(seconds: float, processes: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    """Kill one of the processes a third of the way; then what the others get, and that nobody gets more."""
    rate, burst = 200.0, 20.0
    with redis() as server, tempfile.TemporaryDirectory() as folder:
        items = int(rate * seconds / processes)
        run = Run(server, Path(folder), processes, rps=rate, burst=burst, items=items)
        run.wait_for(int(rate * seconds / 3))
        run.processes[0].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        times = run.end()
    # The last calls are those of one process, and have no others beside them.
    end = times[-1] - 0.1 * seconds
    after = [moment for moment in times if killed + 0.5 <= moment <= end]
    share = len(after) / (rate * max(end - killed - 0.5, 0.01))
    most = above(times, rate, burst)
    rows = [
        [
            f"kill -9 of one of {processes} processes",
            "share of the rate after half a second",
            "most above the line",
        ]
    ]
    figures = [
        Figure("one process killed: share of the rate, after half a second", share, 0.98, at_least=True),
        Figure("one process killed: most above burst + rate * t / burst", most / burst, 1),
    ]
    return figures, [*rows, ["", f"{share:.3f}", f"{most:.1f}"]], {"share": share, "above": most}


def down(seconds: float, processes: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    """Kill Redis on the way, and start it again, empty."""
    rate, burst = 200.0, 20.0
    items = int(rate * seconds / processes)
    with redis() as server, tempfile.TemporaryDirectory() as folder:
        run = Run(server, Path(folder), processes, rps=rate, burst=burst, items=items)
        run.wait_for(int(rate * seconds / 3))
        server.kill()
        killed = time.monotonic()
        time.sleep(seconds / 3)
        back = time.monotonic()
        server.start()
        times = run.end()
    # What was given may begin within the horizon of 50 ms, and is seen a little later.
    meanwhile = [moment for moment in times if killed + 0.2 < moment < back]
    first = next((moment for moment in times if moment >= back), float("inf")) - back
    most = above(times, rate, burst)
    rows = [
        ["Redis is killed", "begun while down", "seconds until the first after", "most above the line"],
        [f"for {seconds / 3:.1f} s", str(len(meanwhile)), f"{first:.2f}", f"{most:.1f}"],
    ]
    figures = [
        Figure("Redis is down: calls that begin", len(meanwhile), 0, "calls"),
        Figure("Redis is back, empty: calls that were lost", items * processes - len(times), 0, "calls"),
        Figure("Redis is back, empty: most above burst + rate * t / burst", most / burst, 1),
    ]
    return figures, rows, {"down": len(meanwhile), "first": first, "above": most}


def installed() -> bool:
    """Whether there is a Redis to start."""
    return shutil.which("redis-server") is not None
