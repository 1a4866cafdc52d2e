"""An item of a `vmap` as a LangGraph task of its own, which may call `interrupt()` or hold a graph."""

import asyncio

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp

from mahsm._waiting import TASK, tasks
from mahsm.edges._shared.attempts import AnyCall
from mahsm.edges._shared.streams import in_config
from mahsm.edges._vmap.results import ResultPart, hand_in
from mahsm.edges._vmap.run import VmapRun


async def run_one(run: VmapRun, place: int, config: RunnableConfig) -> ResultPart:
    """Run the item at this place."""
    with run.break_off.running():
        part = ResultPart()
        try:
            try:
                await _one(run, place, config, part)
            finally:
                run.begun_slots.has_come((place,))
            run.close_items([place], part)
        except GraphBubbleUp:
            raise
        except BaseException as error:
            if run.way is TASK and isinstance(error, asyncio.CancelledError):
                raise
            # Raises the error, after all other tasks have ended.
            await run.fail(error)
        hand_in(run.saving, part)
        return part


async def _one(run: VmapRun, place: int, config: RunnableConfig, part: ResultPart) -> None:
    await run.load(place)
    if not await run.uncached(run.tally.unknown([place]), part):
        return
    with run.quiet_end():
        await _begin(run, place)
        context = in_config(run.item_config(config))
        call = context.run(run.call_of_target)
        await tasks.run_in(run.way, context, lambda: _item(run, place, call, part))


async def _begin(run: VmapRun, place: int) -> None:
    """Wait until the item may begin."""
    warming = run.warming
    if warming is not None:
        await warming.begin(run.way, place)
    try:
        await run.begun_slots.acquire(run.way, (place,))
    except BaseException:
        if warming is not None:
            warming.give_up(place)
        raise


async def _item(run: VmapRun, place: int, call: AnyCall, part: ResultPart) -> None:
    item = run.item(place)
    with run.cancelled_on_stop(item):
        await run.run_item(place, call, part, item)
