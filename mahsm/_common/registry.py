"""`Registry`: objects by name, from `register` functions and from entry points of installed packages."""

import difflib
import threading
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from mahsm.errors import RegistryError


class Registry:
    """What is registered under a name. Thread-safe.

    Args:
        group: The group of entry points, which are imported when their name is first looked up.
    """

    def __init__(self, group: str) -> None:
        self.group = group
        self._lock = threading.Lock()
        self._entries: dict[str, Any] = {}
        self._points: dict[str, EntryPoint] | None = None

    def add(self, name: str, entry: Any) -> None:
        """Register an object; it replaces an earlier one, and wins over entry points."""
        with self._lock:
            self._entries[name] = entry

    def remove(self, name: str) -> None:
        """Remove what `add` registered, if anything."""
        with self._lock:
            self._entries.pop(name, None)

    def names(self) -> list[str]:
        """Return all names, sorted."""
        with self._lock:
            return sorted({*self._entries, *self._found()})

    def registered(self, name: str) -> Any:
        """Return what `add` registered under the name, or None, without looking at entry points."""
        return self._entries.get(name)

    def find(self, name: str) -> Any:
        """Return what is registered under the name, or None.

        Raises:
            RegistryError: if an entry point of this name cannot be loaded.
        """
        with self._lock:
            if (entry := self._entries.get(name)) is not None:
                return entry
            point = self._found().get(name)
        return None if point is None else self._loaded(name, point)

    def _loaded(self, name: str, point: EntryPoint) -> Any:
        try:
            entry = point.load()
        except Exception as error:
            package = point.dist.name if point.dist else "its package"
            raise RegistryError(
                f"{name!r}, of the group {self.group!r}, cannot be loaded from {point.value!r}: {error!r}. "
                f"Reinstall {package}, or uninstall it."
            ) from error
        with self._lock:
            return self._entries.setdefault(name, entry)

    def _found(self) -> dict[str, EntryPoint]:
        if self._points is None:
            self._points = {point.name: point for point in entry_points(group=self.group)}
        return self._points


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a question with the names that are nearest to a wrong one; "" if none is near."""
    close = difflib.get_close_matches(name, list(names), n=3)
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else ""
