"""Threads that are used again."""

import threading
from concurrent.futures import wait

import pytest

from mahsm._waiting import Threads, threads


def test_an_idle_thread_is_used_again() -> None:
    made = Threads()
    first = made.submit(threading.get_ident).result()
    found = {first}
    for _ in range(50):
        # The result comes a moment before the thread is idle.
        found.add(made.submit(threading.get_ident).result())
    assert len(found) <= 3


def test_as_many_threads_as_calls() -> None:
    barrier = threading.Barrier(20)
    made = Threads()
    assert not wait([made.submit(barrier.wait, 30) for _ in range(20)], 60).not_done


def test_errors_and_cancelled_calls() -> None:
    made = Threads()
    with pytest.raises(ZeroDivisionError):
        made.submit(lambda: 1 / 0).result()
    with pytest.raises(KeyboardInterrupt):
        made.submit(_interrupt).result()
    assert made.submit(int, "3").result() == 3


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "IDLE", 0.01)
    made = Threads()
    workers = {made.submit(threading.current_thread).result() for _ in range(5)}
    for worker in workers:
        worker.join(30)
        assert not worker.is_alive()
    assert made.submit(int, "3").result() == 3
