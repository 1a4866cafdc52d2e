"""`Journal`: results of a part that is not complete yet, so that a kill loses none."""

import os
import time
from contextlib import suppress
from typing import BinaryIO

_EVERY = 0.2
"""Seconds after which results that were not handed to the system yet are: what a kill may lose."""
_MOST = 1 << 16
"""Bytes after which they are, too."""

FAILED = b"!"
"""What stands before the error of an item that failed."""


class Journal:
    """A file with a line for each result: the place of its item, a tab, and the result as a line of JSON.

    Args:
        path: Its path.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._size = 0
        self._flushed = 0.0

    def read(self) -> dict[int, bytes]:
        """Return the results that are in it, by the places of their items."""
        found: dict[int, bytes] = {}
        end = 0
        with suppress(FileNotFoundError), open(self._path, "rb") as file:
            for line in file:
                place, tab, result = line.partition(b"\t")
                if not line.endswith(b"\n") or not tab or not place.isdigit():
                    break  # a kill has cut it off
                found[int(place)] = result
                end += len(line)
        if found or os.path.exists(self._path):
            os.truncate(self._path, end)
        return found

    def add(self, place: int, result: bytes) -> None:
        """Add a result."""
        if self._file is None:
            self._file = open(self._path, "ab", buffering=2 * _MOST)  # noqa: SIM115  closed by `close`
        self._size += self._file.write(b"%d\t%b" % (place, result))
        now = time.monotonic()
        if self._size > _MOST or now - self._flushed > _EVERY:
            self._file.flush()
            self._size, self._flushed = 0, now

    def close(self) -> None:
        """Hand all results to the system."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Remove the file, once its part is written."""
        self.close()
        with suppress(FileNotFoundError):
            os.unlink(self._path)
