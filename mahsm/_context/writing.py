"""Writing files of settings: merged with the present file, under a lock, as a whole or not at all.

A new file is written beside the old one, flushed to the disk, and renamed over it, so a reader or a kill
finds the old or the new one. Whoever writes holds the lock of the folder; so the present file cannot change
between reading and renaming, and the new file can have a fixed name: one that a kill left is replaced.
The lock belongs to the open file, so it ends with the process.
"""

import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, Final

from mahsm._context import document, files, guard
from mahsm.errors import ContextError

LOCK: Final = ".lock"
LONGEST_WAIT: Final = 30.0
"""Seconds to wait for the lock of the folder."""

Change = Callable[[dict[str, Any]], dict[str, Any]]
"""From the settings in a file to those to write, both as plain values."""


def rewrite(changes: dict[str, Change]) -> None:
    """Change files of settings, one after the other, each as a whole.

    Args:
        changes: For each file, its change. A file that would stay the same is not written.

    Raises:
        ContextError: if a file is broken or unsafe, holds values that cannot be written, would be too large,
            or cannot be written, or another process holds the lock for too long.
    """
    home = files.home()
    try:
        with guard.folder(home, create=True) as folder, _locked(folder, home):
            for name, change in changes.items():
                _rewrite(folder, name, f"{home}/{name}", change)
    except OSError as error:
        raise ContextError(
            f"{home} cannot be written: {error.strerror}. Set MAHSM_HOME to a folder that you own."
        ) from error
    finally:
        files.forget()


def _rewrite(folder: int, name: str, path: str, change: Change) -> None:
    try:
        present = document.parsed(guard.read(folder, name, path)[0], path)
    except FileNotFoundError:
        present = {}
    settings = change(present)
    if settings == present:
        return
    data = document.written(settings, path)
    if len(data) > guard.MOST_BYTES:
        raise ContextError(
            f"{path} would have {len(data):,} bytes; expected at most {guard.MOST_BYTES:,}. Save less."
        )
    _replace(folder, name, data)


def _replace(folder: int, name: str, data: bytes) -> None:
    new = f".{name}.new"
    with suppress(FileNotFoundError):
        os.unlink(new, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    opened = os.open(new, flags, 0o600, dir_fd=folder)
    try:
        with open(opened, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(opened)
    finally:
        os.close(opened)
    os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


@contextmanager
def _locked(folder: int, home: str) -> Generator[None, None, None]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    opened = os.open(LOCK, flags, 0o600, dir_fd=folder)
    try:
        _wait_for(opened, home)
        yield
    finally:
        os.close(opened)


def _wait_for(opened: int, home: str) -> None:
    # Not on Windows, where no folder is opened.
    import fcntl

    deadline = time.monotonic() + LONGEST_WAIT
    while True:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ContextError(
                    f"{home}/{LOCK} is locked by another process for {LONGEST_WAIT:.0f} s; end that process, "
                    "and try again."
                ) from None
            time.sleep(0.01)
        else:
            return
