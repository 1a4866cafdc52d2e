"""Processes that are made while limits are in use."""

import faulthandler
import multiprocessing
import os
import signal
import threading
from typing import Any, NoReturn

from mahsm import RateLimit, vmap
from tests.storms.edges import blocking, waiting

LIMIT = {"provider": "processes", "rps": 2000, "burst": 5}


def work(count: int) -> list[int]:
    """Run limited edges, blocking and not."""
    limit = RateLimit(**LIMIT)
    done: list[int] = []
    for target in (blocking, waiting):
        done += vmap(target, batch_key="xs", out_key="ys", rate_limit=limit).invoke(
            {"xs": list(range(count))}
        )["ys"]
    return done


EXPECTED = [item * 2 for item in range(10)] * 2


def _work_in_a_fork() -> NoReturn:
    """End with 0 if it is right; if it hangs, say where, and end by the signal."""
    faulthandler.register(signal.SIGALRM, chain=True)
    signal.alarm(60)
    status = 3
    try:
        status = 0 if work(10) == EXPECTED else 4
    finally:
        os._exit(status)


def forks(times: int) -> str:
    """Forks, while another thread is in the line of a limit."""
    assert work(10) == EXPECTED, (
        "and everything is imported: a fork in the middle of an import cannot import any more"
    )
    over = threading.Event()

    def busy() -> None:
        while not over.is_set():
            work(10)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(times):
            child = os.fork()
            if child == 0:
                _work_in_a_fork()
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0, (
                f"a fork ended with {os.waitstatus_to_exitcode(status)}"
            )
    finally:
        over.set()
        thread.join()
    assert work(10) == EXPECTED
    return f"{times} forks"


def spawns(times: int) -> str:
    """Spawned processes work with the same limits, and so does an item that has a pool."""
    assert work(10) == EXPECTED
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(work, [10] * times)
    assert found == [EXPECTED] * times

    def inside(_: Any) -> list[int]:
        child = os.fork()
        if child == 0:
            _work_in_a_fork()
        return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]

    assert vmap(inside, batch_key="xs", out_key="ys").invoke({"xs": [1, 2]}) == {"ys": [[0], [0]]}
    return f"{times} tasks"
