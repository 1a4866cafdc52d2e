"""`Journal`: results of a part that is not complete yet, so that a kill loses none."""

import os
from contextlib import suppress
from typing import BinaryIO

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
        if os.path.exists(self._path):
            os.truncate(self._path, end)
        return found

    def add(self, place: int, result: bytes) -> None:
        """Add a result, and hand it to the system: the process may be killed before the next one comes."""
        if self._file is None:
            self._file = open(self._path, "ab")  # noqa: SIM115  closed by `close`
        self._file.write(b"%d\t%b" % (place, result))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            # A result that the disk had no room for was an error when it came, and its rest has no room now.
            with suppress(OSError):
                self._file.close()
            self._file = None

    def remove(self) -> None:
        """Remove the file, once its part is written."""
        self.close()
        with suppress(FileNotFoundError):
            os.unlink(self._path)
