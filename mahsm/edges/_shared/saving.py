"""What of an edge run has been saved: results that are not hold back new calls.

LangGraph's loop hands writes to the checkpointer in the background and goes on. With a slow checkpointer they
pile up, and a process that is killed then loses what had finished long before. So an edge run watches the
checkpointer that its subgraph uses: a call counts as *not saved* from its beginning to when the checkpointer
has returned from writing what came of it, and only so many may be.
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
"""Where LangGraph keeps the checkpointer of a run in its config, for subgraphs."""

_DURABILITY = "__pregel_durability"


def saver_of(config: RunnableConfig) -> BaseCheckpointSaver[Any] | None:
    """The checkpointer that saves while the run goes on, if there is one."""
    own: dict[str, Any] = config.get("configurable", {})
    saver = own.get(SAVER)
    if own.get(_DURABILITY) == "exit" or not isinstance(saver, BaseCheckpointSaver):
        return None
    return cast("BaseCheckpointSaver[Any]", saver)


def ends_all(error: BaseException) -> bool:
    """Whether an error goes out of every edge, and no policy decides on it: nothing can be saved, or called,
    any more.
    """
    return getattr(error, _MARK, False) or isinstance(error, TooManyHanging)


_MARK = "__mahsm_from_saver__"


class Saving:
    """What of one edge run has been saved.

    Args:
        saver: The checkpointer.
        limit: How many calls may be not saved, >= 1.
        failed: Called with its error if the checkpointer fails.
    """

    def __init__(
        self, saver: BaseCheckpointSaver[Any], limit: int, failed: Callable[[BaseException], object]
    ) -> None:
        self.saver = saver
        self.unsaved = Slots(limit)
        """One is held by each call that is not saved."""
        self._failed = failed
        self._lock = threading.Lock()
        self._handed_in: dict[int, tuple[Any, int]] = {}
        self._checkpoints = 0  # being written now; what is written meanwhile may be part of one of them
        self._written = 0
        self._is_broken = False
        self._turns: list[Turn] = []

    def watched(self, config: RunnableConfig) -> RunnableConfig:
        """The config with a checkpointer in it that says when it has written."""
        return with_saver(config, _Watched(self.saver, self))

    def hand_in(self, written: object, calls: int) -> None:
        """A task returns what came of so many calls, and LangGraph is going to write it."""
        with self._lock:
            # Which is also kept from being forgotten, and its id given again.
            self._handed_in[id(written)] = written, calls

    async def wait(self, way: Way) -> None:
        """Wait until all that was handed in has been written."""
        turn = way.turn()
        with self._lock:
            if not self._handed_in or self._is_broken:
                return
            self._turns.append(turn)
        await turn.wait()

    # What the checkpointer does.

    def checkpoint_begins(self) -> None:
        """A checkpoint is going to be written."""
        with self._lock:
            self._checkpoints += 1

    def checkpoint_ends(self) -> None:
        """It has been written."""
        with self._lock:
            self._checkpoints -= 1
        self._count([])

    def has_written(self, writes: Any) -> None:
        """The writes of a task have been written."""
        self._count(
            [one for _, value in writes if isinstance(value, list) for one in cast("list[Any]", value)]
        )

    def broke(self, error: BaseException) -> None:
        """The checkpointer has failed, or writing was cancelled with the run: nothing more is going to be
        saved.
        """
        with self._lock:
            self._is_broken = True
            turns, self._turns = self._turns, []
        if not isinstance(error, asyncio.CancelledError):
            with suppress(AttributeError):  # of an exception with __slots__ alone
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
    """A checkpointer as it is, but for what says that it has written."""

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
    @functools.wraps(write)  # LangGraph looks at the signature
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
    """The block writes a checkpoint, or else what a task gave."""
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
    """The config with another checkpointer in it, or with none; as it is, if there is none in it."""
    own: dict[str, Any] = config.get("configurable", {})
    if SAVER not in own:
        return config
    # "sync" needs a checkpointer.
    durability = {} if saver is not None or _DURABILITY not in own else {_DURABILITY: "async"}
    return cast("RunnableConfig", {**config, "configurable": {**own, SAVER: saver, **durability}})
