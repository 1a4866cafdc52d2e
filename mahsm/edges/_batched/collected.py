"""The block in which the calls of a run are collected, and submitted as jobs."""

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import GraphBubbleUp

from mahsm._batches import Journal, Rounds
from mahsm._model_calls import calls
from mahsm._progress import Progress
from mahsm._waiting import THREAD
from mahsm.edges._batched.place import Place
from mahsm.edges._batched.shared import shared
from mahsm.edges._batched.watcher import RunWatcher
from mahsm.edges._shared.run import EdgeRun
from mahsm.edges._shared.saving import SAVER
from mahsm.errors import EdgeError
from mahsm.policies import BatchAPI


@asynccontextmanager
async def collected(
    run: EdgeRun, api: BatchAPI, progress: Progress, config: RunnableConfig
) -> AsyncGenerator[Place, None]:
    """Return a block in which the model calls of a run's items are collected; it yields the run's place.

    Args:
        run: The run.
        api: The options.
        progress: The progress of the run.
        config: The config of the task that leads the run.

    Raises:
        EdgeError: if the run is to be interrupted, and nothing saves it.
    """
    journal = _journal(run)
    if journal is None and api.wait == "interrupt":
        raise EdgeError(
            f"{run.name}: BatchAPI(wait='interrupt') ends the run while jobs are open, and needs a "
            "checkpointer to go on. Compile the graph with one and pass a thread_id, or leave wait= out."
        )
    watcher = RunWatcher(run, progress, config)
    # A run that is saved has to find its jobs again, so that they are its own.
    joined = (
        shared(api, watcher, run.way) if journal is None and api.linger else _own(run, api, journal, watcher)
    )
    async with joined as place:
        with calls.changed(batched=place):
            yield place


@asynccontextmanager
async def _own(
    run: EdgeRun, api: BatchAPI, journal: Journal | None, watcher: RunWatcher
) -> AsyncGenerator[Place, None]:
    """Return a block in which the calls of a run are collected by themselves."""
    rounds = Rounds(api, uuid.uuid4().hex if journal is None else journal.run, journal, watcher)
    rounds.start()
    is_complete = False
    try:
        yield Place(rounds, rounds.root)
        is_complete = run.break_off.reason is None
    finally:
        # What no later run can collect is not to be paid for.
        cancel = journal is None or is_complete or run.ended is not None
        reason = run.break_off.reason
        has_failed = isinstance(reason, Exception) and not isinstance(reason, GraphBubbleUp)
        await run.way.call_to_end(rounds.end(cancel=cancel, has_failed=has_failed).result)


def _journal(run: EdgeRun) -> Journal | None:
    saver = run.config.get("configurable", {}).get(SAVER)
    if not run.saved or not isinstance(saver, BaseCheckpointSaver):
        return None
    return Journal(run.config, None if run.way is THREAD else asyncio.get_running_loop())
