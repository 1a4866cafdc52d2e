"""`stream`: rows of files and iterables, read as they are needed."""

import os
import re
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar, cast, get_args

from mahsm._common import shown
from mahsm.data import _loaders
from mahsm.data._cache import Cache
from mahsm.data._formats import COMPRESSED, FORMATS
from mahsm.data._sources import Files, Items, OnError, Source
from mahsm.data._steps import (
    Batch,
    Draw,
    Filter,
    Map,
    Passes,
    Share,
    Shuffle,
    Slice,
    Step,
    awaited,
    waited,
)
from mahsm.errors import DataError

T = TypeVar("T")
U = TypeVar("U")


def stream(
    source: str | os.PathLike[str] | Iterable[Any] | AsyncIterable[Any] | Callable[[], Any],
    *,
    format: str | None = None,
    on_error: OnError = "raise",
    **options: Any,
) -> "Stream[Any]":
    """Return the rows of a source as a stream, which is read row by row.

    A file gives a dict for each row: JSON Lines the value of each line, CSV a string for each column, text
    `{"text": line}`, Parquet a value for each column. Compressed files (gz, bz2, xz, zst) are read as well.

    Args:
        source: A path or a pattern such as `"data/*.jsonl.gz"` (the files in the order of their names); the
            name of a registered loader; an iterable or async iterable; a function that returns one, so that
            the stream can be read more than once; with `datasets` installed, a name of Hugging Face.
        format: `"jsonl"`, `"csv"`, `"tsv"`, `"txt"` or `"parquet"`; by default that of the suffix.
        on_error: What comes of a row that cannot be read: `"raise"`; `"collect"`, a `BadRow` in its place;
            or `"drop"`.
        **options: Arguments of the loader.

    Raises:
        DataError: immediately, if there is no such file, or its format is unknown.

    Example:
        >>> from mahsm import data
        >>> rows = data.stream(range(10)).filter(lambda n: n % 2).map(lambda n: n * n).limit(3)
        >>> rows.collect()
        [1, 9, 25]
    """
    if on_error not in get_args(OnError):
        raise DataError(f"stream: on_error={on_error!r}; expected one of {', '.join(get_args(OnError))}.")
    if format is not None and format not in FORMATS:
        raise DataError(f"stream: format={format!r}; expected one of {', '.join(FORMATS)}.")
    if isinstance(source, str | os.PathLike):
        return Stream(_named(cast("str | os.PathLike[str]", source), format, on_error, options))
    if isinstance(source, bytes | bytearray) or not (
        callable(source) or isinstance(source, Iterable | AsyncIterable)  # pyright: ignore[reportUnnecessaryIsInstance]
    ):
        raise DataError(f"stream: {shown(source)}; expected a path, a name, an iterable, or a function.")
    _check_is_file(shown(cast("object", source)), format, on_error)
    if options:
        raise DataError(f"stream: {_unknown(options)}, and the source is not a loader. Leave it out.")
    return cast("Stream[Any]", source) if isinstance(source, Stream) else Stream(Items(source))


def stream_of(names: Sequence[str]) -> "Stream[Any]":
    """Return the rows of several files or patterns, one after the other, or those of one other source.

    Raises:
        DataError: as `stream`.
    """
    return stream(names[0]) if len(names) == 1 else Stream(Files.of(names, "", "raise"))


def _check_is_file(source: str, format: str | None, on_error: OnError) -> None:
    """Refuse options of files for another source."""
    given = {"format": format, "on_error": None if on_error == "raise" else on_error}
    for option, value in given.items():
        if value is not None:
            raise DataError(
                f"stream({source}): {option}={value!r} is for files, and the source is not one. Leave it out."
            )


def _unknown(options: Mapping[str, Any]) -> str:
    return f"{', '.join(f'{name}=' for name in options)} can only be passed to a loader"


def _named(
    source: str | os.PathLike[str], format: str | None, on_error: OnError, options: dict[str, Any]
) -> Source:
    name = os.fspath(source)
    loader = _loaders.found(name) if isinstance(source, str) else None
    if loader is None and isinstance(source, str) and _is_no_path(name):
        loader = _loaders.of_hugging_face(name)
    if loader is not None:
        _check_is_file(repr(name), format, on_error)
        return Items(partial(loader, **options))
    if options:
        raise DataError(f"stream({name!r}): {_unknown(options)}, and this is a path. Leave it out.")
    return Files.of([name], format or "", on_error)


_NAME = re.compile(r"[\w-]+(/[\w-]+)?")


def _is_no_path(name: str) -> bool:
    """Return whether a name can only be one of a loader or of Hugging Face."""
    return not os.path.exists(name) and _NAME.fullmatch(name) is not None


