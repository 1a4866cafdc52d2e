"""One quota for several processes, by Redis: pace, fairness, cost, kills, and a Redis that is down."""

import asyncio
import signal
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.report import Figure
from benchmarks.sharers import TASKS, Run, redis
from mahsm import RateLimit, limits
from mahsm._waiting import TASK
from mahsm.limits._registry import bucket, define

Rows = list[list[str]]


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
    return [Figure(f"CPU of a call, {calls:,} at once", found["shared"], 50, "us")], rows, found


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
