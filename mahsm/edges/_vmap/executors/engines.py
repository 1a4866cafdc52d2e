"""Engines: one face for what runs parts in other processes."""

import sys
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from contextlib import suppress
from typing import Any, Protocol, cast

from mahsm._common import shown
from mahsm.edges._vmap.executors.processes import shared_processes
from mahsm.errors import EdgeError


class Engine(Protocol):
    """Runs functions in workers.

    Attributes:
        name: What it is, for errors.
        survives: True if it goes on after the death of a worker.
        leaves_orphans: True if its workers would outlive this process if that is killed.
        repeats: True if it runs a part again by itself when its worker has died.
        cancels_begun: True if cancelling a part throws away what a worker is doing.
    """

    name: str
    leaves_orphans: bool
    repeats: bool
    cancels_begun: bool

    @property
    def survives(self) -> bool: ...

    @property
    def workers(self) -> int:
        """The number of worker processes now."""
        ...

    @property
    def at_a_time(self) -> int:
        """The number of parts that a worker can run at a time."""
        ...

    def submit(self, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Call a function in a worker."""
        ...

    def is_loss(self, error: BaseException) -> bool:
        """Return whether an error says that the worker has died."""
        ...


class _OfExecutor:
    """Any executor of `concurrent.futures`."""

    survives, repeats, cancels_begun, at_a_time = False, False, False, 1

    def __init__(self, executor: Executor, workers: int) -> None:
        self.name = type(executor).__name__
        self.leaves_orphans = isinstance(executor, ProcessPoolExecutor)
        self._executor = executor
        self.workers = workers

    def submit(self, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        return self._executor.submit(function, *args)

    def is_loss(self, error: BaseException) -> bool:
        return isinstance(error, BrokenProcessPool)


class _OwnProcesses:
    """The pool of our own."""

    name, at_a_time = "the process pool", 1
    leaves_orphans = repeats = cancels_begun = False

    def __init__(self) -> None:
        self._processes = shared_processes()
        self.workers = self._processes.count

    @property
    def survives(self) -> bool:
        return self._processes.can_begin

    def submit(self, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        return self._processes.submit(function, *args)

    def is_loss(self, error: BaseException) -> bool:
        return isinstance(error, BrokenProcessPool)


class _Dask:
    """A client of Dask."""

    name, survives, leaves_orphans = "Dask", True, False
    repeats = cancels_begun = True

    def __init__(self, client: Any) -> None:
        self._client = client
        self._executor = client.get_executor(pure=False)
        self._threads = [1]
        self._asked = -_ASKS

    def _known(self) -> list[int]:
        """Return the numbers of threads of the workers, as the scheduler said at most some seconds ago."""
        now = time.monotonic()
        if now - self._asked >= _ASKS:
            self._asked = now
            with suppress(Exception):  # a part will say that the scheduler is gone
                self._threads = list(self._client.nthreads().values()) or self._threads
        return self._threads

    @property
    def workers(self) -> int:
        return len(self._known())

    @property
    def at_a_time(self) -> int:
        return min(2, min(self._known()))

    def submit(self, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        return self._executor.submit(function, *args)

    def is_loss(self, error: BaseException) -> bool:
        from distributed import KilledWorker

        return isinstance(error, KilledWorker)


_ASKS = 5.0
"""Seconds between questions for the number of workers."""


def check_executor(edge: str, executor: object) -> None:
    """Refuse what cannot run parts.

    Raises:
        EdgeError: with what it is, and what was expected.
    """
    if executor == "process" or _dask_client(executor) is not None:
        return
    if not isinstance(executor, Executor):
        raise EdgeError(
            f"{edge}: executor={shown(executor)}; expected a distributed.Client, such as Client(cluster), an "
            "executor of concurrent.futures, or 'process' for a pool of processes of its own."
        )
    _workers_of(edge, executor)
    context: Any = getattr(executor, "_mp_context", None)
    if isinstance(executor, ProcessPoolExecutor) and context.get_start_method() == "fork":
        raise EdgeError(
            f"{edge}: executor= forks its processes, which may hang beside threads and event loops. Pass "
            "ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn')), or executor='process'."
        )


def engine_of(edge: str, executor: object) -> Engine:
    """Return the engine of an executor that was checked."""
    if executor == "process":
        return _OwnProcesses()
    client = _dask_client(executor)
    if client is not None:
        if client.asynchronous:
            raise EdgeError(
                f"{edge}: executor= is an asynchronous client of Dask. Pass one without asynchronous=True; "
                "it works under ainvoke, too."
            )
        return _Dask(client)
    return _OfExecutor(cast("Executor", executor), _workers_of(edge, executor))


def _dask_client(executor: object) -> Any:
    distributed: Any = sys.modules.get("distributed")
    if distributed is None:
        return None
    if isinstance(executor, distributed.Client):
        return executor
    # An executor of a client, as `get_executor()` makes it.
    found: Any = getattr(executor, "_client", None)
    return found if isinstance(found, distributed.Client) else None


def _workers_of(edge: str, executor: object) -> int:
    for name in ("max_workers", "_max_workers"):
        found: Any = getattr(executor, name, None)
        if isinstance(found, int) and found >= 1:
            return found
    raise EdgeError(
        f"{edge}: executor={shown(executor)} does not say how many workers it has, which divides "
        "max_concurrency among them. Give it an attribute max_workers."
    )


def is_gone(error: BaseException) -> bool:
    """Return whether an error of a part says that the executor itself has ended."""
    return isinstance(error, CancelledError) or type(error).__name__ == "FutureCancelledError"
