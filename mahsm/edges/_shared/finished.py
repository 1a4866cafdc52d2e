"""Items of a `vmap` as they finish, for stream events and `as_completed`."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, NotRequired

from typing_extensions import TypedDict

from mahsm.nodes._internal import Finished, position
from mahsm.policies import ItemError


class ItemEvent(TypedDict):
    """The event of an item that has finished, in `stream_mode="custom"` with `progress="items"`.

    Attributes:
        edge: The edge's name.
        item: The item's path of indices through nested edges.
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
    """Yield the items of a run of an edge as they finish, in any thread.

    The run is a task, which is cancelled when the iteration ends early.
    """
    queue: asyncio.Queue[tuple[int, Any] | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    async def listened() -> None:
        tell: Finished = lambda index, value: loop.call_soon_threadsafe(queue.put_nowait, (index, value))  # noqa: E731
        # Set in this task only, and so for the edge run that it starts.
        position.set(position.get().told(edge, tell))
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
