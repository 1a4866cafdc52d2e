"""Items that need no call: those equal to another item of the batch, and those in a cache."""

import logging
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from langgraph.cache.base import BaseCache, FullKey

from mahsm._common import shown
from mahsm._waiting import Latch, Way, never_stopped
from mahsm.edges._vmap.cache_key import cache_key
from mahsm.errors import StateError

_log = logging.getLogger("mahsm.cache")

DedupeKey = Callable[[Any], Hashable]


def equal_places(items: Sequence[Any], key: DedupeKey, edge: str) -> dict[int, list[int]]:
    """Group the places of items with equal keys, under the first of them, in the order of the batch.

    Raises:
        StateError: for a key that is not hashable.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, item in enumerate(items):
        try:
            groups.setdefault(key(item), []).append(place)
        except TypeError:
            raise StateError(
                f"{edge}: dedupe_key returned {shown(key(item))} for item {place}, which is not hashable. "
                "Return a string, a number, or a tuple of these."
            ) from None
    return {places[0]: places for places in groups.values()}


class _Access:
    """Access to a cache in one run, for reads or for writes; given up after the first failure.

    The first access goes alone, and the others wait for its end. A locked database makes each access wait for
    seconds before it fails, one after the other, so only one of them may find that out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = False
        self._first = Latch()
        self.works = True

    async def begin(self, way: Way) -> bool:
        """Wait until the first access has ended, unless this is it; return whether the cache works."""
        with self._lock:
            is_first, self._begun = not self._begun, True
        if not is_first:
            await self._first.wait(way, never_stopped)
        return self.works

    def end(self) -> None:
        self._first.open()


class Stored:
    """The entries that a LangGraph cache holds for an edge, for one run.

    A cache saves calls and must never lose one. An item that cannot be a key, or whose update cannot be
    stored, is called as if there were no cache. After a failed read the run reads the cache no more, after a
    failed write it writes no more. The first such event of a run is logged.

    Args:
        cache: The cache.
        edge: The edge's name, which is the namespace.
        key: Maps an item to the value by which items are told apart.
    """

    def __init__(self, cache: BaseCache[Any], edge: str, key: Callable[[Any], Any]) -> None:
        self._cache = cache
        self._edge = edge
        self._namespace = ("mahsm", edge)
        self._key = key
        self._reads = _Access()
        self._writes = _Access()
        self._lock = threading.Lock()
        self._warned = False

    async def get(self, way: Way, items: Mapping[int, Any]) -> dict[int, Any]:
        """Return the cached updates, by the items' places."""
        keys = self._keys(items)
        if not keys:
            return {}
        cache, wanted = self._cache, list(keys.values())
        try:
            if not await self._reads.begin(way):
                return {}
            found = await way.call(lambda: cache.get(wanted), lambda: cache.aget(wanted))
            return _by_place(keys, found)
        except Exception as error:  # noqa: BLE001  without a cache, the items are called
            return self._unread(error)
        finally:
            self._reads.end()

    async def put(self, way: Way, item: Any, update: Any) -> None:
        """Store an update, if that is possible."""
        key = self._full_key(item)
        if key is None:
            return
        cache, entry = self._cache, {key: (update, None)}
        try:
            if await self._writes.begin(way):
                await way.call(lambda: cache.set(entry), lambda: cache.aset(entry))
        except Exception as error:  # noqa: BLE001  the update has been paid for
            self._unwritten(update, error)
        finally:
            self._writes.end()

    def _keys(self, items: Mapping[int, Any]) -> dict[int, FullKey]:
        keys = {place: self._full_key(item) for place, item in items.items()}
        return {place: key for place, key in keys.items() if key is not None}

    def _full_key(self, item: Any) -> FullKey | None:
        try:
            told_apart_by = self._key(item)
        except Exception:  # noqa: BLE001
            # The key comes from a function of the user's. The item fails with its error when it is called.
            return None
        try:
            return self._namespace, cache_key(told_apart_by)
        except Exception as error:  # noqa: BLE001  without a key, the item is called
            self._warn("an item cannot be a key of the cache", error, "It is called without the cache")
            return None

    def _unread(self, error: Exception) -> dict[int, Any]:
        self._reads.works = False
        self._warn("the cache cannot be read", error, "The run goes on without reading it")
        return {}

    def _unwritten(self, update: Any, error: Exception) -> None:
        try:
            self._cache.serde.dumps_typed(update)
        except Exception as refused:  # noqa: BLE001  the serialiser may raise what it likes
            self._warn(
                "the cache cannot store an item's update", refused, "The run goes on, and the update counts"
            )
        else:
            self._writes.works = False
            self._warn("the cache cannot be written", error, "The run goes on without writing it")

    def _warn(self, what: str, error: Exception, consequence: str) -> None:
        """Log the first event of the run.

        Of the error only its type is logged, since its message may hold an address with a password.
        """
        with self._lock:
            first, self._warned = not self._warned, True
        if first:
            _log.warning(
                "%s: %s (%s). %s; this is logged once in a run.",
                self._edge,
                what,
                type(error).__name__,
                consequence,
            )


def _by_place(keys: Mapping[int, FullKey], found: Mapping[FullKey, Any]) -> dict[int, Any]:
    # The namespace is left out of the comparison, since SqliteCache splits it at commas.
    updates = {key[1]: update for key, update in found.items()}
    return {place: updates[key[1]] for place, key in keys.items() if key[1] in updates}
