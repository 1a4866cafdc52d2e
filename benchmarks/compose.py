"""What functions made of functions add to each call: CPU of the fast paths, and calls that are made once.

CPU figures are the best of several rounds. Beside them stand libraries that do a part of the same.
"""

import asyncio
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cachetools
import tenacity

from benchmarks import report
from benchmarks.report import Figure
from mahsm import cache, chain, ensemble, retry

Rows = list[list[str]]
STEPS, BLOCKING_MS = 10, 50.0


def cpu_us(function: Callable[[], Any], calls: int) -> float:
    """CPU microseconds of a call, the best of seven rounds."""
    best = float("inf")
    for _ in range(7):
        began = time.process_time()
        for _ in range(calls):
            function()
        best = min(best, time.process_time() - began)
    return best / calls * 1e6


def step(x: int) -> int:
    return x


def overhead(calls: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    plain = cpu_us(lambda: step(1), calls)
    chained, retried = chain(*[step] * STEPS), retry(step)
    cached, timed = cache(str.upper), cache(str.upper, ttl=3600)
    cached("text"), timed("text")
    by_tenacity = tenacity.retry(stop=tenacity.stop_after_attempt(3))(step)
    by_cachetools = cachetools.cached(cachetools.TTLCache(1000, 3600), lock=threading.Lock())(str.upper)
    by_functools = functools.lru_cache(1000)(str.upper)
    found = {
        "a step of a chain": cpu_us(lambda: chained(1), calls) / STEPS - plain,
        "retry, no failure": cpu_us(lambda: retried(1), calls) - plain,
        "tenacity, no failure": cpu_us(lambda: by_tenacity(1), calls) - plain,
        "cache, hit": cpu_us(lambda: cached("text"), calls),
        "cache with ttl, hit": cpu_us(lambda: timed("text"), calls),
        "cachetools.cached with ttl and lock, hit": cpu_us(lambda: by_cachetools("text"), calls),
        "functools.lru_cache, hit": cpu_us(lambda: by_functools("text"), calls),
    }
    rows = [["call", "CPU us"], *([name, f"{us:.2f}"] for name, us in found.items())]
    asked = {"a step of a chain": 5, "retry, no failure": 20, "cache, hit": 3, "cache with ttl, hit": 3}
    return [Figure(f"CPU, {name}", found[name], most, "us") for name, most in asked.items()], rows, found


def concurrent(rounds: int) -> tuple[list[Figure], dict[str, Any]]:
    members = ensemble(*[lambda _: time.sleep(BLOCKING_MS / 1000)] * 8)
    walls: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        members(1)
        walls.append((time.perf_counter() - began) * 1000)
    return [Figure("ensemble of eight blocking functions of 50 ms", min(walls), 55, "ms")], {"ms": walls}


def misses() -> tuple[list[Figure], dict[str, Any]]:
    """Eight equal misses: four threads, and two tasks on each of two event loops."""
    calls: list[int] = []
    barrier = threading.Barrier(6)

    @cache
    def slow(x: int) -> int:
        calls.append(x)
        time.sleep(0.2)
        return x

    def in_thread() -> None:
        barrier.wait()
        slow(1)

    async def two() -> None:
        barrier.wait()
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(slow.acall(1))

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(in_thread) for _ in range(4)]
        running += [pool.submit(lambda: asyncio.run(two())) for _ in range(2)]
        for each in running:
            each.result()
    return [Figure("eight equal misses from four threads and two loops", len(calls), 1, "calls")], {
        "calls": len(calls),
        "hits": slow.info().hits,
    }


def main(*, quick: bool) -> int:
    parts: dict[str, report.Part] = {
        "overhead": lambda: overhead(200 if quick else 50_000),
        "concurrent": lambda: concurrent(2 if quick else 20),
        "misses": misses,
    }
    return report.run("compose", parts, quick=quick)
