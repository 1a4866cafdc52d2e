"""The files of settings: where they are, and what is in them now.

A file is read when it is first needed, and again when it has changed, so another process can rotate a
credential. A look that finds no change is one call of the system.
"""

import os
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, cast

from mahsm._context import document, guard
from mahsm._context.values import Tree, checked, without_hidden

CONFIG: Final = "config.yaml"
CREDENTIALS: Final = "credentials.yaml"

_SETTLED: Final = 100_000_000
"""Nanoseconds after which a change of a file is sure to change its time stamps, too."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Read:
    """A file as it was read."""

    signature: guard.Signature
    settled: bool
    tree: Tree


_read: dict[str, _Read] = {}
"""By path. Entries are replaced as a whole, so no lock is needed; two threads may read a file twice."""


def home() -> str:
    """Return the absolute path of the folder of settings: `MAHSM_HOME`, or `~/.mahsm`."""
    found = _expanded(os.environ.get("MAHSM_HOME"), os.environ.get("HOME"))
    # A relative one moves with the process.
    return found if found.startswith("/") else os.path.abspath(found)


@lru_cache(maxsize=64)
def _expanded(folder: str | None, user_home: str | None) -> str:
    """Return the folder without `~`, which depends on the home of the user."""
    return os.path.normpath(os.path.expanduser(folder or "~/.mahsm"))


def path_to(name: str) -> str:
    """Return the absolute path of a file of settings."""
    return f"{home()}/{name}"


def config() -> Tree:
    """Return the settings of `config.yaml`; `{}` if it does not exist.

    Raises:
        ContextError: if the file is broken or unsafe.
    """
    return _tree(CONFIG)


def credentials() -> Tree:
    """Return the credentials of `credentials.yaml`, by their names; `{}` if it does not exist.

    Raises:
        ContextError: if the file is broken or unsafe.
    """
    return cast("Tree", _tree(CREDENTIALS).get("credentials") or {})


def forget() -> None:
    """Have all files read again."""
    _read.clear()


def _tree(name: str) -> Tree:
    path = path_to(name)
    try:
        found = os.stat(path, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise guard.refused(path, error) from error
    known = _read.get(path)
    if known is not None and known.settled and known.signature == guard.signature_of(found):
        return known.tree
    return _tree_read_now(name, path)


def _tree_read_now(name: str, path: str) -> Tree:
    began = time.time_ns()
    try:
        with guard.folder(os.path.dirname(path)) as folder:
            data, signature = guard.read(folder, name, path)
    except FileNotFoundError:
        return {}
    settings = document.parsed(data, path)
    whole = {"credentials": settings} if name == CREDENTIALS else settings
    # A section without entries is None in YAML; it hides nothing, since no layer is below.
    tree: Tree = without_hidden(checked(whole, f"{path}: "))
    # As Git does: a file that was changed just now may be changed again without another time stamp.
    settled = began - max(signature[2:]) > _SETTLED
    _read[path] = _Read(signature, settled, tree)
    return tree
