"""Items that need not be called: what equals another one of the batch, and what a cache holds."""

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from langgraph.cache.base import BaseCache, FullKey
from langgraph.types import CachePolicy

from mahsm._state import shown
from mahsm.errors import StateError

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
                f"{edge}: dedupe_key gave {shown(key(item))} for item {place}, which cannot be hashed. Return a text, a "
                "number, or a tuple of these."
            ) from None
    return {places[0]: places for places in groups.values()}


class Stored:
    """What a LangGraph cache holds of an edge.

    Args:
        cache: The cache.
        edge: The edge's name, the namespace.
        key: What tells items apart.
    """

    def __init__(self, cache: BaseCache[Any], edge: str, key: Callable[[Any], Any]) -> None:
        self._cache = cache
        self._namespace = ("mahsm", edge)
        self._key = key

    def get(self, items: Mapping[int, Any]) -> dict[int, Any]:
        """The updates that are there, by the items' places."""
        keys = self._keys(items)
        return _by_place(keys, self._cache.get(list(keys.values())))

    async def get_async(self, items: Mapping[int, Any]) -> dict[int, Any]:
        """The awaitable twin of `get`."""
        keys = self._keys(items)
        return _by_place(keys, await self._cache.aget(list(keys.values())))

    def put(self, item: Any, update: Any) -> None:
        """Keep an update."""
        self._cache.set({self._full_key(item): (update, None)})

    async def put_async(self, item: Any, update: Any) -> None:
        """The awaitable twin of `put`."""
        await self._cache.aset({self._full_key(item): (update, None)})

    def _keys(self, items: Mapping[int, Any]) -> dict[int, FullKey]:
        return {place: self._full_key(item) for place, item in items.items()}

    def _full_key(self, item: Any) -> FullKey:
        key = CachePolicy().key_func(self._key(item))  # LangGraph's own: of equal values, equal keys, also between processes
        return self._namespace, hashlib.sha256(key if isinstance(key, bytes) else key.encode()).hexdigest()


def _by_place(keys: Mapping[int, FullKey], found: Mapping[FullKey, Any]) -> dict[int, Any]:
    return {place: found[key] for place, key in keys.items() if key in found}
