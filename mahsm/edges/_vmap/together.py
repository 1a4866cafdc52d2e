"""Items of a `vmap` that share a task: the lead runs them, and others hand in what they gave.

Were a task a range of items, it could hand in nothing before its slowest item has ended, and a run that
breaks off would lose what had ended in the ranges that are open. The lead hands in nothing itself unless
nobody else is left.
"""

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, wait
from functools import partial

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import set_config_context
from langgraph.errors import GraphInterrupt

from mahsm._waiting import Closed, tasks
from mahsm.edges._vmap.results import ResultPart, Results
from mahsm.edges._vmap.run import VmapRun

_BLOCK = 256
"""Items that a cache is asked for at a time."""


class Together:
    """The items of one wave of a run.

    Args:
        run: The run.
    """

    def __init__(self, run: VmapRun) -> None:
        self._run = run
        self._results = Results(run.size if run.saved else run.total + 1, run.hand_in)

    # The lead: the side for event loops and the side for threads differ in how they wait, and in nothing
    # else.

    async def lead_async(self, places: Sequence[int], config: RunnableConfig) -> ResultPart:
        """Run the items at these places as tasks of the running event loop; what nobody else hands in is
        given back.
        """
        run = self._run
        with run.break_off.running():
            try:
                async with tasks.task_group() as group:
                    work = group.create_task(self._items_async(places, config))
                    with run.cancellable(work):
                        await asyncio.wait([work])
                run.close_items(places, self._results)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001  it is raised last
                await run.fail_async(self._broken(error))
            return self._rest()

    async def _items_async(self, places: Sequence[int], config: RunnableConfig) -> None:
        run, results = self._run, self._results
        with set_config_context(run.item_config(config, shared=True)) as context:
            call = context.run(run.call_of_target)
            context.run(tasks.awaited.set, True)
            async with tasks.task_group() as group:
                for block in _blocks(run.unknown(places)):
                    todo = await run.uncached_async(block, results)
                    while todo and run.ended is None:
                        with run.quiet_end():
                            opened = await run.begun_slots.acquire_async((todo[0],), len(todo))
                            for place in todo[:opened]:
                                group.create_task(
                                    run.run_item_async(place, call, results), context=context.copy()
                                )
                            todo = todo[opened:]

    def lead(self, places: Sequence[int], config: RunnableConfig) -> ResultPart:
        """Run the items at these places in threads; what nobody else hands in is given back."""
        run = self._run
        with run.break_off.running():
            try:
                self._items(places, config)
                run.close_items(places, self._results)
            except BaseException as error:  # noqa: BLE001  it is raised last
                run.fail(self._broken(error))
            return self._rest()

    def _items(self, places: Sequence[int], config: RunnableConfig) -> None:
        run, results = self._run, self._results
        begun: list[Future[None]] = []
        try:
            with set_config_context(run.item_config(config, shared=True)) as context:
                sync, async_ = context.run(run.bind, run.spec.target, run.label)
                for block in _blocks(run.unknown(places)):
                    todo = run.uncached(block, results)
                    while todo and run.ended is None:
                        with run.quiet_end():
                            opened = run.begun_slots.acquire((todo[0],), len(todo))
                            for place in todo[:opened]:
                                item = partial(run.run_item, place, sync or async_, results)
                                begun.append(run.pool.submit(context.copy().run, item))
                            todo = todo[opened:]
                        if len(begun) > 4 * run.most_open:
                            begun = [future for future in begun if not future.done() or future.exception()]
        finally:
            wait(begun)
        for future in begun:
            future.result()

    def _rest(self) -> ResultPart:
        part = self._results.close()
        self._run.hand_in(part)
        return part

    def _broken(self, error: BaseException) -> BaseException:
        """The run breaks off; what has come is handed in, and the error is to be raised when that is
        saved.
        """
        self._run.stop(error)
        self._results.close()
        reason = self._run.break_off.reason or error
        return Closed(reason) if self._run.stopped_from_outside else reason

    # The others.

    def take_part(self) -> ResultPart | None:
        """Wait for results to hand in, blocking; None if there are none any more."""
        return self._or_interrupted(self._results.take())

    async def take_part_async(self) -> ResultPart | None:
        """The awaitable twin of `take_part`."""
        return self._or_interrupted(await self._results.take_async())

    def _or_interrupted(self, part: ResultPart | None) -> ResultPart | None:
        if part is None and self._run.break_off.reason is not None:
            raise GraphInterrupt(())  # the task is not done: it is going to be of use when the run is resumed
        return part


def wave(run: VmapRun, first: int) -> Together:
    """The items of the wave that begins at this place, which share a task."""
    return run.once(first, lambda: Together(run))


def _blocks(places: Sequence[int]) -> Iterable[Sequence[int]]:
    return (places[start : start + _BLOCK] for start in range(0, len(places), _BLOCK))
