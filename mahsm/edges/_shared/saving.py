"""Results of an edge run that are not saved yet hold back new calls.

LangGraph's loop hands writes to the checkpointer in the background and goes on. With a slow checkpointer they
pile up, and a process that is killed then loses results of calls that had finished long before. So an edge
run watches the checkpointer that its subgraph uses: a call counts as *unsaved* from its beginning until the
checkpointer has returned from writing its result, and the number of unsaved calls is bounded.
"""

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver

from mahsm._waiting import Slots, Turn, Way
from mahsm.errors import TooManyHanging

SAVER = "__pregel_checkpointer"
"""LangGraph's config key for the checkpointer of a run, which subgraphs use."""

DURABILITY = "__pregel_durability"


def saver_of(config: RunnableConfig) -> BaseCheckpointSaver[Any] | None:
    """Return the checkpointer that saves while the run goes on, if any."""
    own: dict[str, Any] = config.get("configurable", {})
    saver = own.get(SAVER)
    if own.get(DURABILITY) == "exit" or not isinstance(saver, BaseCheckpointSaver):
        return None
    return cast("BaseCheckpointSaver[Any]", saver)


def ends_all(error: BaseException) -> bool:
    """Return whether an error ends all edges around, whatever their policies.

    Such errors mean that no result can be saved any more, or no call made.
    """
    return getattr(error, _MARK, False) or isinstance(error, TooManyHanging)


_MARK = "__mahsm_from_saver__"


class Saving:
    """The unsaved calls of one edge run.

    Args:
        saver: The checkpointer.
        limit: The number of calls that may be unsaved, >= 1.
        failed: Called with the error of the checkpointer if it fails.
    """

    def __init__(
        self, saver: BaseCheckpointSaver[Any], limit: int, failed: Callable[[BaseException], object]
    ) -> None:
        self.saver = saver
        self.unsaved = Slots(limit)
        """Slots of which each unsaved call holds one."""
        self._failed = failed
        self._lock = threading.Lock()
        self._handed_in: dict[int, tuple[Any, int]] = {}
        # The number of checkpoints that are being written now. A result counts as saved only when there are
        # none, since it may be part of one of them.
        self._checkpoints = 0
        self._written = 0
        self._is_broken = False
        self._turns: list[Turn] = []

    def watched(self, config: RunnableConfig) -> RunnableConfig:
        """Return the config with a checkpointer that reports its writes to this object."""
        return with_saver(config, _Watched(self.saver, self))

    def hand_in(self, written: object, calls: int) -> None:
        """Note that a task returns the results of so many calls, which LangGraph is going to write."""
        with self._lock:
            # The reference also keeps the id from being reused for another object.
            self._handed_in[id(written)] = written, calls

    async def wait(self, way: Way) -> None:
        """Wait until everything that was handed in has been written."""
        turn = way.turn()
        with self._lock:
            if not self._handed_in or self._is_broken:
                return
            self._turns.append(turn)
        await turn.wait()

    # Reports of the checkpointer.

    def checkpoint_begins(self) -> None:
        """Note that a checkpoint is going to be written."""
        with self._lock:
            self._checkpoints += 1

    def checkpoint_ends(self) -> None:
        """Note that a checkpoint has been written, or failed."""
        with self._lock:
            self._checkpoints -= 1
        self._count([])

    def has_written(self, writes: Any) -> None:
        """Note that the writes of a task have been written."""
        self._count(
            [one for _, value in writes if isinstance(value, list) for one in cast("list[Any]", value)]
        )

    def broke(self, error: BaseException) -> None:
        """Note that the checkpointer failed, or was cancelled with the run: nothing more will be saved."""
        with self._lock:
            self._is_broken = True
            turns, self._turns = self._turns, []
        if not isinstance(error, asyncio.CancelledError):
            # An exception that has only `__slots__` cannot be marked.
            with suppress(AttributeError):
                setattr(error, _MARK, True)
            self._failed(error)
        for turn in turns:
            turn.wake()

    def _count(self, written: list[Any]) -> None:
        turns: list[Turn] = []
        with self._lock:
            self._written += sum(self._handed_in.pop(id(one), (None, 0))[1] for one in written)
            saved = 0
            if not self._checkpoints:
                saved, self._written = self._written, 0
            if not self._handed_in:
                turns, self._turns = self._turns, []
        for _ in range(saved):
            self.unsaved.release()
        for turn in turns:
            turn.wake()


class _Watched(BaseCheckpointSaver[Any]):
    """A checkpointer that passes everything on to another one, and reports its writes."""

    def __init__(self, saver: BaseCheckpointSaver[Any], saving: Saving) -> None:
        object.__getattribute__(self, "__dict__").update(
            saver=saver,
            put=_around(saver.put, saving, is_checkpoint=True),
            aput=_around_async(saver.aput, saving, is_checkpoint=True),
            put_writes=_around(saver.put_writes, saving),
            aput_writes=_around_async(saver.aput_writes, saving),
        )

    def __getattribute__(self, name: str) -> Any:
        own: dict[str, Any] = object.__getattribute__(self, "__dict__")
        return own[name] if name in own else getattr(own["saver"], name)


def _around(write: Callable[..., Any], saving: Saving, *, is_checkpoint: bool = False) -> Callable[..., Any]:
    # LangGraph inspects the signature, so it has to stay.
    @functools.wraps(write)
    def watched(config: RunnableConfig, written: Any, *args: Any, **kwargs: Any) -> Any:
        with _writing(saving, written, is_checkpoint=is_checkpoint):
            return write(config, written, *args, **kwargs)

    return watched


def _around_async(
    write: Callable[..., Awaitable[Any]], saving: Saving, *, is_checkpoint: bool = False
) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(write)
    async def watched(config: RunnableConfig, written: Any, *args: Any, **kwargs: Any) -> Any:
        with _writing(saving, written, is_checkpoint=is_checkpoint):
            return await write(config, written, *args, **kwargs)

    return watched


@contextmanager
def _writing(saving: Saving, written: Any, *, is_checkpoint: bool) -> Generator[None, None, None]:
    """Return a block that writes a checkpoint, or the results of a task."""
    if is_checkpoint:
        saving.checkpoint_begins()
    try:
        yield
    except BaseException as error:
        saving.broke(error)
        raise
    finally:
        if is_checkpoint:
            saving.checkpoint_ends()
    if not is_checkpoint:
        saving.has_written(written)


def with_saver(config: RunnableConfig, saver: BaseCheckpointSaver[Any] | None) -> RunnableConfig:
    """Return the config with another checkpointer, or without one; unchanged if it has none."""
    own: dict[str, Any] = config.get("configurable", {})
    if SAVER not in own:
        return config
    # LangGraph's durability "sync" needs a checkpointer.
    durability = {} if saver is not None or DURABILITY not in own else {DURABILITY: "async"}
    return cast("RunnableConfig", {**config, "configurable": {**own, SAVER: saver, **durability}})
