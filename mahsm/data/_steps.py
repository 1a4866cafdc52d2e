"""The steps of a stream: what becomes of each row. Written once, for `for` and `async for`."""

import inspect
import random
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from mahsm._common import add_note
from mahsm.data._bad_rows import BadRow
from mahsm.errors import DataError


class Pass(Protocol):
    """One pass of rows through a step."""

    def push(self, row: Any) -> Iterable[Any]:
        """Take a row; return the rows that leave the step. Awaitables among them stand for rows."""
        ...

    def end(self) -> Iterable[Any]:
        """Return the rows that are left after the last one."""
        ...

    @property
    def is_done(self) -> bool:
        """True if no further row is needed."""
        ...


class Step(Protocol):
    """A step of a stream. It holds no rows, so that a stream can be read more than once."""

    @property
    def name(self) -> str:
        """The method of `Stream` that made it."""
        ...

    def begin(self) -> Pass:
        """Begin a pass."""
        ...


class _Pass:
    is_done = False

    def end(self) -> Iterable[Any]:
        return ()


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  an object with an async `__call__`
    )


DROPPED: Any = object()
"""What a function of a step returns for a row that is left out."""


@dataclass(frozen=True)
class Map:
    """Calls a function of each row. A `BadRow` passes by."""

    function: Callable[[Any], Any]
    name: str

    @property
    def is_async(self) -> bool:
        """True if the function is async."""
        return _is_async(self.function)

    def begin(self) -> Pass:
        return _MapPass(self)


class _MapPass(_Pass):
    def __init__(self, step: Map) -> None:
        self._function, self._name = step.function, step.name
        self._count = 0

    def push(self, row: Any) -> Iterable[Any]:
        self._count += 1
        if type(row) is BadRow:
            return (row,)
        try:
            return (self._function(row),)
        except Exception as error:
            add_note(error, f"stream.{self._name}, row {self._count}")
            raise


@dataclass(frozen=True)
class Filter:
    """Keeps the rows for which a function is true. A `BadRow` passes by."""

    function: Callable[[Any], Any]

    @property
    def is_async(self) -> bool:
        """True if the function is async."""
        return _is_async(self.function)

    name = "filter"

    def begin(self) -> Pass:
        return _MapPass(Map(self._kept, "filter"))

    def _kept(self, row: Any) -> Any:
        found = self.function(row)
        if hasattr(found, "__await__"):
            return self._awaited(found, row)
        return row if found else DROPPED

    async def _awaited(self, found: Any, row: Any) -> Any:
        return row if await found else DROPPED


@dataclass(frozen=True)
class Batch:
    """Puts rows together into lists."""

    size: int
    drop_last: bool
    name = "batch"

    def begin(self) -> Pass:
        return _BatchPass(self)


class _BatchPass(_Pass):
    def __init__(self, step: Batch) -> None:
        self._step = step
        self._rows: list[Any] = []

    def push(self, row: Any) -> Iterable[Any]:
        self._rows.append(row)
        if len(self._rows) < self._step.size:
            return ()
        rows, self._rows = self._rows, []
        return (rows,)

    def end(self) -> Iterable[Any]:
        return (self._rows,) if self._rows and not self._step.drop_last else ()


@dataclass(frozen=True)
class Shuffle:
    """Gives the rows in a random order, out of a buffer that it keeps full."""

    buffer: int
    seed: int
    name = "shuffle"

    def begin(self) -> Pass:
        return _ShufflePass(self)


class _ShufflePass(_Pass):
    def __init__(self, step: Shuffle) -> None:
        self._step, self._random = step, random.Random(step.seed)
        self._rows: list[Any] = []

    def push(self, row: Any) -> Iterable[Any]:
        if len(self._rows) < self._step.buffer:
            self._rows.append(row)
            return ()
        place = self._random.randrange(self._step.buffer)
        given, self._rows[place] = self._rows[place], row
        return (given,)

    def end(self) -> Iterable[Any]:
        self._random.shuffle(self._rows)
        return self._rows


