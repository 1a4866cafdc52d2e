"""Items of a `vmap` that share a task: the lead runs them, and other tasks hand in their results.

LangGraph saves the results of a task when the task ends. If each task ran a range of items, it could hand in
nothing before its slowest item had ended, and a run that breaks off would lose the results in all open
ranges. So one task of a wave, the *lead*, runs all items and adds each result to `Results`. The other tasks
only wait there: each takes a part as soon as it is full, in the order in which results arrive, and ends, so
that LangGraph saves the part. There are as many of them as parts.

The lead returns results itself only if no other task waits for any, such as where nothing is saved. When the
run breaks off, the results so far go to a task that waits, and the tasks that get nothing end with an
interrupt: LangGraph runs them again on resume, and any of them finds out what is missing (`lowering`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphInterrupt

from mahsm._model_calls import calls
from mahsm._spans import NOTHING
from mahsm._waiting import TASK, Closed, run_blocking, set_awaited, tasks
from mahsm.edges._shared.attempts import AnyCall
from mahsm.edges._shared.streams import in_config
from mahsm.edges._vmap.results import ResultPart, Results, hand_in
from mahsm.edges._vmap.run import VmapRun
from mahsm.edges._vmap.streamed import OpenRanges
from mahsm.errors import EdgeError

_BLOCK = 256
"""Number of items that are looked up in a cache at a time."""


class Together:
    """The items of one wave of a run.

    Args:
        run: The run.
    """

    def __init__(self, run: VmapRun) -> None:
        self._run = run
        self._results: Results | OpenRanges = (
            Results(run.size if run.saved else run.total + 1, partial(hand_in, run.saving))
            if run.sink is None or run.open_ranges is None
            else run.open_ranges
        )

    # The lead.

    async def lead(self, places: Sequence[int], config: RunnableConfig) -> ResultPart:
        """Run the items at these places; return the results that no other task hands in."""
        run = self._run
        with run.break_off.running():
            try:
                await self._call_batched(places, config)
                run.close_items(places, self._results)
            except BaseException as error:
                if run.way is TASK and isinstance(error, asyncio.CancelledError):
                    raise
                # Raises the error, after all other tasks have ended.
                await run.fail(self._broken(error))
            return self._rest()

    async def _call_batched(self, places: Sequence[int], config: RunnableConfig) -> None:
        api = self._run.spec.tries.batch_api
        if api is None or calls.here().batched is not None:  # those of an edge around are collected there
            await self._call_all(places, config)
            return
        from mahsm.edges._batched import collected

        run = self._run
        async with collected(run, api, run.progress, config) as place:
            await self._call_all(places, config)
        # Items may all be in a cache, or fail before they call a model.
        if place.is_unused and run.has_returned and run.break_off.reason is None and run.ended is None:
            raise EdgeError(
                f"{run.name}: batch_api= is given, but no item called a model of DSPy, so everything was "
                "done at the full price or without a model. Use DSPy modules or dspy_node in the target, or "
                "leave batch_api= out."
            )

    async def _call_all(self, places: Sequence[int], config: RunnableConfig) -> None:
        if (workers := self._run.spec.workers) is not None:
            todo = self._run.tally.unknown(places)
            await workers.run(self._run, self._results, self._blocks(todo), len(todo))
        elif self._run.way is TASK:
            await self._in_tasks(places, config)
        elif self._run.item_way is TASK:
            tasks.call(partial(self._in_tasks, places, config))
        else:
            await self._in_threads(places, config)

    async def _in_tasks(self, places: Sequence[int], config: RunnableConfig) -> None:
        """Run the items as tasks of the event loop, which are cancelled when the run is stopped."""
        run = self._run
        context = in_config(run.item_config(config, shared=True))
        call = context.run(run.call_of_target)
        context.run(set_awaited, True)
        run_item: Any = run.run_plain_item if run.is_plain else run.run_item
        with run.cancellable():
            async with tasks.task_group() as items:

                def begin(place: int) -> None:
                    own, ended = _with_seat(context)
                    task = items.create_task(run_item(place, call, self._results), context=own)
                    if ended is not None:
                        task.add_done_callback(ended)

                await self._begin_all(places, begin)

    async def _in_threads(self, places: Sequence[int], config: RunnableConfig) -> None:
        """Run the items in threads of the run's pool, and wait for them."""
        run, results = self._run, self._results
        begun: list[Future[None]] = []
        try:
            context = in_config(run.item_config(config, shared=True))
            call = context.run(run.call_of_target)

            def begin(place: int) -> None:
                own, ended = _with_seat(context)
                future = run.pool.submit(own.run, _run_blocking, run, place, call, results)
                if ended is not None:
                    future.add_done_callback(ended)
                begun.append(future)
                if len(begun) > 8 * run.most_open:
                    begun[:] = [one for one in begun if not one.done() or one.exception()]

            await self._begin_all(places, begin)
        finally:
            # Not `wait`, which would wait forever for those that a shutdown of the pool has cancelled.
            for future in begun:
                with suppress(CancelledError):
                    future.exception()
        for future in begun:
            future.result()

    async def _begin_all(self, places: Sequence[int], begin: Callable[[int], None]) -> None:
        """Begin the items one after the other, as slots are given back, until the run has ended."""
        batched = calls.here().batched
        with NOTHING if batched is None else batched.busy():
            await self._begin_each(places, begin)

    async def _begin_each(self, places: Sequence[int], begin: Callable[[int], None]) -> None:
        run = self._run
        todo = run.tally.unknown(places)
        if run.open_ranges is None and not run.has_cache:
            await self._begin_warmed(todo, begin)
            return
        async for block in self._blocks(todo):
            await self._begin_warmed(await run.uncached(block, self._results), begin)

    async def _begin_warmed(self, todo: Sequence[int], begin: Callable[[int], None]) -> None:
        warming = self._run.warming
        if warming is None:
            await self._begin_block(todo, begin)
            return
        with self._run.quiet_end():
            while todo:
                ready, todo = await warming.ready(self._run.item_way, todo)
                await self._begin_block(ready, begin)

    async def _begin_block(self, todo: Sequence[int], begin: Callable[[int], None]) -> None:
        run, at, batched = self._run, 0, calls.here().batched
        while at < len(todo) and run.ended is None:
            waits = run.begun_slots.free <= 0
            with run.quiet_end(), batched.idle() if batched is not None and waits else NOTHING:
                count = await run.begun_slots.acquire(run.item_way, (todo[at],), len(todo) - at)
                for place in todo[at : at + count]:
                    begin(place)
                at += count

    async def _blocks(self, places: Sequence[int]) -> AsyncIterator[Sequence[int]]:
        """Yield places in blocks; of a streamed batch each when the range that it is in may be in memory."""
        run = self._run
        if run.open_ranges is None:
            for block in _blocks(places):
                yield block
            return
        for of_range in run.open_ranges.by_range(places):
            batched = calls.here().batched
            with run.quiet_end(), NOTHING if batched is None else batched.idle():
                await run.open_ranges.open(run.item_way, of_range)
            for block in _blocks(of_range):
                if run.ended is not None:
                    return
                yield block

    def _rest(self) -> ResultPart:
        part = self._results.close()
        hand_in(self._run.saving, part)
        return part

    def _broken(self, error: BaseException) -> BaseException:
        """Break off the run: let the results so far be handed in, and return the error to raise after."""
        self._run.stop(error)
        self._results.close()
        reason = self._run.break_off.reason or error
        return Closed(reason) if self._run.stopped_from_outside else reason

    # The other tasks.

    async def take_part(self) -> ResultPart | None:
        """Wait for results to hand in; return None if no further ones come."""
        assert isinstance(self._results, Results)  # with a sink there is no other task
        return self._or_interrupted(await self._results.take(self._run.way))

    def _or_interrupted(self, part: ResultPart | None) -> ResultPart | None:
        if part is None and self._run.break_off.reason is not None:
            # LangGraph takes a task that ends so as unfinished, and runs it again when the run is resumed.
            raise GraphInterrupt(())
        return part


def wave(run: VmapRun, first: int) -> Together:
    """Return the wave that begins at this place, whose items share a task."""
    return run.once(first, lambda: Together(run))


def _with_seat(context: Context) -> tuple[Context, Callable[[object], object] | None]:
    """Return a context for an item, and what to call when it has ended, where its calls are collected.

    The item has its seat before it begins: the items before it wait for its calls.
    """
    own = context.copy()
    if (batched := own.run(calls.here).batched) is None:
        return own, None
    seat = batched.inside()
    own.run(partial(calls.change, batched=seat))
    return own, lambda _: seat.leave()


def _run_blocking(run: VmapRun, place: int, call: AnyCall, results: Results | OpenRanges) -> None:
    run_blocking(run.run_item(place, call, results))


def _blocks(places: Sequence[int]) -> Iterable[Sequence[int]]:
    return (places[start : start + _BLOCK] for start in range(0, len(places), _BLOCK))
