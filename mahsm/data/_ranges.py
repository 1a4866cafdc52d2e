"""`Ranges`: the rows of a stream by their places, of which only a few are in memory."""

import hashlib
import pickle
import tempfile
import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar, cast, overload

from mahsm._waiting import THREAD, Way
from mahsm.data._cache import Cache
from mahsm.data._json import json_line
from mahsm.data._sources import Files, Place
from mahsm.data._steps import Map, Passes, waited
from mahsm.data._stream import Stream
from mahsm.errors import DataError

T = TypeVar("T")


@dataclass(frozen=True)
class Cut:
    """How rows are cut into ranges.

    Attributes:
        rows: The most rows of a range, >= 1.
        size: Bytes in the source after which a range ends.
        least: Rows that a range has at least, whatever their size.
    """

    rows: int = 8192
    size: int = 4 << 20
    least: int = 8


class Ranges(Sequence[Any]):
    """The rows of a stream by their places, in ranges. Those in memory are kept, or the last two.

    Args:
        reader: Reads a range.
        starts: The first place of each range, and the number of rows.
        identity: What the rows are, as JSON.
    """

    def __init__(self, reader: "Reader", starts: "array[int]", identity: dict[str, Any]) -> None:
        self._reader = reader
        self._starts = starts
        self._lock = threading.Lock()
        self._loaded: OrderedDict[int, list[Any]] = OrderedDict()
        self._kept: set[int] = set()
        # The span and number of the range that was last asked for, which is often asked for again.
        self._last = 0, 0, 0
        self.identity = identity

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def number_of_ranges(self) -> int:
        """The number of ranges."""
        return len(self._starts) - 1

    def span(self, number: int) -> range:
        """Return the places of a range."""
        return range(self._starts[number], self._starts[number + 1])

    def number(self, place: int) -> int:
        """Return the number of the range that a place is in."""
        begin, end, number = self._last
        if begin <= place < end:
            return number
        number = bisect_right(self._starts, place) - 1
        self._last = self._starts[number], self._starts[number + 1], number
        return number

    def load(self, number: int) -> list[Any]:
        """Return the rows of a range, which are then in memory."""
        with self._lock:
            rows = self._loaded.get(number)
            if rows is None:
                rows = self._loaded[number] = self._reader.read(number, len(self.span(number)))
                others = [one for one in self._loaded if one not in self._kept and one != number]
                for one in others[: max(0, len(self._loaded) - _LOADED)]:
                    del self._loaded[one]
            else:
                self._loaded.move_to_end(number)
            return rows

    def keep(self, number: int) -> None:
        """Read a range, and keep it until `drop`."""
        self._kept.add(number)
        self.load(number)

    def drop(self, number: int) -> None:
        """Keep a range no longer."""
        with self._lock:
            self._kept.discard(number)
            self._loaded.pop(number, None)

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...
    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        number = self.number(place)
        rows = self._loaded.get(number)
        return (self.load(number) if rows is None else rows)[place - self._starts[number]]

    def __iter__(self) -> Iterator[Any]:
        for number in range(self.number_of_ranges):
            yield from self.load(number)

    def close(self) -> None:
        """Remove what was kept on disk."""
        self._reader.close()


_LOADED = 2
"""Ranges in memory."""


class Reader:
    """Reads ranges, fastest in their order."""

    def __init__(self) -> None:
        self._at = -1
        self._rows: Iterator[Any] = iter(())

    def read(self, number: int, count: int) -> list[Any]:
        """Return the rows of a range.

        Raises:
            DataError: if there are fewer of them by now.
        """
        if number != self._at:
            self._rows = self.begin(number)
        self._at = -1
        rows = list(islice(self._rows, count))
        if len(rows) < count:
            raise DataError(
                f"range {number} of the source has {count} rows, and only {len(rows)} can be read now. "
                "Leave its files as they are while they are read, and begin anew."
            )
        self._at = number + 1
        return rows

    def begin(self, number: int) -> Iterator[Any]:
        """Yield the rows from a range on."""
        raise NotImplementedError

    def close(self) -> None:
        """Remove what was kept on disk."""


class _OfFiles(Reader):
    """Reads files, and calls the functions of a stream's steps, each of which keeps the places of rows."""

    def __init__(self, stream: Stream[Any], files: Files, places: Sequence[Place]) -> None:
        super().__init__()
        self._stream, self._files, self._places = stream, files, places

    def begin(self, number: int) -> Iterator[Any]:
        passes = Passes(self._stream.steps)
        for row in self._files.rows(self._places[number]):
            yield from waited(passes.push(row))


class Spool(Reader):
    """Rows that were written to a file of this process, since their source has no places.

    Args:
        cut: How they are cut into ranges.
        folder: Where the file is; by default that for temporary files.
    """

    def __init__(self, cut: Cut, folder: str | None = None) -> None:
        super().__init__()
        self._cut = cut
        self._file = tempfile.TemporaryFile(prefix="mahsm-rows-", dir=folder)  # noqa: SIM115  closed by `close`
        self._starts = array("Q", [0])
        self._offsets = array("Q", [0])
        self._digest = hashlib.blake2b(digest_size=16)
        self._count = 0

    def add(self, row: Any) -> None:
        """Write a row.

        Raises:
            DataError: if it cannot be pickled.
        """
        try:
            pickle.dump(row, self._file, protocol=5)
        except (pickle.PicklingError, AttributeError, TypeError, RecursionError) as error:
            raise DataError(
                f"row {self._count + 1} of the stream cannot be pickled: {error}. Rows of this stream are "
                "written to a temporary file; give plain values, or a list in place of the stream."
            ) from error
        self._digest.update(_digestible(row))
        self._count += 1
        rows = self._count - self._starts[-1]
        if rows >= self._cut.rows or (
            rows >= self._cut.least and self._file.tell() - self._offsets[-1] >= self._cut.size
        ):
            self._end()

    def ranges(self) -> Ranges:
        """Return the rows, after the last one was added."""
        if self._count > self._starts[-1]:
            self._end()
        return Ranges(self, self._starts, {"rows": self._count, "digest": self._digest.hexdigest()})

    def _end(self) -> None:
        self._starts.append(self._count)
        self._offsets.append(self._file.tell())

    def begin(self, number: int) -> Iterator[Any]:
        self._file.seek(self._offsets[number])
        while True:
            yield pickle.load(self._file)

    def close(self) -> None:
        self._file.close()