@dataclass(frozen=True)
class Stream(Generic[T]):
    """Rows, read as they are needed; by `for` or `async for`. Made by `stream`.

    Its methods return another stream and read nothing. Functions of `map` and `filter` may be async in an
    `async for`.

    A stream in a state is saved as what its source is: paths, sizes and times, never rows. One with
    functions is not saved; pass `batch=lambda state: stream(state["path"]).map(f)` to the edge.
    """

    source: Source
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        # A checkpoint gives a list.
        object.__setattr__(self, "steps", tuple(self.steps))

    # Steps.

    def map(self, function: Callable[[T], U]) -> "Stream[U]":
        """Return the results of a function, one for each row.

        Args:
            function: A function of a row, sync or async.
        """
        return self._with(Map(_function("map", function), "map"))

    def transform(self, function: Callable[[T], U]) -> "Stream[U]":
        """Do what `map` does."""
        return self._with(Map(_function("transform", function), "transform"))

    def filter(self, function: Callable[[T], Any]) -> "Stream[T]":
        """Keep the rows for which a function is true.

        Args:
            function: A function of a row, sync or async.
        """
        return self._with(Filter(_function("filter", function)))

    def batch(self, size: int, *, drop_last: bool = False) -> "Stream[list[T]]":
        """Put rows together into lists.

        Args:
            size: Rows in a list, >= 1; the last one may have fewer.
            drop_last: Leave a shorter last one out.
        """
        return self._with(Batch(_whole("batch", "size", size, 1), drop_last))

    def shuffle(self, buffer: int = 10_000, seed: int = 0) -> "Stream[T]":
        """Give the rows in a random order, the same for the same seed.

        Each row is drawn from a buffer that is kept full, so a row comes at most `buffer` places early.

        Args:
            buffer: Rows in memory, >= 1. As many as the stream has give a uniform order.
            seed: The seed.
        """
        return self._with(Shuffle(_whole("shuffle", "buffer", buffer, 1), seed))

    def sample(self, amount: int | float, seed: int = 0) -> "Stream[T]":
        """Draw rows at random, in their order, the same for the same seed.

        Args:
            amount: A number of rows >= 0 (which come after the last row was read), or the share of them, a
                float in (0, 1].
            seed: The seed.
        """
        if isinstance(amount, float):
            if not 0 < amount <= 1:
                raise DataError(
                    f"stream.sample: amount={amount!r}; expected a number of rows, or a share in (0, 1]."
                )
            return self._with(Share(amount, seed))
        return self._with(Draw(_whole("sample", "amount", amount, 0), seed))

    def limit(self, count: int) -> "Stream[T]":
        """End after some rows.

        Args:
            count: The number of rows, >= 0.
        """
        return self._with(Slice(limit=_whole("limit", "count", count, 0)))

    def skip(self, count: int) -> "Stream[T]":
        """Leave out the first rows.

        Args:
            count: The number of rows, >= 0.
        """
        return self._with(Slice(skip=_whole("skip", "count", count, 0)))

    def cache(self, path: str | os.PathLike[str]) -> "Stream[T]":
        """Keep the rows in a file, from which later passes read them.

        The file is written as the rows of the first pass come, beside its place, and is there after the last
        row. Every pass gives a row as JSON gives it back: a tuple is a list. Remove the file to read the
        source again; whatever it holds is read in place of the source.

        Args:
            path: Path of a JSON Lines file, such as `"rows.jsonl"`.

        Raises:
            DataError: if it is the path of a source of this stream, or of a compressed file.
        """
        path = os.path.abspath(path)
        if path in getattr(self.source, "paths", ()):
            raise DataError(f"stream.cache: path={path!r} is read by this stream. Pass another path.")
        if path.lower().endswith(COMPRESSED):
            raise DataError(
                f"stream.cache: path={path!r}; expected a file that is not compressed, such as 'rows.jsonl'."
            )
        return Stream(Cache(self, path))

    def _with(self, step: Step) -> "Stream[Any]":
        return replace(self, steps=(*self.steps, step))

    # Reading.

    def __iter__(self) -> Iterator[T]:
        passes, rows = Passes(self.steps), self.source.rows()
        if not self.steps:
            return rows
        return self._passed(passes, rows)

    def _passed(self, passes: Passes, rows: Iterator[Any]) -> Generator[T, None, None]:
        while not passes.is_done and (row := next(rows, _END)) is not _END:
            yield from waited(passes.push(row))
        yield from waited(passes.end())

    async def __aiter__(self) -> AsyncGenerator[T, None]:
        passes = Passes(self.steps)
        rows = self.source.arows()
        try:
            while not passes.is_done and (row := await anext(rows, _END)) is not _END:
                async for made in awaited(passes.push(row)):
                    yield made
            async for made in awaited(passes.end()):
                yield made
        finally:
            await rows.aclose()

    def opened(self) -> "Stream[T]":
        """Return the same stream for one pass, with what its source's function returns for that pass."""
        return replace(self, source=self.source.opened())

    @property
    def is_async(self) -> bool:
        """True if only an `async for` can read it, once it is opened."""
        return self.source.is_async or any(getattr(step, "is_async", False) for step in self.steps)

    def collect(self) -> list[T]:
        """Return all rows as a list."""
        return list(self)

    async def acollect(self) -> list[T]:
        """Async version of `collect`."""
        return [row async for row in self]

    def __repr__(self) -> str:
        return "".join([f"stream({self.source!r})", *(f".{step.name}(...)" for step in self.steps)])


_END: Any = object()


def _function(name: str, function: Any) -> Any:
    if not callable(function):
        raise DataError(f"stream.{name}: {shown(function)}; expected a function of a row.")
    return function


def _whole(name: str, argument: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise DataError(f"stream.{name}: {argument}={value!r}; expected a whole number >= {least}.")
    return value
