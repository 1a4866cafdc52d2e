"""Items of a `vmap` as they finish: stream events, and what `as_completed` iterates over."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, NotRequired

from typing_extensions import TypedDict

from mahsm.policies import ItemError

Finished = Callable[[int, Any], object]
"""Gets the index of an item, and its entry or its `ItemError`."""

listeners: ContextVar[dict[object, Finished]] = ContextVar("mahsm_finished")
"""Who gets the items of an edge run, by what the edge compiles into."""


class ItemEvent(TypedDict):
    """What `stream_mode="custom"` shows of an item that has finished, with `progress="items"`.

    Attributes:
        edge: The edge's name.
        item: Which item it is, as a path of indices through nested edges.
        index: Its index in the batch.
        value: Its entry, if it has one.
        error: Its `ItemError`, if it failed.
    """

    edge: str
    item: tuple[int, ...]
    index: int
    value: NotRequired[Any]
    error: NotRequired[ItemError]


@asynccontextmanager
async def finished_items(edge: object) -> AsyncGenerator["asyncio.Queue[tuple[int, Any] | None]", None]:
    """A queue that gets the items of the next run of an edge in this context, from whatever thread they come."""
    queue: asyncio.Queue[tuple[int, Any] | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    token = listeners.set(
        {**listeners.get({}), edge: lambda index, value: loop.call_soon_threadsafe(queue.put_nowait, (index, value))}
    )
    try:
        yield queue
    finally:
        listeners.reset(token)
