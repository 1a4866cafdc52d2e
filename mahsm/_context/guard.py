"""Opening the folder of settings and its files: owners, modes, links and sizes are checked.

All checks are made on what was opened, not on a path that may change in between; files are opened relative to
the opened folder. Modes that let others in are repaired with a warning.
"""

import errno
import os
import stat
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from mahsm.errors import ContextError

MOST_BYTES: Final = 256 * 1024
"""Size of the largest file of settings that is read."""

# Windows has none of these flags; there, `folder` refuses to open any.
_NO_LINK: Final[int] = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FOLDER_FLAGS: Final[int] = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _NO_LINK
_FILE_FLAGS: Final[int] = os.O_RDONLY | _NO_LINK | getattr(os, "O_NONBLOCK", 0)  # a FIFO would block

Signature = tuple[int, int, int, int]
"""What changes with a file: its inode, its size, and when its contents and its mode were changed, in ns."""


def signature_of(found: os.stat_result) -> Signature:
    """Return the signature of a file."""
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@contextmanager
def folder(path: str, *, create: bool = False, repair: bool = True) -> Generator[int, None, None]:
    """Open a folder of settings.

    Args:
        path: Its absolute path; folders above it may be links.
        create: Whether to create it, with mode 0700, if it does not exist.
        repair: Whether to take away the access of others.

    Raises:
        FileNotFoundError: if it does not exist.
        ContextError: if it is a symbolic link, no folder, or of another owner, or cannot be opened.
    """
    if os.open not in os.supports_dir_fd:
        raise ContextError(f"{path}: files of settings need Linux or macOS; use environment variables.")
    if create:
        _create(path)
    opened = _open(path, _FOLDER_FLAGS, None, path, "a folder")
    try:
        _check(opened, path, 0o700, repair=repair)
        yield opened
    finally:
        os.close(opened)


def read(folder: int, name: str, path: str, *, repair: bool = True) -> tuple[bytes, Signature]:
    """Return the contents and the signature of a file in an open folder.

    Raises:
        FileNotFoundError: if it does not exist.
        ContextError: if it is a symbolic link, no file, too large, or of another owner, or cannot be read.
    """
    opened = _open(name, _FILE_FLAGS, folder, path, "a file")
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise ContextError(f"{path} is no regular file; expected a file of settings. Remove it.")
        _check(opened, path, 0o600, repair=repair)
        if found.st_size > MOST_BYTES:
            raise _too_large(path, f"{found.st_size:,}")
        # Its mode may have been repaired.
        signature = signature_of(os.fstat(opened))
        with open(opened, "rb", closefd=False) as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise refused(path, error) from error
    finally:
        os.close(opened)
    if len(data) > MOST_BYTES:
        raise _too_large(path, f"more than {MOST_BYTES:,}")
    return data, signature


def _create(path: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except OSError as error:
        raise ContextError(
            f"{path} cannot be created: {error.strerror}. Set MAHSM_HOME to a folder that you own."
        ) from error


def _open(name: str, flags: int, inside: int | None, path: str, kind: str) -> int:
    try:
        return os.open(name, flags, dir_fd=inside)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK) and _is_link(name, inside):
            raise ContextError(
                f"{path} is a symbolic link; expected {kind}. Put {kind} in its place, or set MAHSM_HOME to "
                "the folder itself."
            ) from None
        if error.errno == errno.ENOTDIR:
            raise ContextError(f"{path} is not a folder; set MAHSM_HOME to one, or remove it.") from None
        raise refused(path, error) from error


def _is_link(name: str, inside: int | None) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=inside, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _check(opened: int, path: str, mode: int, *, repair: bool) -> None:
    found = os.fstat(opened)
    if found.st_uid != os.geteuid():
        raise ContextError(
            f"{path} belongs to user {found.st_uid}, and this process runs as user {os.geteuid()}; expected "
            "the same owner. Change its owner, or set MAHSM_HOME to a folder that you own."
        )
    present = stat.S_IMODE(found.st_mode)
    if not repair or not present & ~mode & 0o7077:
        return
    try:
        os.fchmod(opened, mode)
    except OSError as error:
        raise ContextError(
            f"{path} has mode {present:04o}, so others may have access, and its mode cannot be changed: "
            f"{error.strerror}. Run: chmod {mode:o} {path!r}"
        ) from error
    warnings.warn(
        f"{path} had mode {present:04o}, so others had access; it is {mode:04o} now. If it holds "
        "credentials, replace them.",
        stacklevel=2,
    )


def refused(path: str, error: OSError) -> ContextError:
    """Return the error for a file or folder that the system does not let this process read."""
    return ContextError(f"{path} cannot be read: {error.strerror}. Repair it, or set MAHSM_HOME.")


def _too_large(path: str, size: str) -> ContextError:
    return ContextError(
        f"{path} has {size} bytes; expected at most {MOST_BYTES:,}. Keep only settings in it."
    )
