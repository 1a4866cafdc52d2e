"""`Cache`: the rows of a stream, kept in a file."""

import os
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from typing import Any, Protocol

from mahsm.data._json import json_line
from mahsm.data._sources import Files
from mahsm.data._writing import replacing


class _Rows(Iterable[Any], AsyncIterable[Any], Protocol):
    """A stream."""

    @property
    def is_async(self) -> bool: ...

    def opened(self) -> "_Rows": ...


class Cache:
    """A source whose rows are those of a stream, kept in a file after the first pass.

    Args:
        stream: The stream.
        path: The absolute path of the file.
    """

    def __init__(self, stream: _Rows, path: str) -> None:
        self._stream = stream
        self._path = path

    def files(self) -> Files | None:
        """Return the file, if it is there."""
        return Files.of([self._path], "jsonl", "raise") if os.path.exists(self._path) else None

    @property
    def is_async(self) -> bool:
        """True if only an `async for` can read it."""
        return self._stream.is_async and self.files() is None

    def opened(self) -> "Cache":
        return self if self.files() is not None else Cache(self._stream.opened(), self._path)

    def rows(self) -> Iterator[Any]:
        if (files := self.files()) is not None:
            yield from files.rows()
            return
        with replacing(self._path) as file:
            for row in self._stream:
                file.write(json_line(row, self._path))
                yield row

    async def arows(self) -> AsyncGenerator[Any, None]:
        """Async version of `rows`."""
        if (files := self.files()) is not None:
            for row in files.rows():
                yield row
            return
        with replacing(self._path) as file:
            async for row in self._stream:
                file.write(json_line(row, self._path))
                yield row

    def __repr__(self) -> str:
        return f"{self._stream!r}.cache({self._path!r})"
