"""Writing files so that a reader sees the whole file or none."""

import os
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import BinaryIO


@contextmanager
def replacing(path: str) -> Generator[BinaryIO, None, None]:
    """Return a block that writes a file beside its place, and puts it there at the end of the block.

    After a crash the file is the old one or the new one. If the block raises, the old one stays.
    """
    folder, name = os.path.split(path)
    beside = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:8]}{BESIDE}")
    try:
        with open(beside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(beside)
        raise
    sync_folder(folder)


BESIDE = ".tmp"
"""The suffix of files that are being written, and of those that a killed process left."""


def sync_folder(folder: str) -> None:
    """Have the names in a folder written to its disk, where the system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