@dataclass(frozen=True)
class Share:
    """Keeps each row with a probability."""

    share: float
    seed: int
    name = "sample"

    def begin(self) -> Pass:
        drawn = random.Random(self.seed)
        return _MapPass(Map(lambda row: row if drawn.random() < self.share else DROPPED, "sample"))


@dataclass(frozen=True)
class Draw:
    """Draws a number of rows, each with the same probability, and gives them in their order."""

    count: int
    seed: int
    name = "sample"

    def begin(self) -> Pass:
        return _DrawPass(self)


class _DrawPass(_Pass):
    # Algorithm R: J. S. Vitter, "Random sampling with a reservoir", ACM TOMS 11 (1985).
    def __init__(self, step: Draw) -> None:
        self._step, self._random = step, random.Random(step.seed)
        self._rows: list[tuple[int, Any]] = []
        self._seen = 0

    def push(self, row: Any) -> Iterable[Any]:
        self._seen += 1
        if len(self._rows) < self._step.count:
            self._rows.append((self._seen, row))
        elif (place := self._random.randrange(self._seen)) < self._step.count:
            self._rows[place] = self._seen, row
        return ()

    def end(self) -> Iterable[Any]:
        return [row for _, row in sorted(self._rows, key=lambda found: found[0])]


@dataclass(frozen=True)
class Slice:
    """Leaves out some rows, and ends after some."""

    skip: int = 0
    limit: int | None = None

    @property
    def name(self) -> str:
        return "skip" if self.limit is None else "limit"

    def begin(self) -> Pass:
        return _SlicePass(self)


@dataclass
class _SlicePass:
    step: Slice
    seen: int = field(default=0)

    def push(self, row: Any) -> Iterable[Any]:
        self.seen += 1
        kept = self.seen > self.step.skip and not self._is_over(self.seen - 1)
        return (row,) if kept else ()

    def end(self) -> Iterable[Any]:
        return ()

    @property
    def is_done(self) -> bool:
        return self._is_over(self.seen)

    def _is_over(self, seen: int) -> bool:
        return self.step.limit is not None and seen >= self.step.skip + self.step.limit


class Passes:
    """One pass of rows through all steps of a stream.

    Its generators yield rows, and awaitables, for which the caller sends the row that they stand for.

    Args:
        steps: The steps.
    """

    def __init__(self, steps: Iterable[Step]) -> None:
        self._passes = [step.begin() for step in steps]

    @property
    def is_done(self) -> bool:
        """True if no further row is needed."""
        return any(one.is_done for one in self._passes)

    def push(self, row: Any) -> Generator[Any, Any, None]:
        """Yield what leaves the last step when a row comes."""
        return self._through(0, row)

    def end(self) -> Generator[Any, Any, None]:
        """Yield what leaves the last step after the last row."""
        for place, one in enumerate(self._passes):
            for row in one.end():
                yield from self._through(place + 1, row)

    def _through(self, place: int, row: Any) -> Generator[Any, Any, None]:
        if hasattr(row, "__await__"):
            row = yield row
        if row is DROPPED:
            return
        if place == len(self._passes):
            yield row
            return
        for made in self._passes[place].push(row):
            yield from self._through(place + 1, made)


def waited(made: Generator[Any, Any, None]) -> Iterator[Any]:
    """Yield the rows of a pass in a plain `for`.

    Raises:
        DataError: if a function of a step is async.
    """
    for row in made:
        if hasattr(row, "__await__"):
            row.close()
            raise DataError(
                "a function of this stream is async, which a plain 'for' cannot wait for. Use 'async for', "
                "'await stream.acollect()' or ainvoke; there, pass the async function itself."
            )
        yield row


async def awaited(made: Generator[Any, Any, None]) -> AsyncGenerator[Any, None]:
    """Yield the rows of a pass, and await what stands for rows."""
    sent: Any = None
    while True:
        try:
            row = made.send(sent)
        except StopIteration:
            return
        if hasattr(row, "__await__"):
            sent = await row
        else:
            sent = None
            yield row
