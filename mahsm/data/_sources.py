"""`Source`: where the rows of a stream come from. Files, and iterables of your own."""

import os
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from glob import glob, has_magic
from typing import Any, Literal, Protocol, TypeAlias, cast

from mahsm._common import shown
from mahsm.data._bad_rows import BadRow
from mahsm.data._formats import FORMATS, Mark, format_of
from mahsm.errors import DataError

OnError: TypeAlias = Literal["raise", "collect", "drop"]
Place: TypeAlias = tuple[int, Mark | None]
"""A place in a source: the number of its file, and the place in the file."""


class Source(Protocol):
    """Where rows come from."""

    def rows(self) -> Iterator[Any]:
        """Yield all rows, from the first on.

        Raises:
            DataError: if they cannot be read, or not once more.
        """
        ...

    def arows(self) -> AsyncGenerator[Any, None]:
        """Async version of `rows`; of iterables that are not async, too."""
        ...

    @property
    def is_async(self) -> bool:
        """True if only an `async for` can read it, once it is opened."""
        ...

    def opened(self) -> "Source":
        """Return the same source for one pass, in which no function is left to be called for its rows."""
        ...


@dataclass(frozen=True)
class Files:
    """Files, whose rows come one file after the other. A checkpoint saves it as it is here, without rows.

    Attributes:
        paths: Their absolute paths.
        format: The name of their format; "" for that of each one's suffix.
        on_error: What comes of a row that cannot be read.
        seen: The size in bytes and the time of the last change in nanoseconds of each.
    """

    paths: tuple[str, ...]
    format: str = ""
    on_error: OnError = "raise"
    seen: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        # A checkpoint gives lists.
        object.__setattr__(self, "paths", tuple(self.paths))
        object.__setattr__(self, "seen", tuple((size, time) for size, time in self.seen))

    @classmethod
    def of(cls, names: Sequence[str], format: str, on_error: OnError) -> "Files":
        """Look at the files that paths and patterns name.

        Raises:
            DataError: if there is no such file, or a suffix says no format.
        """
        paths = tuple(os.path.abspath(path) for name in names for path in _matching(name))
        seen = tuple(map(_seen, paths))
        for path in paths:
            if not format:
                format_of(path)
        return cls(paths, format, on_error, seen)

    @property
    def identity(self) -> dict[str, Any]:
        """What the files are, as JSON."""
        return {"files": [[path, *seen] for path, seen in zip(self.paths, self.seen, strict=True)]}

    def check(self) -> None:
        """Check that the files are still those that were seen.

        Raises:
            DataError: if one has changed or is missing.
        """
        for path, seen in zip(self.paths, self.seen, strict=True):
            if _seen(path) != seen:
                raise DataError(
                    f"{path!r} has changed since stream() looked at it ({seen[0]:,} bytes then, "
                    f"{_seen(path)[0]:,} now). Begin anew with stream({path!r})."
                )

    def scan(self) -> Iterator[tuple[int, Place]]:
        """Yield the size in bytes and the place of each row."""
        self.check()
        for number, path in enumerate(self.paths):
            for size, mark in self._format(path).scan(path):
                yield size, (number, mark)

    def rows(self, begin: Place = (0, None)) -> Iterator[Any]:
        self.check()
        first, mark = begin
        for number in range(first, len(self.paths)):
            path = self.paths[number]
            with closing(self._format(path).read(path, mark if number == first else None)) as rows:
                for row in rows:
                    if type(row) is not BadRow or self.on_error == "collect":
                        yield row
                    elif self.on_error == "raise":
                        raise row.error

    async def arows(self) -> AsyncGenerator[Any, None]:
        for row in self.rows():
            yield row

    @property
    def is_async(self) -> bool:
        return False

    def opened(self) -> "Files":
        return self

    def _format(self, path: str) -> Any:
        return FORMATS[self.format or format_of(path)]

    def __repr__(self) -> str:
        return ", ".join(map(repr, self.paths))


def _matching(name: str) -> list[str]:
    if os.path.exists(os.path.join(name, "manifest.json")):
        raise DataError(f"{name!r} is a folder; if it is a sink, read it with sinks.read({name!r}).")
    if os.path.isdir(name):
        raise DataError(f"{name!r} is a folder; expected files, such as {os.path.join(name, '*.jsonl')!r}.")
    if os.path.exists(name) or not has_magic(name):
        return [name]
    found = sorted(path for path in glob(name, recursive=True) if os.path.isfile(path))
    if not found:
        place = "" if os.path.isabs(name) else f" in {os.getcwd()!r}"
        raise DataError(f"{name!r} matches no file{place}.")
    return found


def _seen(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise DataError(f"{path!r} cannot be read: {error.strerror}.") from error
    return found.st_size, found.st_mtime_ns


class Items:
    """An iterable of the user's.

    Args:
        iterable: A list or another iterable, sync or async; or a function that returns one anew.
    """

    def __init__(self, iterable: Any) -> None:
        self._iterable = iterable
        self._is_read = False

    @property
    def is_async(self) -> bool:
        """True if it is an async iterable."""
        return isinstance(self._iterable, AsyncIterable)

    def once(self) -> Any:
        """Return the iterable, which can be read now.

        Raises:
            DataError: if it was read before, and cannot be read again; or a function returns no iterable.
        """
        if callable(self._iterable):
            made: Any = self._iterable()
            if not isinstance(made, Iterable | AsyncIterable):
                if isinstance(made, Coroutine):
                    made.close()
                given = shown(cast("object", made))
                raise DataError(
                    f"{self} returned {given}; expected an iterable. Let an async function yield rows."
                )
            return cast("Any", made)
        if self._is_read and _is_used_up(self._iterable):
            raise DataError(
                f"{self} was read already, and cannot be read again. Pass a function that returns it, or "
                "keep its rows: stream(...).cache('rows.jsonl')."
            )
        self._is_read = True
        return self._iterable

    async def arows(self) -> AsyncGenerator[Any, None]:
        made = self.once()
        if not isinstance(made, AsyncIterable):
            for row in made:
                yield row
            return
        rows = aiter(cast("AsyncIterable[Any]", made))
        try:
            async for row in rows:
                yield row
        finally:
            if isinstance(rows, AsyncGenerator):
                await rows.aclose()

    def opened(self) -> "Items":
        return Items(self.once())

    def rows(self) -> Iterator[Any]:
        made = self.once()
        if not isinstance(made, Iterable):
            raise DataError(
                f"{shown(made)} is read by 'async for', 'await stream.acollect()' or ainvoke; expected an "
                "iterable for a plain 'for'."
            )
        return iter(cast("Iterable[Any]", made))

    def __repr__(self) -> str:
        return shown(self._iterable)


def _is_used_up(iterable: Any) -> bool:
    """Return whether an iterable can be read only once."""
    return isinstance(iterable, Iterator) or hasattr(iterable, "__anext__")
