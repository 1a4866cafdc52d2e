"""Streams: their steps beside plain loops, one pass and many, sync and async."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mahsm import data, vmap
from mahsm.data import stream
from mahsm.errors import DataError, RegistryError
from tests.helpers import MODES


def collect(rows: Any, mode: str) -> list[Any]:
    return rows.collect() if mode == "sync" else asyncio.run(rows.acollect())


def batched(rows: list[Any], size: int) -> list[Any]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[str, int]]:
    names = ["map", "filter", "batch", "drop_last", "limit", "skip"]
    return draw(st.lists(st.tuples(st.sampled_from(names), st.integers(0, 6)), max_size=5))


def stepped(rows: Any, made: list[tuple[str, int]]) -> Any:
    for name, n in made:
        if name == "map":
            rows = rows.map(lambda row, n=n: (row, n))
        elif name == "filter":
            rows = rows.filter(lambda row, n=n: len(str(row)) % (n + 1))
        elif name == "batch":
            rows = rows.batch(n + 1)
        elif name == "drop_last":
            rows = rows.batch(n + 1, drop_last=True)
        else:
            rows = getattr(rows, name)(n)
    return rows


def by_hand(rows: list[Any], made: list[tuple[str, int]]) -> list[Any]:
    for name, n in made:
        if name == "map":
            rows = [(row, n) for row in rows]
        elif name == "filter":
            rows = [row for row in rows if len(str(row)) % (n + 1)]
        elif name in ("batch", "drop_last"):
            rows = [one for one in batched(rows, n + 1) if name == "batch" or len(one) == n + 1]
        else:
            rows = rows[:n] if name == "limit" else rows[n:]
    return rows


@given(st.integers(0, 30), steps(), st.sampled_from(MODES))
def test_steps_are_those_of_lists(count: int, made: list[tuple[str, int]], mode: str) -> None:
    rows = stepped(stream(range(count)), made)
    expected = by_hand(list(range(count)), made)
    assert collect(rows, mode) == expected
    assert collect(rows, mode) == expected


@given(st.integers(0, 50), st.integers(1, 60), st.integers(0, 3), st.sampled_from(MODES))
def test_a_shuffle_is_a_permutation_with_a_bound(count: int, buffer: int, seed: int, mode: str) -> None:
    rows = stream(range(count)).shuffle(buffer, seed)
    found = collect(rows, mode)
    assert sorted(found) == list(range(count))
    assert all(row - place < buffer for place, row in enumerate(found))
    assert collect(rows, mode) == found


def test_shuffles_and_samples_are_uniform() -> None:
    firsts = [stream(range(4)).shuffle(4, seed).collect()[0] for seed in range(400)]
    drawn = [row for seed in range(400) for row in stream(range(4)).sample(1, seed).collect()]
    for found in (firsts, drawn):
        assert all(60 < found.count(row) < 140 for row in range(4))
    assert 800 < len(stream(range(10_000)).sample(0.1, seed=1).collect()) < 1200
    assert stream(range(9)).sample(20).collect() == list(range(9))
    assert stream(range(9)).sample(3).collect() == sorted(stream(range(9)).sample(3).collect())


def test_nothing_is_read_before_it_is_needed() -> None:
    read: list[int] = []

    def rows() -> Iterator[int]:
        for n in range(100):
            read.append(n)
            yield n

    lazy = stream(rows).map(lambda n: n + 1).filter(bool).limit(3)
    assert read == []
    assert list(islice(lazy, 2)) == [1, 2]
    assert read == [0, 1]
    read.clear()
    assert lazy.collect() == [1, 2, 3]
    assert read == [0, 1, 2]


def test_a_generator_is_read_once() -> None:
    rows = stream(n for n in range(3))
    assert rows.collect() == [0, 1, 2]
    with pytest.raises(DataError, match=r"was read already, and cannot be read again\. Pass a function"):
        rows.collect()


async def numbers(to: int = 3) -> AsyncIterator[int]:
    for n in range(to):
        await asyncio.sleep(0)
        yield n


async def test_async_sources_and_functions() -> None:
    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    async def is_odd(n: int) -> bool:
        await asyncio.sleep(0)
        return bool(n % 2)

    rows = stream(lambda: numbers(4)).filter(is_odd).map(double).batch(2)
    assert await rows.acollect() == [[2, 6]]
    assert [row async for row in rows] == [[2, 6]]
    with pytest.raises(DataError, match="is read by 'async for'"):
        stream(numbers()).collect()
    with pytest.raises(DataError, match="a function of this stream is async"):
        stream([1]).map(double).collect()


class Doubles:
    async def __call__(self, n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n


async def test_an_object_with_an_async_call_is_async_in_an_edge() -> None:
    double = Doubles()
    edge = vmap(lambda state: state["item"], batch_key="xs", out_key="ys")
    assert await edge.ainvoke({"xs": stream(range(3)).map(double)}) == {"ys": [0, 2, 4]}
    with pytest.raises(DataError, match="pass the async function itself"):
        await edge.ainvoke({"xs": stream(range(3)).map(lambda n: double(n))})


@pytest.mark.parametrize("mode", MODES)
def test_a_function_that_returns_no_rows_is_named(mode: str) -> None:
    async def rows() -> list[int]:
        await asyncio.sleep(0)
        return [1]

    with pytest.raises(DataError, match=r"returned <coroutine object .*; expected an iterable"):
        collect(stream(rows), mode)
    with pytest.raises(DataError, match="returned None; expected an iterable"):
        collect(stream(lambda: None), mode)


def test_rows_that_cannot_be_pickled_are_refused_and_iterators_are_not_used_up() -> None:
    edge = vmap(lambda state: list(state["item"]), batch_key="xs", out_key="ys", sink=lambda part: None)
    with pytest.raises(DataError, match=r"row 2 of the stream cannot be pickled: .*lambda"):
        edge.invoke({"xs": stream([[], lambda: [1]])})
    taken: list[Any] = []
    edge.with_(sink=lambda part: taken.extend(part.entries)).invoke({"xs": [iter([1, 2]), [iter(())]]})
    assert taken[0] == [1, 2]


def test_options_of_files_are_refused_for_other_sources(tmp_path: Path) -> None:
    rows = stream([1])
    for source in (rows, [1], lambda: [1], rows.map(str)):
        with pytest.raises(DataError, match="format='csv' is for files, and the source is not one"):
            stream(source, format="csv")
        with pytest.raises(DataError, match="on_error='collect' is for files"):
            stream(source, on_error="collect")
    with pytest.raises(DataError, match=r"b'rows.jsonl'; expected a path"):
        stream(b"rows.jsonl")
    for path in (tmp_path / "rows", str(tmp_path / "rows")):
        with pytest.raises(DataError, match="rows' cannot be read: No such file"):
            stream(path)


async def test_a_source_is_closed_when_its_reader_breaks_off() -> None:
    closed: list[str] = []

    async def rows() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append("closed")

    async for _ in (opened := aiter(stream(rows))):
        break
    await opened.aclose()  # type: ignore[attr-defined]
    assert closed == ["closed"]


def test_an_error_of_a_function_says_which_row_it_was() -> None:
    rows = stream([1, 0]).map(lambda n: 1 / n)
    with pytest.raises(ZeroDivisionError) as caught:
        rows.collect()
    assert caught.value.__notes__ == ["mahsm: stream.map, row 2"]


@pytest.mark.parametrize("mode", MODES)
def test_a_cache_reads_its_source_once(tmp_path: Path, mode: str) -> None:
    passes: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        passes.append(1)
        yield from ({"n": n} for n in range(3))

    path = tmp_path / "new" / "rows.jsonl"
    kept = stream(rows).cache(path)
    assert list(islice(iter(kept), 2)) == [{"n": 0}, {"n": 1}]
    assert list(path.parent.iterdir()) == []  # only a whole pass is kept
    for _ in range(2):
        assert collect(kept, mode) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert len(passes) == 2
    assert [one.name for one in path.parent.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("mode", MODES)
def test_each_pass_of_a_cache_gives_the_same_rows(tmp_path: Path, mode: str) -> None:
    kept = stream([{"pair": (1, 2)}]).cache(tmp_path / "pairs.jsonl")
    assert collect(kept, mode) == collect(kept, mode) == [{"pair": [1, 2]}]

    (tmp_path / "rows.jsonl").write_text('1\nno\n3\n!{"a": 1}\n')
    found = stream(tmp_path / "rows.jsonl", on_error="collect")
    kept = found.cache(tmp_path / "bad.jsonl")
    assert collect(kept, mode) == collect(kept, mode) == found.collect()
    assert [type(row) for row in kept] == [int, data.BadRow, int, data.BadRow]
    assert kept.cache(tmp_path / "twice.jsonl").collect() == found.collect()
    with pytest.raises(DataError, match=r"rows.jsonl:2: it is not JSON"):
        stream(tmp_path / "bad.jsonl").collect()


def test_a_cache_is_no_file_that_it_reads(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("1\n")
    rows = stream(path).map(lambda n: 2 * n)
    with pytest.raises(DataError, match=r"rows.jsonl' is read by this stream"):
        rows.cache(path)
    with pytest.raises(DataError, match=r"kept.jsonl' is read by this stream"):
        rows.cache(tmp_path / "kept.jsonl").map(str).cache(tmp_path / "kept.jsonl")
    with pytest.raises(DataError, match="expected a file that is not compressed"):
        rows.cache(tmp_path / "kept.jsonl.gz")


def test_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # type: ignore[arg-type]  as if it were not installed
    data.register("squares", lambda to=3: (n * n for n in range(to)))
    try:
        rows = stream("squares", to=4)
        assert rows.collect() == rows.collect() == [0, 1, 4, 9]
        with pytest.raises(DataError, match=r"no loader is registered under it. Did you mean 'squares'\?"):
            stream("squarse").collect()
    finally:
        data.unregister("squares")
    with pytest.raises(RegistryError, match="loader=3; expected a function"):
        data.register("three", 3)  # type: ignore[arg-type]
    with pytest.raises(RegistryError, match="name=''; expected a name"):
        data.register("", list)
    with pytest.raises(DataError, match="to= can only be passed to a loader"):
        stream([1], to=3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: s.map(3), "stream.map: 3; expected a function"),
        (lambda s: s.batch(0), "size=0; expected a whole number >= 1"),
        (lambda s: s.limit(-1), "count=-1; expected a whole number >= 0"),
        (lambda s: s.skip(1.5), r"count=1.5; expected"),
        (lambda s: s.sample(1.5), r"amount=1.5; expected a number of rows, or a share"),
        (lambda s: s.shuffle(True), "buffer=True; expected"),
    ],
)
def test_arguments_are_checked(make: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(stream([1]))


def test_a_stream_says_what_it_is() -> None:
    rows = stream(range(3)).map(str).limit(2)
    assert repr(rows) == "stream(range(0, 3)).map(...).limit(...)"
    assert stream(rows) is rows
