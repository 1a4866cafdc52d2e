"""A watchdog: what does not end fails, and says where it waits."""

import faulthandler
import os
import tempfile
import threading
from collections.abc import Callable
from typing import Any

LIMIT = float(os.environ.get("MAHSM_TEST_LIMIT", "60"))
"""Seconds that one call may take; a quiet machine needs less than one."""


class Hang(AssertionError):
    """A call has not ended. The process is of no use any more: what hangs stays in it."""


hung: list[str] = []
"""What has not ended, with the stacks of all threads."""


def ended(function: Callable[[], Any], label: str = "the call") -> Any:
    """Call a function in a thread of its own; return what it returns and raise what it raises.

    Raises:
        Hang: if it does not end in time, or another call has not before.
    """
    if hung:
        raise Hang(f"not run, since another call still hangs: {hung[0]}")
    found: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found.append(function())
        except BaseException as error:  # noqa: BLE001  it is raised again
            errors.append(error)

    thread = threading.Thread(target=run, name="watched", daemon=True)
    thread.start()
    # In slices, each of which counts once: the whole machine may stand still for a while.
    for _ in range(int(LIMIT * 10)):
        thread.join(0.1)
        if not thread.is_alive():
            break
    if thread.is_alive():
        hung.append(f"{label} has not ended in {LIMIT:g} s:\n{_stacks()}")
        raise Hang(hung[0])
    if errors:
        raise errors[0]
    return found[0]


def _stacks() -> str:
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode()
