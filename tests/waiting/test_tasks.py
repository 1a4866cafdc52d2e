"""Calls of blocking code from the main thread."""

import os
import signal
import threading

import pytest

from mahsm._waiting import tasks


def test_ctrl_c_while_the_thread_of_a_call_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt may come in `Thread.start`, when the thread runs already."""
    start, stopped, ended = threading.Thread.start, threading.Event(), threading.Event()

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        os.kill(os.getpid(), signal.SIGINT)

    def function() -> None:
        assert stopped.wait(60)
        ended.set()

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    # A process that a shell begins in the background ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            tasks.call_with_stop(function, lambda _: stopped.set())
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.is_set()
