"""Checkpointers that are slow, or stop at their n-th write, over a storage that outlives them."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

NO_FSYNC = "PRAGMA synchronous=OFF"


class Stopped(Exception):
    """The saver has written for the last time."""


class Fuse:
    """What happens to each write: it takes a while, and from number `at` on (or only then) it fails.

    Attributes:
        blown: Whether a write has failed.
    """

    def __init__(self, at: int | None = None, *, once: bool = False, slow: float = 0.0) -> None:
        self.at, self.once, self.slow = at, once, slow
        self.writes = 0
        self.blown = False
        self._lock = threading.Lock()

    def write(self) -> None:
        with self._lock:
            self.writes += 1
            if self.at is not None and (self.writes == self.at or (self.writes > self.at and not self.once)):
                self.blown = True
                raise Stopped(f"write {self.writes}")


class FusedSync:
    """A saver whose writes go through `fuse`."""

    fuse: Fuse

    def put(self, *args: Any, **options: Any) -> Any:
        self.fuse.write()
        return super().put(*args, **options)  # type: ignore[misc]

    def put_writes(self, *args: Any, **options: Any) -> None:
        time.sleep(self.fuse.slow)
        self.fuse.write()
        super().put_writes(*args, **options)  # type: ignore[misc]


class FusedAsync:
    """Async version of `FusedSync`."""

    fuse: Fuse

    async def aput(self, *args: Any, **options: Any) -> Any:
        self.fuse.write()
        return await super().aput(*args, **options)  # type: ignore[misc]

    async def aput_writes(self, *args: Any, **options: Any) -> None:
        await asyncio.sleep(self.fuse.slow)
        self.fuse.write()
        await super().aput_writes(*args, **options)  # type: ignore[misc]


class SyncMemory(FusedSync, InMemorySaver): ...


class AsyncMemory(FusedAsync, InMemorySaver): ...


class SyncSqlite(FusedSync, SqliteSaver): ...


class AsyncSqlite(FusedAsync, AsyncSqliteSaver): ...


class Storage:
    """What the savers of one case write into, and outlives them.

    Args:
        kind: `"memory"`, `"sqlite"`, or None for no saver at all.
        directory: Where files go.
    """

    def __init__(self, kind: str | None, directory: Path) -> None:
        self.kind = kind
        self.path = str(directory / "checkpoints")
        self._memory: InMemorySaver | None = None

    @contextmanager
    def sync(self, fuse: Fuse) -> Iterator[Any]:
        if self.kind == "sqlite":
            with SyncSqlite.from_conn_string(self.path) as saver:
                saver.conn.execute(NO_FSYNC)
                saver.fuse = fuse
                yield saver
        else:
            yield self._in_memory(SyncMemory, fuse)

    @asynccontextmanager
    async def async_(self, fuse: Fuse) -> AsyncIterator[Any]:
        if self.kind == "sqlite":
            async with AsyncSqlite.from_conn_string(self.path) as saver:
                await saver.conn.execute(NO_FSYNC)
                saver.fuse = fuse
                yield saver
        else:
            yield self._in_memory(AsyncMemory, fuse)

    def _in_memory(self, kind: type[Any], fuse: Fuse) -> Any:
        if self.kind is None:
            return None
        saver = self._memory = self._memory or kind()
        saver.fuse = fuse
        return saver
