"""A pool of processes of our own: each survives the death of another, and all end with this process."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import cache, partial
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import Any


def _begin(begun: Connection, over: Connection) -> None:
    with suppress(OSError):  # the process that started it may be gone already
        begun.send_bytes(b"1")
    end_with_parent(over)


def end_with_parent(*over: Connection) -> None:
    """End this process when the one that started it ends, even if that is killed, or closes a connection."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        ends = (parent.sentinel, *over)
        threading.Thread(target=_outlive, args=ends, name="mahsm-parent", daemon=True).start()


def _outlive(*ends: Any) -> None:
    wait(ends)
    os._exit(1)


class Processes:
    """So many processes, each in an executor of its own.

    In one executor of many processes, the death of one breaks all of them.

    Args:
        count: The number of processes, >= 1.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._context = multiprocessing.get_context("spawn")
        self._begun, self._begins = self._context.Pipe(duplex=False)
        self._over, self._until = self._context.Pipe(duplex=False)
        self._pools: list[ProcessPoolExecutor | None] = [None] * count
        self._open = [0] * count
        self._lock = threading.Lock()
        # Another lock: a pool that breaks ends its futures while it holds a lock that `submit` waits for.
        self._count_lock = threading.Lock()

    @property
    def can_begin(self) -> bool:
        """True if any process has begun: otherwise one that dies has died while it imported the program."""
        return self._begun.poll()

    def submit(self, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Call a function in the process that has the fewest calls."""
        with self._lock:
            number = min(range(self.count), key=self._open.__getitem__)
            try:
                future = self._pool(number).submit(function, *args)
            except BrokenProcessPool:
                self._pools[number] = None
                future = self._pool(number).submit(function, *args)
            self._count(number, 1)
        future.add_done_callback(lambda _: self._count(number, -1))
        return future

    def _pool(self, number: int) -> ProcessPoolExecutor:
        pool = self._pools[number]
        if pool is None:
            begin = partial(_begin, self._begins, self._over)
            pool = ProcessPoolExecutor(1, mp_context=self._context, initializer=begin)
            self._pools[number] = pool
        return pool

    def _count(self, number: int, change: int) -> None:
        with self._count_lock:
            self._open[number] += change

    def close(self) -> None:
        """End the processes, without waiting for calls in progress."""
        with self._lock:
            for pool in self._pools:
                if pool is not None:
                    pool.shutdown(wait=False, cancel_futures=True)
            self._pools = [None] * self.count
            # A process that exits waits for its children, which by then nothing may tell to end.
            self._until.close()


@cache
def shared_processes() -> Processes:
    """Return the processes that all edges of this process share: as many as there are cores."""
    processes = Processes(os.cpu_count() or 1)
    # A worker that has workers exits without its exit handlers, but with these.
    Finalize(None, processes.close, exitpriority=100)
    return processes
