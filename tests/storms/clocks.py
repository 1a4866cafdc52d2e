"""Clocks that jump, and a process that stands still."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from mahsm import RateLimit, Retry, vmap

RATE, BURST, CALLS = 200, 5, 100


def _limited_run() -> None:
    """Check that a run with a limit, a deadline and a retry is right, and that the limit is kept by the
    monotonic clock."""
    calls = 0
    tried: set[int] = set()

    async def target(state: dict[str, Any]) -> int:
        nonlocal calls
        calls += 1
        if state["item"] % 10 == 0 and state["item"] not in tried:
            tried.add(state["item"])
            raise ConnectionError("reset")
        return state["item"]

    edge = vmap(
        target,
        batch_key="xs",
        out_key="ys",
        max_concurrency=50,
        rate_limit=RateLimit("clocks", rps=RATE, burst=BURST),
        retry=Retry(base=0.001),
        deadline=600,
    )
    began = time.monotonic()
    assert edge.invoke({"xs": list(range(CALLS))}) == {"ys": list(range(CALLS))}
    seconds = time.monotonic() - began
    assert BURST + RATE * seconds * 1.05 >= calls, (
        f"{calls} calls in {seconds:.3f} s, and the burst is {BURST}"
    )
    assert seconds < 60, f"{calls} calls took {seconds:.0f} s"


def jumps(times: int) -> str:
    """`time.time` jumps by hours, forth and back, while edges run."""
    real, ahead = time.time, [0.0]
    time.time = lambda: real() + ahead[0]
    over = threading.Event()

    def jump() -> None:
        sign = 1
        while not over.wait(0.02):
            sign = -sign
            ahead[0] += sign * 3600.0

    thread = threading.Thread(target=jump)
    thread.start()
    try:
        for _ in range(times):
            _limited_run()
    finally:
        over.set()
        thread.join()
        time.time = real
    return f"{times} runs"


def stops(seconds: int) -> str:
    """A process is stopped for seconds, and goes on."""
    worker = subprocess.Popen(
        [sys.executable, "-c", "from tests.storms.clocks import stopped_run; stopped_run()"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "begun\n"
    os.kill(worker.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(worker.pid, signal.SIGCONT)
    rest, _ = worker.communicate(timeout=120)
    assert worker.returncode == 0, f"the worker ended with {worker.returncode}"
    assert rest == "done\n"
    return f"{seconds} s"


def stopped_run() -> None:
    """What the process does that is stopped."""
    begun = threading.Event()

    async def first(_: Any) -> int:
        begun.set()
        await asyncio.sleep(0.2)
        return 0

    def say() -> None:
        begun.wait()
        print("begun", flush=True)

    threading.Thread(target=say).start()
    edge = vmap(first, batch_key="xs", out_key="ys", deadline=600, timeout=600, max_concurrency=2)
    assert edge.invoke({"xs": [0, 1, 2, 3]}) == {"ys": [0, 0, 0, 0]}
    _limited_run()
    print("done", flush=True)
