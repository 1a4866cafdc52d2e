"""Items of a `vmap` as they finish: stream events, and what `as_completed` iterates over."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, NotRequired

from typing_extensions import TypedDict

from mahsm.nodes._internal import Finished, position
from mahsm.policies import ItemError


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


async def finished_items(
    edge: object, run: Callable[[], Awaitable[Any]]
) -> AsyncGenerator[tuple[int, Any], None]:
    """The items of a run of an edge, from whatever thread they come, in a task that is cancelled when nobody
    asks any more.
    """
    queue: asyncio.Queue[tuple[int, Any] | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    async def listened() -> None:
        tell: Finished = lambda index, value: loop.call_soon_threadsafe(queue.put_nowait, (index, value))  # noqa: E731
        position.set(position.get().told(edge, tell))  # in this task alone
        await run()

    task = asyncio.ensure_future(listened())
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (finished := await queue.get()) is not None:
            yield finished
    finally:
        task.cancel()
        await asyncio.wait([task])
    task.result()
