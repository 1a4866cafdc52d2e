"""A second call for an item whose first one takes unusually long: the first answer wins."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial

from mahsm._common import Update
from mahsm._waiting import LeftBehind, Outrun, OwnCall, may_be_stopped, tasks
from mahsm.edges._shared.items import Item, enter_item
from mahsm.policies._internal import Durations

_POLL = 0.05
"""Seconds between two checks while too few calls have ended to know how long is unusual."""


class _Racers:
    """The calls of one race, as tasks.

    Args:
        attempt: Makes a call.
    """

    def __init__(self, attempt: Callable[[Item], Awaitable[Update]]) -> None:
        self._attempt = attempt
        self._tasks: list[asyncio.Task[None]] = []
        self._outrun: Outrun | None = None
        self.answers: list[Update] = []
        self.ended: asyncio.Queue[tuple[Item, BaseException | None]] = asyncio.Queue()

    @property
    def count(self) -> int:
        return len(self._tasks)

    def begin(self, group: asyncio.TaskGroup, item: Item) -> None:
        self._tasks.append(group.create_task(self._run(item)))

    def stop(self) -> None:
        """Cancel all calls except the one that this is called in."""
        self._outrun = Outrun()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    async def _run(self, item: Item) -> None:
        enter_item(item)
        may_be_stopped(lambda: self._outrun)
        try:
            update = await self._attempt(item)
            # Stopped here and not by the race, where the other call could begin before this answer arrives.
            self.stop()
            self.answers.append(update)
            self.ended.put_nowait((item, None))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self.ended.put_nowait((item, error))
        except Exception as error:  # noqa: BLE001  raised where the race ends
            self.ended.put_nowait((item, error))


async def race_async(
    first: Item, second: Item, attempt: Callable[[Item], Awaitable[Update]], durations: Durations
) -> Update:
    """Await `attempt(first)`, and also `attempt(second)` if the first takes long; return the first answer.

    If both calls fail, or the first one fails before the second has begun, the first call's error is raised.
    """
    racers, errors = _Racers(attempt), dict[Item, BaseException]()
    try:
        async with tasks.task_group() as group:
            racers.begin(group, first)
            while (
                len(errors) < racers.count
                and not racers.answers
                and (first not in errors or second.began is not None)
            ):
                try:
                    async with asyncio.timeout(
                        _seconds_left(first, durations) if racers.count == 1 else None
                    ):
                        item, error = await racers.ended.get()
                except TimeoutError:
                    if racers.ended.empty() and _is_late(first, durations):
                        racers.begin(group, second)
                    continue
                if error is not None:
                    errors[item] = error
            racers.stop()
    except asyncio.CancelledError:
        # With an answer the race was over, and its call may have been paid for, so the answer counts.
        if not racers.answers:
            raise
    if racers.answers:
        return racers.answers[0]
    raise errors[first]


def race(
    first: Item, second: Item, attempt: Callable[[Item], Update], durations: Durations, left: LeftBehind
) -> Update:
    """Blocking version of `race_async`: each call has its own thread, and the slower one is left behind."""
    calls = {item: OwnCall(left) for item in (first, second)}
    # Kept now, because the item gets its own `running` back after the race, which a late end must not stop.
    insides = {item: item.running for item in (first, second)}
    racers: dict[Future[Update], Item] = {}

    def begin(item: Item) -> None:
        def run() -> Update:
            enter_item(item)
            may_be_stopped(lambda: insides[item].reason)
            return attempt(item)

        item.over = partial(end, item)
        racers[tasks.in_own_thread(run, calls[item])] = item

    def end(item: Item, error: BaseException | None) -> None:
        """Leave the other call behind before this one gives back its slots, which the other may wait for."""
        if error is None or (item is first and second.began is None):
            leave(second if item is first else first)

    def leave(item: Item) -> None:
        lost = Outrun("the item needs no answer of this call any more")
        # The first ends its waits in line, the second cancels what can be cancelled.
        calls[item].leave(lost)
        insides[item].stop(lost)

    try:
        begin(first)
        while not wait(racers, timeout=_seconds_left(first, durations)).done:
            if _is_late(first, durations):
                begin(second)
                break
        return _winner(racers, second)
    finally:
        for future, item in racers.items():
            if not future.done():
                leave(item)


def _winner(racers: Iterable[Future[Update]], second: Item) -> Update:
    """Return the first answer.

    If both calls fail, or the first one fails before the second has begun, raise the first call's error.
    """
    first, running = next(iter(racers)), set(racers)
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            if future.exception() is None:
                return future.result()
        if first in done and second.began is None:
            break
    return first.result()


def _seconds_left(item: Item, durations: Durations) -> float:
    patience = durations.patience
    if item.began is None or patience is None:
        return _POLL
    return max(0.0, item.began + patience - time.monotonic())


def _is_late(item: Item, durations: Durations) -> bool:
    patience = durations.patience
    return item.began is not None and patience is not None and time.monotonic() >= item.began + patience
