"""`Cache`: the rows of a stream, kept in a file."""

import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from mahsm.data._bad_rows import BadRow
from mahsm.data._json import json_line, parsed
from mahsm.data._sources import Files, OnError, Source
from mahsm.data._writing import replacing


class _Rows(Iterable[Any], AsyncIterable[Any], Protocol):
    """A stream."""

    @property
    def source(self) -> Source: ...

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
        return Files.of([self._path], "jsonl", self.on_error) if os.path.exists(self._path) else None

    @property
    def on_error(self) -> OnError:
        """What the stream does with rows that cannot be read: the file has those that it collects."""
        collects = getattr(self._stream.source, "on_error", "raise") == "collect"
        return "collect" if collects else "raise"

    @property
    def paths(self) -> tuple[str, ...]:
        """The absolute paths of the file, and of those that the stream reads."""
        return self._path, *getattr(self._stream.source, "paths", ())

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
        with self._written() as keep:
            for row in self._stream:
                yield keep(row)

    async def arows(self) -> AsyncGenerator[Any, None]:
        """Async version of `rows`."""
        if (files := self.files()) is not None:
            for row in files.rows():
                yield row
            return
        with self._written() as keep:
            async for row in self._stream:
                yield keep(row)

    @contextmanager
    def _written(self) -> Generator[Callable[[Any], Any], None, None]:
        """Return a block with a function that keeps a row, and returns it as later passes will read it."""
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        with replacing(self._path) as file:

            def keep(row: Any) -> Any:
                is_bad = type(row) is BadRow
                line = row.as_line if is_bad else json_line(row, self._path)
                file.write(line)
                return row if is_bad else parsed(line)

            yield keep

    def __repr__(self) -> str:
        return f"{self._stream!r}.cache({self._path!r})"
