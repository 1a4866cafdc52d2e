"""`Format`, and opening files, compressed ones too."""

import bz2
import gzip
import importlib
import io
import lzma
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any, BinaryIO, Protocol, TypeAlias, cast

from mahsm.errors import DataError

Mark: TypeAlias = tuple[int, int]
"""Where a row begins: the byte, counted before compression, and the line; in Parquet the row, twice."""


class Format(Protocol):
    """How the rows of a file are found and read."""

    def scan(self, path: str) -> Iterator[tuple[int, Mark]]:
        """Yield the size in bytes and the place of each row, without reading more of it than needed."""
        ...

    def read(self, path: str, mark: Mark | None) -> Iterator[Any]:
        """Yield the rows from a place on; a `BadRow` for one that cannot be read."""
        ...


def _zstd(path: str) -> BinaryIO:
    return io.BufferedReader(arrow("pyarrow", path).input_stream(path, compression="zstd"))


_OPENERS: dict[str, Callable[[str], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstd,
}
COMPRESSED = tuple(_OPENERS)
"""The suffixes of compressed files."""


@contextmanager
def opened(path: str) -> Generator[BinaryIO, None, None]:
    """Return a block that reads a file, decompressed if its suffix says that it is compressed.

    Raises:
        DataError: if it is damaged.
    """
    decompress = _OPENERS.get(PurePath(path).suffix.lower())
    with (
        readable(path, EOFError, OSError, lzma.LZMAError, zlib.error),
        open(path, "rb") if decompress is None else cast("BinaryIO", decompress(path)) as file,
    ):
        yield file


@contextmanager
def readable(path: str, *errors: type[Exception]) -> Generator[None, None, None]:
    """Return a block that reads a file, and in which these errors say that it is damaged.

    Raises:
        DataError: in their place.
    """
    try:
        yield
    except errors as error:
        raise DataError(
            f"{path!r} cannot be read: {error}. Is it whole, and of the kind that its suffix says? Copy or "
            "write it again."
        ) from error


def arrow(module: str, path: str) -> Any:
    """Import a module of pyarrow.

    Raises:
        DataError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(f"{path!r} needs pyarrow ({error}). Run pip install 'mahsm[data]'.") from error


_BOM = b"\xef\xbb\xbf"


@contextmanager
def lines(path: str, mark: Mark | None = None) -> Generator[Iterator[tuple[bytes, Mark]], None, None]:
    """Return a block that yields the lines of a file from a place on, each with its place."""
    with opened(path) as file:
        yield _lines(file, *(mark or (0, 1)))


def _lines(file: BinaryIO, begin: int, line: int) -> Iterator[tuple[bytes, Mark]]:
    _skip(file, begin)
    for text in file:
        yield (text.removeprefix(_BOM) if begin == 0 else text), (begin, line)
        begin += len(text)
        line += 1


def _skip(file: BinaryIO, count: int) -> None:
    if file.seekable():
        file.seek(count)
        return
    while count:
        read = len(file.read(min(count, 1 << 20)))
        if not read:
            return
        count -= read
