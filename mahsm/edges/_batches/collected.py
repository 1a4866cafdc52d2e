"""The block in which the calls of a run are collected, and submitted as jobs."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import GraphInterrupt
from langgraph.types import interrupt

from mahsm._model_calls import calls
from mahsm._waiting import THREAD
from mahsm.edges._batches.engine import Place
from mahsm.edges._batches.jobs import Job
from mahsm.edges._batches.journal import Journal
from mahsm.edges._batches.rounds import Rounds
from mahsm.edges._shared.run import EdgeRun
from mahsm.edges._shared.saving import SAVER
from mahsm.edges._shared.streams import in_config
from mahsm.errors import EdgeError
from mahsm.policies import BatchAPI


@asynccontextmanager
async def collected(run: EdgeRun, api: BatchAPI, config: RunnableConfig) -> AsyncGenerator[None, None]:
    """Return a block in which the model calls of a run's items are collected.

    Args:
        run: The run.
        api: The options.
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
    name = uuid.uuid4().hex if journal is None else journal.run
    rounds = Rounds(api, run.name, name, journal, _Watcher(run, config))
    place = Place(rounds, rounds.root)
    rounds.start()
    is_complete = False
    try:
        with calls.changed(batched=place):
            yield
        is_complete = run.break_off.reason is None
    finally:
        # What no later run can collect is not to be paid for.
        cancel = journal is None or is_complete or run.ended is not None
        await run.way.call_to_end(rounds.end(cancel=cancel).result)
    if is_complete and place.is_unused and run.ended is None:
        raise EdgeError(
            f"{run.name}: batch_api= is given, but no item called a model of DSPy, so everything was done at "
            "the full price or without a model. Use DSPy modules or dspy_node in the target, or leave "
            "batch_api= out."
        )


def _journal(run: EdgeRun) -> Journal | None:
    saver = run.config.get("configurable", {}).get(SAVER)
    if not run.saved or not isinstance(saver, BaseCheckpointSaver):
        return None
    return Journal(run.config, None if run.way is THREAD else asyncio.get_running_loop())


class _Watcher:
    """Tells a run what its rounds say."""

    def __init__(self, run: EdgeRun, config: RunnableConfig) -> None:
        self._run = run
        self._config = config

    def failed(self, error: BaseException) -> None:
        self._run.stop(error)

    def open_jobs(self, facts: Sequence[dict[str, Any]]) -> None:
        self._run.stop(self._interrupted(list(facts)))

    def _interrupted(self, facts: list[dict[str, Any]]) -> BaseException:
        """Return LangGraph's interrupt. For each answer that the run has got so far, it returns once."""
        context = in_config(self._config)
        while True:
            try:
                context.run(interrupt, {"batch_jobs": facts})
            except GraphInterrupt as error:
                return error
            except Exception as error:  # noqa: BLE001  outside of a task, for example
                return error

    def looked(self, job: Job) -> None:
        """No-op for now."""

    def ended(self, job: Job) -> None:
        """No-op for now."""
