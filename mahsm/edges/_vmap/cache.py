"""Items that need not be called: what equals another one of the batch, and what a cache holds."""

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
    """The places of items with equal keys, by the first of them, in the order of the batch.

    Raises:
        StateError: for a key that cannot be compared.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, item in enumerate(items):
        try:
            groups.setdefault(key(item), []).append(place)
        except TypeError:
            raise StateError(
                f"{edge}: dedupe_key gave {shown(key(item))} for item {place}, which cannot be hashed. "
                "Return a text, a number, or a tuple of these."
            ) from None
    return {places[0]: places for places in groups.values()}


class _Access:
    """Reading a cache, or writing it, in one run. When it has failed once, it is over.

    The first access goes alone: a locked database lets each one wait for seconds before it fails, one after
    the other.
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
    """What a LangGraph cache holds of an edge, for one run.

    A cache spares calls, and is never a reason to lose one. What cannot be a key, or cannot be kept, is
    called as if there were no cache. If the cache fails, it is not read, or not written, any more in this
    run. The first such event is logged.

    Args:
        cache: The cache.
        edge: The edge's name, the namespace.
        key: What tells items apart.
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
        """The updates that are there, by the items' places."""
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
        """Keep an update, if that can be done."""
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
            # It is a user's function, and the item fails with that when it is its turn.
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
                "the cache cannot keep an item's update", refused, "The run goes on, and the update counts"
            )
        else:
            self._writes.works = False
            self._warn("the cache cannot be written", error, "The run goes on without writing it")

    def _warn(self, what: str, error: Exception, consequence: str) -> None:
        """Log the first event of the run. The error's message may hold an address with a password, so only
        its type.
        """
        with self._lock:
            first, self._warned = not self._warned, True
        if first:
            _log.warning(
                "%s: %s (%s). %s; this is said once in a run.",
                self._edge,
                what,
                type(error).__name__,
                consequence,
            )


def _by_place(keys: Mapping[int, FullKey], found: Mapping[FullKey, Any]) -> dict[int, Any]:
    updates = {key[1]: update for key, update in found.items()}  # SqliteCache splits a namespace at commas
    return {place: updates[key[1]] for place, key in keys.items() if key[1] in updates}
