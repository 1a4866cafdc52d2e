"""A watchdog: what does not end fails, and says where it waits."""

import faulthandler
import sys
import threading
from collections.abc import Callable
from typing import Any


def ended(function: Callable[[], Any], seconds: float = 60) -> Any:
    """What a function gives or raises, called in a thread of its own that has so many seconds."""
    found: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found.append(function())
        except BaseException as error:  # noqa: BLE001  it is raised again
            errors.append(error)

    thread = threading.Thread(target=run, name="watched", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr)
        raise AssertionError(f"not ended after {seconds:g} s; the stacks of all threads are in stderr")
    if errors:
        raise errors[0]
    return found[0]
