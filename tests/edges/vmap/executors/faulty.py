"""Targets with faults, and what they called."""

import asyncio
import os
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from mahsm.errors import EdgeError


class Held(Exception):
    """Holds what cannot be pickled."""

    def __init__(self, item: int, more: str) -> None:
        super().__init__(f"{more} {item}")
        self.lock = threading.Lock()


FAULTS = {"raises": ConnectionError, "raises a lock": Held, "gives a lock": EdgeError}
"""Faults that all engines survive, and the errors that they become."""

DEADLY = {"exits": EdgeError, "is killed": EdgeError}
"""Faults that end a worker."""


def faulty(state: dict[str, Any]) -> Any:
    """Return the square of an item, or do what `faults` says for it, unless that is repaired."""
    item, folder = state["item"], Path(state["mark"])
    with open(folder / "calls", "a") as file:
        file.write(f"{item}\n")
    fault = None if (folder / "repaired").exists() else state["faults"].get(item)
    if fault is not None and state["is_here"] and fault not in ("raises", "raises a lock"):
        raise EdgeError("as if it could not be sent")
    if fault == "raises":
        raise ConnectionError(item)
    if fault == "raises a lock":
        raise Held(item, "held")
    if fault == "gives a lock":
        return threading.Lock()
    if fault == "exits":
        os._exit(3)
    if fault == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


async def faulty_later(state: dict[str, Any]) -> Any:
    await asyncio.sleep(0)
    return faulty(state)


def calls(folder: Path) -> Counter[int]:
    """Return how often each item was called."""
    noted = folder / "calls"
    return Counter(map(int, noted.read_text().split())) if noted.exists() else Counter()
