"""An example that does not end fails, with the stacks of all threads."""

import faulthandler
import os
import tempfile
import threading
from collections.abc import Callable

LIMIT = float(os.environ.get("MAHSM_MODEL_LIMIT", "60"))
"""Seconds that one example may take; a quiet machine needs less than one."""


class Hang(AssertionError):
    """An example has not ended. The process is of no use any more: what hangs stays in it."""


hung: list[str] = []


def watched(example: Callable[[], None], label: str) -> None:
    """Call in a thread of its own, and raise what it raises.

    Raises:
        Hang: when it does not end in time, or another one has not ended before.
    """
    if hung:
        raise Hang(f"not run, since another one still hangs: {hung[0]}")
    raised: list[BaseException] = []

    def run() -> None:
        try:
            example()
        except BaseException as error:  # noqa: BLE001  it is raised where somebody looks
            raised.append(error)

    thread = threading.Thread(target=run, name="example", daemon=True)
    thread.start()
    thread.join(LIMIT)
    if thread.is_alive():
        hung.append(f"{label} has not ended in {LIMIT:g} s:\n{_stacks()}")
        raise Hang(hung[0])
    if raised:
        raise raised[0]


def _stacks() -> str:
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode()
