"""Marks of parts that are running: files which stay behind if a worker dies.

Dask runs a part again whose worker has died, and says so only after the fourth death.
"""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def marked(name: str) -> Generator[bool, None, None]:
    """Return a block that leaves a mark behind if its process dies; it yields whether there was one."""
    if not name:
        yield False
        return
    mark = _path(name)
    was_there = mark.exists()
    mark.touch()
    try:
        yield was_there
    finally:
        mark.unlink(missing_ok=True)


def remove_mark(name: str) -> None:
    """Remove the mark of a part that is over, if its worker was on this machine."""
    if name:
        _path(name).unlink(missing_ok=True)


def _path(name: str) -> Path:
    return Path(tempfile.gettempdir(), f"mahsm-{name}")
