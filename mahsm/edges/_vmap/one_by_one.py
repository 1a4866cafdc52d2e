"""An item of a `vmap` that is a task of LangGraph: it can be asked by `interrupt()`, and holds a graph of its
own.

The side for event loops and the side for threads differ in how they wait, and in nothing else.
"""

import asyncio

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import set_config_context
from langgraph.errors import GraphBubbleUp

from mahsm._common import AsyncCall
from mahsm._waiting import tasks
from mahsm.edges._vmap.results import ResultPart
from mahsm.edges._vmap.run import VmapRun


async def run_one_async(run: VmapRun, place: int, config: RunnableConfig) -> ResultPart:
    """Run the item at this place as a task of the running event loop."""
    with run.break_off.running():
        part = ResultPart()
        try:
            await _one_async(run, place, config, part)
            run.close_items([place], part)
        except (asyncio.CancelledError, GraphBubbleUp):
            raise
        except BaseException as error:  # noqa: BLE001  it is raised last
            await run.fail_async(error)
        run.hand_in(part)
        return part


async def _one_async(run: VmapRun, place: int, config: RunnableConfig, part: ResultPart) -> None:
    if not await run.uncached_async(run.unknown([place]), part):
        return
    with run.quiet_end():
        await run.begun_slots.acquire_async((place,))
        with set_config_context(run.item_config(config)) as context:
            call = context.run(run.call_of_target)
            async with tasks.task_group() as group:
                group.create_task(_cancelled_on_stop(run, place, call, part), context=context)


async def _cancelled_on_stop(run: VmapRun, place: int, call: AsyncCall, part: ResultPart) -> None:
    item = run.item(place)
    with run.cancelled_on_stop(item):
        await run.run_item_async(place, call, part, item)


def run_one(run: VmapRun, place: int, config: RunnableConfig) -> ResultPart:
    """Run the item at this place in this thread."""
    with run.break_off.running():
        part = ResultPart()
        try:
            _one(run, place, config, part)
            run.close_items([place], part)
        except GraphBubbleUp:
            raise
        except BaseException as error:  # noqa: BLE001  it is raised last
            run.fail(error)
        run.hand_in(part)
        return part


def _one(run: VmapRun, place: int, config: RunnableConfig, part: ResultPart) -> None:
    if not run.uncached(run.unknown([place]), part):
        return
    with run.quiet_end():
        run.begun_slots.acquire((place,))
        with set_config_context(run.item_config(config)) as context:
            sync, async_ = context.run(run.bind, run.spec.target, run.label)
            context.run(run.run_item, place, sync or async_, part)
