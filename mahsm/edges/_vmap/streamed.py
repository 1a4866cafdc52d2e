"""A batch that is a stream, and results that go to a sink: only two ranges of the batch are in memory."""

import inspect
import threading
from array import array
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, TypeAlias, cast

from mahsm._common import shown
from mahsm._waiting import THREAD, Slots, Way
from mahsm.data import Stream
from mahsm.data._internal import (
    Cut,
    FileSink,
    Part,
    Ranges,
    SinkRun,
    ranges_of,
    ranges_of_list,
    sink_run,
)
from mahsm.edges._vmap.results import ResultPart
from mahsm.errors import EdgeError
from mahsm.policies import ItemError

Sink: TypeAlias = FileSink | Callable[[Part], Any]


def check_sink(edge: str, sink: object, refused: Mapping[str, str]) -> None:
    """Refuse what is no sink, and options that have no effect with one.

    Raises:
        EdgeError: if there is any.
    """
    if not (isinstance(sink, FileSink) or callable(sink)) or isinstance(sink, type):
        raise EdgeError(
            f"{edge}: sink={shown(sink)}; expected sinks.Jsonl(folder), sinks.Parquet(folder), or a function "
            "of a sinks.Part."
        )
    for option, why in refused.items():
        raise EdgeError(f"{edge}: {option} has no effect with sink=: {why}. Leave one of them out.")


_OPEN = 2
"""Ranges in memory, so that slow items of one do not leave the width of the run idle."""


@dataclass(frozen=True)
class Streamed:
    """The batch of a run, and its sink, if it has one.

    Attributes:
        ranges: The batch.
        sink: Where results go, in place of the state.
        places: The places of the items that have no result in the sink.
    """

    ranges: Ranges
    sink: SinkRun | None
    places: Sequence[int]


def _places(ranges: Ranges, sink: SinkRun | None) -> Sequence[int]:
    everything = range(len(ranges))
    if sink is None:
        return everything
    left = array("Q")
    for number in range(ranges.number_of_ranges):
        left.extend(sink.missing(number))
    return everything if len(left) == len(everything) else left


@asynccontextmanager
async def opened(
    batch: Any, sink: Sink | None, cut: Cut, target: str, way: Way
) -> AsyncGenerator[Streamed, None]:
    """Return a block that reads a batch range by range, and writes its results to a sink, if there is one.

    Raises:
        DataError: if the batch cannot be read, or the sink was begun with another one, or another run
            writes it.
    """
    made: list[SinkRun] = []
    try:
        if sink is not None:
            await way.call_to_end(lambda: made.append(sink_run(sink, cut)))
        run = made[0] if made else None
        cut = cut if run is None else run.cut
        ranges = await _ranges(batch, cut, way, sink)
        try:
            if run is not None:
                await way.call_to_end(partial(run.begin, ranges, target))
            yield Streamed(ranges, run, await way.call_to_end(partial(_places, ranges, run)))
        finally:
            ranges.close()
    finally:
        for run in made:
            run.close()


async def _ranges(batch: Any, cut: Cut, way: Way, sink: Sink | None) -> Ranges:
    if isinstance(batch, Stream):
        folder = str(sink.path) if isinstance(sink, FileSink) else None
        return await ranges_of(cast("Stream[Any]", batch), cut, way, folder)
    return await way.call_blocking(lambda: ranges_of_list(batch, cut))


class OpenRanges:
    """The ranges of a run that are in memory: those with items that have no outcome yet.

    Also takes the results of a run with a sink, in the place of `Results`, and writes each part when it is
    complete.

    Args:
        streamed: The batch and the sink.
    """

    def __init__(self, streamed: Streamed) -> None:
        self._ranges, self._sink = streamed.ranges, streamed.sink
        self._slots = Slots(_OPEN)
        self._lock = threading.Lock()
        self._left: dict[int, int] = {}
        self._faults: list[OSError] = []

    def by_range(self, places: Sequence[int]) -> Iterator[Sequence[int]]:
        """Yield ascending places, those of each range together."""
        return (list(found) for _, found in groupby(places, self._ranges.number))

    @property
    def has_room(self) -> bool:
        """True if another range may be in memory now."""
        return self._slots.free > 0

    async def open(self, way: Way, places: Sequence[int]) -> None:
        """Wait until a range, whose items at these places are to be run, may be in memory; read it."""
        number = self._ranges.number(places[0])
        await self._slots.acquire(way, (places[0],))
        with self._lock:
            self._left[number] = len(places)
        await way.call_blocking(lambda: self._ranges.keep(number))

    def ended(self, place: int) -> int | None:
        """Note that an item has an outcome; return the number of its range if all its items have one."""
        number = self._ranges.number(place)
        with self._lock:
            left = self._left.get(number, 0) - 1
            if left > 0:
                self._left[number] = left
                return None
            return None if self._left.pop(number, None) is None else number

    async def finish(self, way: Way, number: int) -> None:
        """Write the part of a range, whose items have outcomes, and make room for another range."""
        if self._sink is not None:
            await self._write(way, self._sink, number)
        self._ranges.drop(number)
        self._slots.release()

    async def _write(self, way: Way, sink: SinkRun, number: int) -> None:
        made: list[Any] = []
        try:
            await way.call_to_end(lambda: made.append(sink.part(number)))
            if hasattr(made[0], "__await__"):
                if way is THREAD:
                    raise EdgeError(
                        "sink= is an async function; expected a plain one under invoke. Use ainvoke."
                    )
                await made[0]
        finally:
            # One that a cancellation or the error keeps from being awaited.
            if made and inspect.iscoroutine(made[0]):
                made[0].close()

    # In the place of `Results`.

    def add(self, place: int, value: Any, rank: int, error: ItemError | None, *, called: bool) -> None:
        """Take a result."""
        assert self._sink is not None
        item = None if error is None else self._ranges[place]
        try:
            self._sink.add(place, value, error, item)
        except OSError as fault:
            self._faults.append(fault)
            raise

    def is_fault(self, error: BaseException) -> bool:
        """Return whether an error is of the sink, such as a full disk, and not of an item."""
        return any(error is fault for fault in self._faults)

    def add_all(self, places: Sequence[int], values: Sequence[Any], ranks: Iterator[int]) -> None:
        """Take the values of many items."""
        assert self._sink is not None
        for place, value in zip(places, values, strict=True):
            self._sink.add(place, value, None, None)

    def skip(self, place: int) -> None:
        """Take note of an item that is left out: no option of an edge with a sink does that."""

    def close(self) -> ResultPart:
        """End the collection."""
        return ResultPart()

    def stop(self, reason: BaseException) -> None:
        """Open no further range."""
        self._slots.close(reason)
