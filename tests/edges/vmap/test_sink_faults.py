"""Faults around a sink: its folder, its source or its process fails in the middle of a run."""

import asyncio
import itertools
import os
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from mahsm import vmap
from mahsm.data import sinks, stream
from mahsm.errors import DataError, TooFewSucceeded
from tests.edges.vmap.test_streamed import rows_file
from tests.helpers import MODES, run, run_edge


@pytest.mark.parametrize("mode", MODES)
def test_a_run_whose_folder_is_lost_ends_with_that_error(tmp_path: Path, mode: str) -> None:
    out = tmp_path / "out"

    def target(state: Any) -> int:
        if state["item"] == 3:
            out.rename(tmp_path / "lost")
        return state["item"]

    edge = vmap(
        target,
        batch_key="xs",
        out_key="ys",
        chunk_size=2,
        max_concurrency=1,
        on_error="collect",
        sink=sinks.Jsonl(out),
    )
    with pytest.raises(FileNotFoundError):
        run_edge(edge, list(range(20)), mode)


@pytest.mark.parametrize("on_error", ["raise", "collect"])
@pytest.mark.parametrize("mode", MODES)
def test_a_result_that_cannot_be_written_is_no_failed_item(tmp_path: Path, mode: str, on_error: Any) -> None:
    calls: list[int] = []
    in_the_way = tmp_path / "out" / ".open-000001"

    def target(state: Any) -> int:
        calls.append(state["item"])
        if calls == [0, 1]:
            in_the_way.mkdir()
        return state["item"]

    edge = vmap(
        target,
        batch_key="xs",
        out_key="ys",
        chunk_size=2,
        max_concurrency=1,
        on_error=on_error,
        sink=sinks.Jsonl(tmp_path / "out"),
    )
    with pytest.raises(IsADirectoryError):
        run_edge(edge, list(range(8)), mode)
    in_the_way.rmdir()
    assert run_edge(edge, list(range(8)), mode)["errors"] == 0
    assert sinks.read(tmp_path / "out").collect() == list(range(8))
    assert sorted(calls) == [0, 1, 2, *range(2, 8)]


@pytest.mark.parametrize("mode", MODES)
def test_a_file_that_is_cut_off_while_it_is_read_ends_the_run(tmp_path: Path, mode: str) -> None:
    path = rows_file(tmp_path, 20_000)

    def target(state: Any) -> int:
        if state["item"]["n"] == 5:
            os.truncate(path, 10_890)  # where row 1000 begins
        return state["item"]["n"]

    edge = vmap(
        target,
        batch_key="xs",
        out_key="ys",
        chunk_size=500,
        on_error="collect",
        sink=sinks.Jsonl(tmp_path / "out"),
    )
    with pytest.raises(DataError, match=r"has 500 rows, and only \d+ can be read now"):
        run_edge(edge, stream(path), mode)


def test_failures_of_an_earlier_run_count_at_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def fails(state: Any) -> int:
        calls.append(state["item"])
        if state["item"] < 4:
            raise ValueError(state["item"])
        return state["item"]

    def edge(least: int) -> Any:
        return vmap(
            fails,
            batch_key="xs",
            out_key="ys",
            max_concurrency=1,
            on_error="drop",
            min_success=least,
            sink=sinks.Jsonl(tmp_path / "out"),
        )

    for _ in range(2):
        with pytest.raises(TooFewSucceeded, match="3 of 10 items failed, and min_success=8"):
            run_edge(edge(8), list(range(10)), "sync")
    assert calls == [0, 1, 2]
    assert run_edge(edge(5), list(range(10)), "sync")["errors"] == 4
    # Of a complete sink, too.
    with pytest.raises(TooFewSucceeded, match="4 of 10 items failed, and min_success=7"):
        run_edge(edge(7), list(range(10)), "sync")
    assert calls == list(range(10))


