"""Two calls for one item, when the first takes unusually long: the first answer wins."""

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
"""Seconds between two looks while too few calls have ended to know what is unusual."""


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
        """Cancel all, but the one that this is called in."""
        self._outrun = Outrun()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    async def _run(self, item: Item) -> None:
        enter_item(item)
        may_be_stopped(lambda: self._outrun)
        try:
            update = await self._attempt(item)
            self.stop()  # here, lest the other one begin before the race hears of this
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
    """Await `attempt(first)`, and `attempt(second)` too if the first takes long.

    The first answer wins. If there is none, or the first call fails before the second one has begun, its
    error comes out.
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
        if not racers.answers:  # else the race was over, and what came of it may be paid for
            raise
    if racers.answers:
        return racers.answers[0]
    raise errors[first]


def race(
    first: Item, second: Item, attempt: Callable[[Item], Update], durations: Durations, left: LeftBehind
) -> Update:
    """Blocking version of `race_async`: each call has a thread of its own, and one that nobody needs is left
    behind.
    """
    calls = {item: OwnCall(left) for item in (first, second)}
    # A late end must not stop what the item is inside of afterwards.
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
        """Before the slots of the call are given back, since the other one may be waiting for these."""
        if error is None or (item is first and second.began is None):
            leave(second if item is first else first)

    def leave(item: Item) -> None:
        lost = Outrun("the item needs no answer of this call any more")
        calls[item].leave(lost)  # what waits in line leaves it
        insides[item].stop(lost)  # what can be cancelled is

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
    """The first answer; the first call's error if there is none, or if the second one has not begun when that
    comes.
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
