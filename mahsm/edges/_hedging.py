"""Two calls for one item, when the first takes unusually long: the first answer wins."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait

from mahsm import _tasks
from mahsm._types import Update
from mahsm.edges._items import Item, current_item
from mahsm.policies._hedge import Durations

_POLL = 0.05
"""Seconds between two looks while too few calls have ended to know what is unusual."""


async def race_async(first: Item, second: Item, attempt: Callable[[Item], Awaitable[Update]], durations: Durations) -> Update:
    """Await `attempt(first)`, and `attempt(second)` too if the first takes long; if both fail, the first one's error."""
    ended: asyncio.Queue[tuple[Item, Update, BaseException | None]] = asyncio.Queue()

    async def run(item: Item) -> None:
        current_item.set(item)
        try:
            ended.put_nowait((item, await attempt(item), None))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            ended.put_nowait((item, None, error))
        except Exception as error:  # noqa: BLE001  raised where the race ends
            ended.put_nowait((item, None, error))

    errors: dict[Item, BaseException] = {}
    async with _tasks.task_group() as group:
        racers = [group.create_task(run(first))]
        while len(errors) < len(racers):
            try:
                async with asyncio.timeout(_left(first, durations) if len(racers) == 1 else None):
                    item, update, error = await ended.get()
            except TimeoutError:
                if _is_late(first, durations):
                    racers.append(group.create_task(run(second)))
                continue
            if error is None:
                for racer in racers:
                    racer.cancel()
                return update
            errors[item] = error
    raise errors[first]


def race(first: Item, second: Item, attempt: Callable[[Item], Update], durations: Durations) -> Update:
    """The blocking twin of `race_async`: each call has a thread of its own, and the loser's is left to itself."""

    def run(item: Item) -> Update:
        current_item.set(item)
        return attempt(item)

    racers: dict[Future[Update], Item] = {_tasks.in_own_thread(lambda: run(first)): first}
    while not wait(racers, timeout=_left(first, durations)).done:
        if _is_late(first, durations):
            racers[_tasks.in_own_thread(lambda: run(second))] = second
            break
    running = set(racers)
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            if future.exception() is None:
                for loser in running:
                    racers[loser].inside.stop(_Lost())
                return future.result()
    return next(iter(racers)).result()


class _Lost(Exception):
    """The other call was quicker."""


def _left(item: Item, durations: Durations) -> float:
    patience = durations.patience
    if item.began is None or patience is None:
        return _POLL
    return max(0.0, item.began + patience - time.monotonic())


def _is_late(item: Item, durations: Durations) -> bool:
    patience = durations.patience
    return item.began is not None and patience is not None and time.monotonic() >= item.began + patience