class SlowSink(sinks.Jsonl):
    """A sink whose disk waits."""

    entered, gate = threading.Event(), threading.Event()

    def write(self, file: BinaryIO, lines: Sequence[bytes]) -> None:
        self.entered.set()
        assert self.gate.wait(60)
        super().write(file, lines)


async def test_a_cancelled_run_gives_its_folder_back_when_its_part_is_written(tmp_path: Path) -> None:
    def edge(sink: Any) -> Any:
        return vmap(lambda state: state["item"], batch_key="xs", out_key="ys", chunk_size=2, sink=sink)

    async with asyncio.TaskGroup() as group:
        cancelled = group.create_task(edge(SlowSink(tmp_path)).ainvoke({"xs": list(range(4))}))
        await asyncio.to_thread(SlowSink.entered.wait)
        cancelled.cancel()
        with pytest.raises(DataError, match="another run writes it"):
            await edge(sinks.Jsonl(tmp_path)).ainvoke({"xs": list(range(4))})
        SlowSink.gate.set()
    assert cancelled.cancelled()
    assert (await edge(sinks.Jsonl(tmp_path)).ainvoke({"xs": list(range(4))}))["ys"]["rows"] == 4
    assert sinks.read(tmp_path).collect() == list(range(4))


async def test_a_source_without_end_is_read_until_its_run_is_cancelled(tmp_path: Path) -> None:
    begun, cancelled = threading.Event(), threading.Event()
    read_after = 0

    def rows() -> Iterator[int]:
        nonlocal read_after
        for n in itertools.count():
            begun.set()
            if n == 100:
                assert cancelled.wait(60)
            read_after += n > 100
            yield n

    edge = vmap(lambda state: 1, batch_key="xs", out_key="ys", sink=sinks.Jsonl(tmp_path / "out"))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(edge.ainvoke({"xs": stream(rows)}))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        cancelled.set()
    assert read_after <= 1


async def test_a_sink_may_raise_stop_iteration() -> None:
    def take(part: sinks.Part) -> None:
        next(iter(()))

    edge = vmap(lambda state: 1, batch_key="xs", out_key="ys", sink=take)
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        await edge.ainvoke({"xs": [1]})


async def test_an_async_sink_that_is_not_awaited_any_more_is_closed() -> None:
    entered, gate = threading.Event(), threading.Event()

    async def nothing() -> None:
        await asyncio.sleep(0)

    def take(part: sinks.Part) -> Any:
        entered.set()
        assert gate.wait(60)
        return nothing()

    edge = vmap(lambda state: 1, batch_key="xs", out_key="ys", sink=take)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(edge.ainvoke({"xs": [1]}))
        await asyncio.to_thread(entered.wait)
        task.cancel()
        await asyncio.sleep(0)
        gate.set()
    assert task.cancelled()  # a warning would be an error


@pytest.mark.parametrize("mode", MODES)
def test_a_run_whose_batch_is_cached_goes_on(tmp_path: Path, mode: str) -> None:
    passes: list[int] = []

    async def arows() -> AsyncIterator[int]:
        passes.append(1)
        for n in range(10):
            await asyncio.sleep(0)
            yield n

    def rows() -> Iterator[int]:
        passes.append(1)
        yield from range(10)

    calls: list[int] = []

    def target(state: Any) -> int:
        calls.append(state["item"])
        if calls == [0, 1, 2]:
            raise ValueError(2)
        return state["item"]

    def edge() -> Any:
        # As in another process: nothing is known of the first run.
        kept = stream(rows if mode == "sync" else arows).cache(tmp_path / "rows.jsonl")
        sink = sinks.Jsonl(tmp_path / "out")
        return vmap(target, batch=lambda _: kept, out_key="ys", max_concurrency=1, sink=sink)

    with pytest.raises(ValueError, match="2"):
        run(edge(), {}, mode)
    run(edge(), {}, mode)
    assert sinks.read(tmp_path / "out").collect() == list(range(10))
    assert sorted(calls) == [0, 1, 2, *range(2, 10)]
    assert passes == [1]