def _digestible(row: Any) -> bytes:
    """Return bytes that tell a row from others; those of the type, if a value has no JSON."""
    try:
        # JSON would use up an iterator, and a set has another order in another process.
        if any(isinstance(value, Iterator | set | frozenset) for value in (row, *_inner(row))):
            raise ValueError
        return json_line(row, "")
    except (ValueError, RecursionError):
        return f"{type(row).__name__}\n".encode()


def _inner(row: Any) -> Iterable[Any]:
    """Return the values in a list or dict."""
    if isinstance(row, dict):
        return cast("dict[Any, Any]", row).values()
    return cast("Iterable[Any]", row) if isinstance(row, list | tuple) else ()


def ranges_of_files(stream: Stream[Any], cut: Cut) -> Ranges | None:
    """Return the rows of a stream by their places in its files; None if they have none."""
    source = stream.source
    files = source.files() if isinstance(source, Cache) else source
    if not isinstance(files, Files) or files.on_error == "drop":
        return None
    if not _keeps_places(stream):
        return None
    starts, places = array("Q", [0]), list[Place]()
    count = size = 0
    for bytes_of_row, place in files.scan():
        rows = count - starts[-1]
        if not places or rows >= cut.rows or (rows >= cut.least and size >= cut.size):
            if places:
                starts.append(count)
            places.append(place)
            size = 0
        count += 1
        size += bytes_of_row
    if count:
        starts.append(count)
    functions = [_name(cast("Map", step).function) for step in stream.steps]
    identity = files.identity | {"rows": count, "functions": functions}
    return Ranges(_OfFiles(stream, files, places), starts, identity)


def _keeps_places(stream: Stream[Any]) -> bool:
    """Return whether each row of the source is one of the stream, which a plain function makes."""
    return all(isinstance(step, Map) and not step.is_async for step in stream.steps)


def _name(function: Any) -> str:
    return (
        f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', type(function).__name__)}"
    )


def spooled(rows: Iterable[Any], cut: Cut, folder: str | None = None) -> Ranges:
    """Write rows to a temporary file; return them by their places."""
    spool = Spool(cut, folder)
    try:
        for row in rows:
            spool.add(row)
        return spool.ranges()
    except BaseException:
        spool.close()
        raise


class _OfList(Reader):
    """Reads the rows of a list."""

    def __init__(self, rows: Sequence[Any], starts: "array[int]") -> None:
        super().__init__()
        self._listed, self._starts = rows, starts

    def begin(self, number: int) -> Iterator[Any]:
        return (self._listed[place] for place in range(self._starts[number], len(self._listed)))


def ranges_of_list(rows: Sequence[Any], cut: Cut) -> Ranges:
    """Return the rows of a list by their places."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(_digestible(row))
    starts = array("Q", [*range(0, len(rows), cut.rows), *([len(rows)] if rows else [0])])
    return Ranges(_OfList(rows, starts), starts, {"rows": len(rows), "digest": digest.hexdigest()})


def _until(cancelled: threading.Event, rows: Iterable[Any]) -> Iterator[Any]:
    """Yield rows until their reader is cancelled; a source may have no end."""
    for row in rows:
        if cancelled.is_set():
            raise CancelledError
        yield row


async def ranges_of(stream: Stream[Any], cut: Cut, way: Way, folder: str | None = None) -> Ranges:
    """Return the rows of a stream by their places. Those of files stay there; others are written to a file.

    Raises:
        DataError: if the rows cannot be read, or need an event loop and the way to wait is a thread.
    """
    if isinstance(stream.source, Cache) and _keeps_places(stream):
        # So that the rows have the same identity in a later run, which finds the file.
        await _fill(stream.source, way)
    found = await way.call_blocking(lambda: ranges_of_files(stream, cut))
    if found is not None:
        return found
    stream = stream.opened()
    if way is THREAD or not stream.is_async:
        return await _read(way, stream, lambda rows: spooled(rows, cut, folder))
    spool = Spool(cut, folder)
    try:
        async for row in stream:
            spool.add(row)
        return spool.ranges()
    except BaseException:
        spool.close()
        raise


async def _fill(cache: Cache, way: Way) -> None:
    """Have the file of a cache written, if it is not there."""
    if cache.files() is not None:
        return
    cache = cache.opened()
    if way is THREAD or not cache.is_async:
        await _read(way, cache.rows(), lambda rows: deque(rows, maxlen=0))
        return
    async for _ in cache.arows():
        pass


async def _read(way: Way, rows: Iterable[Any], read: Callable[[Iterable[Any]], T]) -> T:
    """Call a function that reads rows; in a task, in another thread, and until the task is cancelled."""
    cancelled = threading.Event()
    try:
        return await way.call_blocking(lambda: read(_until(cancelled, rows)))
    except BaseException:
        cancelled.set()
        raise
