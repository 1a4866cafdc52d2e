"""What a run must not leave behind: tasks, threads, slots, tokens and file handles."""

import asyncio
import gc
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from mahsm import limits, vmap

PATIENCE = 60.0
"""Seconds that threads and connections have to end after a run; a busy machine takes its time."""


def _until(done: Callable[[], bool], left: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, f"left behind: {left()}"
        time.sleep(0.002)


_reported: set[threading.Thread] = set()
"""Threads that an example before has left behind; each counts once."""


def _threads() -> list[threading.Thread]:
    return [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("mahsm-item") and thread not in _reported
    ]


def wait_for_threads() -> None:
    """Wait until every thread that items ran in has ended."""
    deadline = time.monotonic() + PATIENCE
    while (left := _threads()) and time.monotonic() < deadline:
        if left[0].is_alive():  # else it has not started yet
            left[0].join(timeout=max(0.0, deadline - time.monotonic()))
    _reported.update(left)
    assert not left, "left behind: " + "".join(map(_stack_of, left))


def _stack_of(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return f"{thread}\n{''.join(traceback.format_stack(frame))}"


CLOSING = "closing"
"""Name of the task that waits for all others, when a loop is closed."""


async def tasks_left() -> None:
    """Check that no task of the running loop but this one is left."""
    deadline = time.monotonic() + PATIENCE
    while left := [
        task for task in asyncio.all_tasks() - {asyncio.current_task()} if task.get_name() != CLOSING
    ]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        await asyncio.sleep(0.001)


async def _count(_: Any) -> int:
    return len(asyncio.all_tasks()) - 1


_probe = vmap(_count, batch_key="xs", out_key="ys", name="probe")


def background_tasks() -> int:
    """Tasks on the loop where async targets run under `invoke`; that it answers shows that it is alive."""
    return _probe.invoke({"xs": [0]})["ys"][0]


def warm_up() -> None:
    """Begin what lives as long as the process, with its threads and handles: the loops of async targets and
    of limits."""
    limits.forget("warm-up")
    vmap(_count, batch_key="xs", out_key="ys", rate_limit={"provider": "warm-up", "rps": 1000}).invoke(
        {"xs": [0]}
    )
    limits.forget("warm-up")


def handles() -> int:
    """Open files of this process."""
    return len(os.listdir("/proc/self/fd"))


def check_clean(provider: str, handles_before: int) -> None:
    """Check that nothing is left in the process but what was there before."""
    wait_for_threads()
    _until(lambda: background_tasks() == 0, lambda: f"{background_tasks()} tasks on the background loop")
    found = limits.stats().get(provider)
    assert found is None or found.waiting == 0, f"somebody still waits in line: {found}"
    if handles() > handles_before:
        gc.collect()
        _until(
            lambda: handles() <= handles_before,
            lambda: f"{handles()} files are open, {handles_before} were before",
        )


class _Meeting:
    """Targets that wait until all of them are being called."""

    def __init__(self, parties: int) -> None:
        self.barrier = threading.Barrier(parties)
        self.missing = parties
        self.all_here: asyncio.Event | None = None

    def blocking(self, _: Any) -> int:
        self.barrier.wait(PATIENCE)
        return 1

    async def waiting(self, _: Any) -> int:
        self.all_here = self.all_here or asyncio.Event()
        self.missing -= 1
        if self.missing == 0:
            self.all_here.set()
        async with asyncio.timeout(PATIENCE):
            await self.all_here.wait()
        return 1


def check_full_speed(parties: int, *, is_async: bool, blocks: bool, rate_limit: Any) -> None:
    """Check that the next run calls as many at once as it may."""
    meeting = _Meeting(parties)
    target = meeting.blocking if blocks else meeting.waiting
    edge = vmap(
        target, batch_key="xs", out_key="ys", max_concurrency=parties, rate_limit=rate_limit, name="next"
    )
    state = {"xs": list(range(parties))}
    assert (asyncio.run(edge.ainvoke(state)) if is_async else edge.invoke(state)) == {"ys": [1] * parties}
