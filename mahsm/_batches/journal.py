"""The journal of a run's jobs: what a process that goes on after a kill has to know of them.

It is kept by the run's checkpointer, in a namespace of its own. A job is announced before it is submitted,
and its id is noted after. So whenever the process is killed, the next one knows of each job that may exist,
and finds it at the provider by its label, if the id was not noted any more.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint

from mahsm._batches.records import answer_of, record_of
from mahsm._batches.requests import At, Where
from mahsm.errors import EdgeError

_CHANNEL = "mahsm_batch_job"
_ANSWER = "mahsm_batch_answer"
_FAILED = "mahsm_batch_run_failed"
_PATIENCE = 30.0
"""Seconds to wait until LangGraph has saved the checkpoint that the run belongs to."""


@dataclass(frozen=True)
class Note:
    """A job, as it is noted.

    Attributes:
        number: Its number in the run.
        label: Its label at the provider.
        provider: The provider.
        model: The model.
        base_url: The URL of the provider, or None for its own.
        keys: The keys of its requests, in order.
        at: `time.time()` when it was announced.
        id: The provider's id, once known.
        is_gone: True if the provider has no such job, or has refused it, so that its requests were free to go
            into another one. It has no keys then.
    """

    number: int
    label: str
    provider: str
    model: str
    base_url: str | None
    keys: Sequence[str]
    at: float
    id: str | None = None
    is_gone: bool = False

    @property
    def where(self) -> Where:
        return self.provider, self.model, self.base_url


class Journal:
    """Notes of one run's jobs. Its methods are for the loop of batches.

    Args:
        config: The config of the edge's node, with a checkpointer.
        loop: The loop that the run is on, or None if it blocks a thread.
    """

    def __init__(self, config: RunnableConfig, loop: asyncio.AbstractEventLoop | None) -> None:
        own: dict[str, Any] = config.get("configurable", {})
        self._saver = cast("BaseCheckpointSaver[Any]", own["__pregel_checkpointer"])
        self._loop = loop
        self._thread = own["thread_id"]
        self.run = f"{self._thread}/{own.get('checkpoint_ns', '')}"
        """The run, which has the same name in a process that resumes it."""
        # LangGraph looks a namespace up by the id of a task, and so never finds this one.
        self._namespace = f"{own.get('checkpoint_ns', '')}|mahsm_batches"
        self._id = str(uuid.uuid5(uuid.NAMESPACE_URL, self.run))
        self._around: Mapping[str, str] = own.get("checkpoint_map") or {}
        self._saves_at_end = own.get("__pregel_durability") == "exit"
        self._is_begun = False
        self.failed_with = -1
        """The number of the last job before the run failed; -1 if it has not. Errors up to there are old."""
        self.paid: dict[At, Any] = {}
        """Answers of ordinary calls, by where their requests were."""

    async def read(self) -> list[Note]:
        """Return the notes so far, the last one of each job."""
        found = await self._call("get_tuple", self._config)
        self._is_begun = found is not None
        notes: dict[int, Note] = {}
        for _, channel, value in (found.pending_writes or ()) if found is not None else ():
            if channel == _CHANNEL:
                note = Note(**value)
                before = notes.get(note.number)
                if before is None or note.is_gone or (note.id is not None and not before.is_gone):
                    notes[note.number] = note
            elif channel == _ANSWER:
                number, place, record = value
                self.paid[number, place] = answer_of(record)
            elif channel == _FAILED:
                self.failed_with = max(self.failed_with, value)
        return [notes[number] for number in sorted(notes)]

    async def announce(self, note: Note) -> None:
        """Note that a job is going to be submitted.

        Raises:
            EdgeError: if LangGraph has not saved the checkpoint that the run belongs to.
        """
        if not self._is_begun:
            await self._until_saved()
            metadata: Any = {"source": "loop", "step": -1, "parents": {}}
            checkpoint = {**empty_checkpoint(), "id": self._id}
            await self._call("put", self._config_of(None), checkpoint, metadata, {})
            self._is_begun = True
        await self._write(note)

    async def submitted(self, note: Note, id: str) -> Note:
        """Note the id that the provider has given to a job; return the note."""
        note = replace(note, id=id)
        await self._write(note)
        return note

    async def gone(self, note: Note) -> None:
        """Note that a job is not at the provider, before its requests go into another one."""
        await self._write(replace(note, keys=[], is_gone=True))

    async def answered(self, at: At, answer: Any) -> None:
        """Note the answer of an ordinary call, and where its request was before."""
        await self._put(_ANSWER, [*at, record_of(answer)], f"answer {at[0]} {at[1]}")

    async def failed(self, number: int) -> None:
        """Note that the run fails, and the number of its last job: a later run is to ask again."""
        if self._is_begun:
            await self._put(_FAILED, number, f"failed {number}")

    async def _write(self, note: Note) -> None:
        await self._put(_CHANNEL, asdict(note), f"{note.number} {'gone' if note.is_gone else note.id}")

    async def _put(self, channel: str, value: Any, name: str) -> None:
        # A write with the same task and place is kept, and not replaced.
        task = uuid.uuid5(uuid.NAMESPACE_URL, name)
        await self._call("put_writes", self._config, [(channel, value)], str(task))

    async def _until_saved(self) -> None:
        """Wait until the checkpoints around are saved: without them a resumed run would be another one."""
        end = time.monotonic() + _PATIENCE
        for namespace, checkpoint in self._around.items():
            while not self._saves_at_end and time.monotonic() < end:
                config = self._config_of(checkpoint, namespace)
                if await self._call("get_tuple", config) is not None:
                    break
                await asyncio.sleep(0.005)
            else:
                if not self._saves_at_end:
                    raise EdgeError(
                        f"the checkpoint {checkpoint} of this run was not saved within {_PATIENCE:g} s, so "
                        "no batch job is submitted: after a crash it would not be found again. See why the "
                        "checkpointer is slow."
                    )

    @property
    def _config(self) -> RunnableConfig:
        return self._config_of(self._id)

    def _config_of(self, checkpoint: str | None, namespace: str | None = None) -> RunnableConfig:
        own: dict[str, Any] = {
            "thread_id": self._thread,
            "checkpoint_ns": self._namespace if namespace is None else namespace,
        }
        return {"configurable": own if checkpoint is None else {**own, "checkpoint_id": checkpoint}}

    async def _call(self, method: str, *args: Any) -> Any:
        """Call the checkpointer as LangGraph does: its async side on the run's loop, or its sync side."""
        if self._loop is None:
            return await asyncio.to_thread(getattr(self._saver, method), *args)
        call = cast("Callable[..., Awaitable[Any]]", getattr(self._saver, f"a{method}"))

        async def made() -> Any:
            return await call(*args)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(made(), self._loop))
