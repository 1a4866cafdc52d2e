"""Streams as batches, and sinks: beside a plain loop, with each source, mode, saver and fault."""

import asyncio
import json
import os
import pickle
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from mahsm import Budget, Retry, jit_edge, limits, vmap
from mahsm.data import sinks, stream
from mahsm.errors import BudgetExceeded, DataError, EdgeError, RowError, TooFewSucceeded
from tests.helpers import MODES, DictState, graph_of, run, run_edge, thread

SOURCES = ("list", "file", "mapped", "filtered", "generator", "async")


def rows_file(folder: Path, count: int) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(count)))
    return path


def source(kind: str, folder: Path, count: int) -> Any:
    """A batch of the rows {"n": 0}, {"n": 1} and so on."""
    rows = [{"n": n} for n in range(count)]
    if kind == "list":
        return rows
    if kind == "generator":
        return stream(lambda: iter(rows))
    if kind == "async":

        async def made() -> AsyncIterator[Any]:
            for row in rows:
                await asyncio.sleep(0)
                yield row

        return stream(made)
    if kind == "filtered":
        return stream(lambda: iter([*rows, {"n": -1}])).filter(lambda row: row["n"] >= 0)
    found = stream(rows_file(folder, count))
    return found.map(lambda row: {**row}) if kind == "mapped" else found


class Target:
    """Triples the numbers of rows; some fail, always or until they are healed."""

    def __init__(self, failing: set[int]) -> None:
        self.failing = failing
        self.calls: list[int] = []
        self.open = self.most_open = 0
        self._lock = threading.Lock()

    def sync(self, state: dict[str, Any]) -> dict[str, int]:
        n = state["item"]["n"]
        with self._lock:
            self.calls.append(n)
        if n in self.failing:
            raise ValueError(f"row {n}")
        return {"n": 3 * n}

    async def async_(self, state: dict[str, Any]) -> dict[str, int]:
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        await asyncio.sleep(0)
        self.open -= 1
        return self.sync(state)


@settings(deadline=None)
@given(
    kind=st.sampled_from(SOURCES),
    mode=st.sampled_from(MODES),
    place=st.sampled_from(["alone", "graph", "saved"]),
    count=st.integers(0, 40),
    width=st.integers(1, 9),
    chunk=st.sampled_from([None, 1, 3, 7, 100]),
    on_error=st.sampled_from(["collect", "drop"]),
    failing=st.sets(st.integers(0, 40), max_size=6),
    format=st.sampled_from([None, sinks.Jsonl, sinks.Parquet, "function"]),
)
def test_a_streamed_edge_does_what_a_loop_does(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    mode: str,
    place: str,
    count: int,
    width: int,
    chunk: int | None,
    on_error: Any,
    failing: set[int],
    format: Any,
) -> None:
    folder = tmp_path_factory.mktemp("data")
    if kind == "async" and mode == "sync":
        mode = "async"
    target = Target(failing)
    parts: list[sinks.Part] = []
    sink = parts.append if format == "function" else format and format(folder / "out")
    edge = vmap(
        target.sync if mode == "sync" else target.async_,
        batch=lambda _: source(kind, folder, count),
        out_key="ys",
        max_concurrency=width,
        chunk_size=chunk,
        on_error=on_error,
        sink=sink,
    )
    runnable = edge
    if place != "alone":
        runnable = graph_of(edge, checkpointer=InMemorySaver() if place == "saved" else None)
    found = run(runnable, {"bias": 1}, mode, thread() if place == "saved" else None)["ys"]

    good = [{"n": 3 * n} for n in range(count) if n not in failing]
    bad = [n for n in range(count) if n in failing]
    assert sorted(target.calls) == list(range(count))
    assert target.most_open <= width
    if format is None:
        entries = [one for one in found if set(one) == {"n"}]
        assert entries == good
        assert len(found) == (count if on_error == "collect" else len(good))
        return
    assert (found["rows"], found["errors"]) == (len(good), len(bad))
    if format == "function":
        parts.sort(key=lambda part: part.number)
        assert [entry for part in parts for entry in part.entries] == good
        assert [error["index"] for part in parts for error in part.errors] == bad
        assert [n for part in parts for n in part.places] == list(range(count))
        return
    assert found["path"] == str(folder / "out")
    assert sinks.read(folder / "out").collect() == good
    errors = stream(folder / "out" / "errors.jsonl").collect()
    assert [(error["index"], error["item"]) for error in errors] == [(n, {"n": n}) for n in bad]
    names = {"manifest.json", "errors.jsonl", ".lock"}
    assert {one for one in os.listdir(folder / "out") if not one.startswith("part-")} == names


@settings(deadline=None)
@given(
    kind=st.sampled_from(SOURCES),
    mode=st.sampled_from(MODES),
    place=st.sampled_from(["alone", "graph", "saved"]),
    count=st.integers(1, 40),
    width=st.integers(1, 9),
    chunks=st.tuples(*[st.sampled_from([None, 1, 3, 7, 100])] * 3),
    faults=st.lists(st.integers(0, 39), min_size=1, max_size=2, unique=True),
    format=st.sampled_from([sinks.Jsonl, sinks.Parquet]),
)
def test_a_run_that_failed_goes_on_with_the_rows_that_are_left(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    mode: str,
    place: str,
    count: int,
    width: int,
    chunks: tuple[int | None, ...],
    faults: list[int],
    format: Any,
) -> None:
    folder = tmp_path_factory.mktemp("data")
    if kind in ("file", "mapped"):
        rows_file(folder, count)
        given = source(kind, folder, count)
    mode = "async" if kind == "async" else mode
    target, saver = Target(set()), InMemorySaver()
    done: list[int] = []
    for chunk, fault in zip(chunks, [*faults, None, None][:3], strict=True):
        target.failing = set() if fault is None else {fault}
        edge = vmap(
            target.sync if mode == "sync" else target.async_,
            batch=lambda _: given if kind in ("file", "mapped") else source(kind, folder, count),
            out_key="ys",
            max_concurrency=width,
            chunk_size=chunk,
            sink=format(folder / "out"),
        )
        runnable = edge
        if place != "alone":
            runnable = graph_of(edge, checkpointer=saver if place == "saved" else None)
        before = len(target.calls)
        try:
            run(runnable, {"bias": 1}, mode, thread() if place == "saved" else None)
        except ValueError as error:
            assert str(error) == f"row {fault}"  # noqa: PT017  it may not come
            with pytest.raises(DataError, match="since its run has not ended"):
                sinks.read(folder / "out")
        # What has succeeded is in the sink, so no call of it is made again.
        made = target.calls[before:]
        assert not set(made) & set(done)
        done += [n for n in made if n != fault]
    assert sinks.read(folder / "out").collect() == [{"n": 3 * n} for n in range(count)]
    assert sorted(done) == list(range(count))


def triple(state: Any) -> dict[str, int]:
    return {"n": 3 * state["item"]["n"]}


def tripled(folder: Path, **options: Any) -> Any:
    return vmap(triple, batch_key="xs", out_key="ys", sink=sinks.Jsonl(folder / "out"), **options)


@pytest.mark.parametrize("mode", MODES)
def test_two_ranges_are_in_memory(tmp_path: Path, mode: str) -> None:
    """Items of two ranges are open at most; a slow one does not hold up the ranges after its own."""
    begun: list[int] = []
    open_now: set[int] = set()
    most = 0
    gate = threading.Event()

    def slow_first(state: Any) -> int:
        nonlocal most
        n = state["item"]["n"]
        begun.append(n)
        open_now.add(n)
        most = max(most, len({one // 10 for one in open_now}))
        if n == 49:
            gate.set()
        if n == 0:
            assert gate.wait(60)
        open_now.discard(n)
        return n

    edge = vmap(
        slow_first, batch_key="xs", out_key="ys", max_concurrency=2, chunk_size=10, sink=lambda part: None
    )
    rows = stream(rows_file(tmp_path, 50))
    assert run_edge(edge, rows, mode) == {"rows": 50, "parts": 5, "errors": 0}
    assert sorted(begun) == list(range(50))
    assert most == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_function_as_a_sink_may_be_async(mode: str) -> None:
    taken: list[list[int]] = []

    async def take(part: sinks.Part) -> None:
        await asyncio.sleep(0)
        taken.append(part.entries)

    def edge(sink: Any) -> Any:
        return vmap(
            lambda state: state["item"],
            batch_key="xs",
            out_key="ys",
            chunk_size=2,
            max_concurrency=1,
            sink=sink,
        )

    if mode == "async":
        run_edge(edge(take), stream(range(5)), mode)
        assert taken == [[0, 1], [2, 3], [4]]
    else:
        with pytest.raises(EdgeError, match="sink= is an async function"):
            run_edge(edge(take), stream(range(5)), mode)


def test_a_budget_that_is_spent_raises_and_a_later_run_goes_on(tmp_path: Path) -> None:
    rows = stream(rows_file(tmp_path, 20))
    calls: list[int] = []

    def spends(state: Any) -> int:
        calls.append(state["item"]["n"])
        limits.report(output_tokens=1)
        return state["item"]["n"]

    def edge(most: int) -> Any:
        return vmap(
            spends,
            batch_key="xs",
            out_key="ys",
            max_concurrency=1,
            on_error="collect",
            budget=Budget(tokens=most),
            sink=sinks.Jsonl(tmp_path / "out"),
        )

    with pytest.raises(BudgetExceeded):
        run_edge(edge(5), rows, "sync")
    first = len(calls)
    assert 0 < first < 20
    assert run_edge(edge(100), rows, "sync")["errors"] == 0
    assert sorted(calls) == list(range(20))


async def test_a_deadline_raises_and_a_later_run_goes_on(tmp_path: Path) -> None:
    rows = stream(rows_file(tmp_path, 20))
    stuck = True

    async def wait(state: Any) -> int:
        if stuck and state["item"]["n"] == 7:
            await asyncio.Event().wait()
        return state["item"]["n"]

    def edge(deadline: float | None) -> Any:
        sink = sinks.Jsonl(tmp_path / "out")
        return vmap(wait, batch_key="xs", out_key="ys", on_error="collect", deadline=deadline, sink=sink)

    with pytest.raises(TimeoutError, match="deadline"):
        await edge(0.2).ainvoke({"xs": rows})
    stuck = False
    assert (await edge(None).ainvoke({"xs": rows}))["ys"]["errors"] == 0
    assert [row async for row in sinks.read(tmp_path / "out")] == list(range(20))


def test_too_few_that_succeed_count_over_runs(tmp_path: Path) -> None:
    rows = stream(rows_file(tmp_path, 10))
    heal = False

    def fails(state: Any) -> int:
        if state["item"]["n"] % 2 == 0 or (state["item"]["n"] == 5 and not heal):
            raise KeyError(state["item"]["n"]) if state["item"]["n"] == 5 else ValueError(state["item"]["n"])
        return state["item"]["n"]

    def edge(least: int) -> Any:
        return vmap(
            fails,
            batch_key="xs",
            out_key="ys",
            max_concurrency=1,
            chunk_size=2,
            on_error="drop",
            min_success=least,
            sink=sinks.Jsonl(tmp_path / "out"),
        )

    with pytest.raises(TooFewSucceeded, match="of 10 items failed"):
        run_edge(edge(8), rows, "sync")
    heal = True
    with pytest.raises(TooFewSucceeded, match="of 10 items failed"):
        run_edge(edge(8), rows, "sync")
    assert run_edge(edge(5), rows, "sync")["errors"] == 5


def test_a_complete_sink_is_not_run_again(tmp_path: Path) -> None:
    rows = stream(rows_file(tmp_path, 10))
    calls: list[Any] = []

    def counted(state: Any) -> dict[str, int]:
        calls.append(state)
        return triple(state)

    edge = vmap(counted, batch_key="xs", out_key="ys", sink=sinks.Jsonl(tmp_path / "out"))
    first = run_edge(edge, rows, "sync")
    assert run_edge(edge, rows, "async") == first
    assert len(calls) == 10


def test_a_sink_of_another_run_is_refused(tmp_path: Path) -> None:
    path = rows_file(tmp_path, 10)
    run_edge(tripled(tmp_path), stream(path), "sync")
    other = vmap(
        lambda state: state["item"], batch_key="xs", out_key="ys", sink=sinks.Jsonl(tmp_path / "out")
    )
    with pytest.raises(DataError, match="has results of another target: triple and not"):
        run_edge(other, stream(path), "sync")
    with pytest.raises(DataError, match="has rows of another source"):
        run_edge(tripled(tmp_path), stream(path).map(dict), "sync")
    path.write_text('{"n": 1}\n')
    with pytest.raises(DataError, match="has rows of another source"):
        run_edge(tripled(tmp_path), stream(path), "sync")
    parquet = vmap(triple, batch_key="xs", out_key="ys", sink=sinks.Parquet(tmp_path / "out"))
    with pytest.raises(DataError, match="holds jsonl parts, and the sink writes parquet"):
        run_edge(parquet, stream(path), "sync")
    with pytest.raises(DataError, match="holds 'out', and is not a sink"):
        run_edge(vmap(triple, batch_key="xs", out_key="ys", sink=sinks.Jsonl(tmp_path)), stream(path), "sync")
    with pytest.raises(DataError, match="is not a sink"):
        sinks.read(tmp_path)


def test_another_run_may_begin_where_one_failed_before_its_first_result(tmp_path: Path) -> None:
    path = rows_file(tmp_path, 10)

    def broken(row: Any) -> Any:
        raise DataError("no such field")

    with pytest.raises(DataError, match="no such field"):
        run_edge(tripled(tmp_path), stream(path).map(broken), "sync")
    assert run_edge(tripled(tmp_path), stream(path), "sync")["rows"] == 10


def test_two_runs_do_not_write_one_sink(tmp_path: Path) -> None:
    rows = stream(rows_file(tmp_path, 2))

    def again(state: Any) -> dict[str, int]:
        with pytest.raises(DataError, match="another run writes it"):
            run_edge(tripled(tmp_path), rows, "sync")
        return state["item"]

    again.__name__ = "triple"
    run_edge(vmap(again, batch_key="xs", out_key="ys", sink=sinks.Jsonl(tmp_path / "out")), rows, "sync")


def test_bad_rows_are_failed_items(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 0}\nno\n{"n": 2}\n')
    found = run_edge(
        vmap(triple, batch_key="xs", out_key="ys", on_error="collect", retry=Retry(attempts=3, base=0)),
        stream(path, on_error="collect"),
        "sync",
    )
    assert [found[0], found[2]] == [{"n": 0}, {"n": 6}]
    assert found[1]["message"].startswith(f"{path}:2: it is not JSON")
    with pytest.raises(RowError, match=r"rows.jsonl:2: it is not JSON"):
        run_edge(vmap(triple, batch_key="xs", out_key="ys"), stream(path), "sync")


@pytest.mark.parametrize("mode", MODES)
def test_a_graph_as_a_target(tmp_path: Path, mode: str) -> None:
    graph = StateGraph(DictState)
    graph.add_node("triple", lambda state: {"ys": 3 * state["xs"]["n"]})
    graph.add_edge(START, "triple")
    edge = vmap(
        graph.compile(),
        batch_key="xs",
        out_key="ys",
        item_to_state=lambda row: {"xs": row},
        result="ys",
        chunk_size=4,
        sink=sinks.Jsonl(tmp_path / "out"),
    )
    rows = stream(rows_file(tmp_path, 10))
    saved = graph_of(edge, checkpointer=InMemorySaver())
    assert run(saved, {"xs": rows}, mode, thread())["ys"]["rows"] == 10
    assert sinks.read(tmp_path / "out").collect() == [3 * n for n in range(10)]


def test_an_interrupt_in_an_item_is_refused(tmp_path: Path) -> None:
    edge = vmap(
        lambda state: interrupt(state), batch_key="xs", out_key="ys", sink=sinks.Jsonl(tmp_path / "out")
    )
    graph = graph_of(edge, checkpointer=InMemorySaver())
    with pytest.raises(EdgeError, match=r"called interrupt\(\), but with sink= no checkpoint keeps"):
        graph.invoke({"xs": stream(range(3))}, thread())


def test_options_without_effect_are_refused(tmp_path: Path) -> None:
    sink = sinks.Jsonl(tmp_path / "out")
    options: list[tuple[dict[str, Any], str]] = [
        ({"preserve_order": False}, "preserve_order=False has no effect"),
        ({"dedupe_key": lambda row: 1}, "pass cache="),
        ({"stop_when": lambda found: True}, "stop_when= has no effect"),
        ({"errors_key": "errors", "on_error": "drop"}, "errors.jsonl of the sink"),
        ({"out_key": ("a", "b")}, "several keys in out_key"),
        ({"sink": 3}, "sink=3; expected sinks.Jsonl"),
    ]
    for more, message in options:
        with pytest.raises(EdgeError, match=message):
            vmap(triple, **{"batch_key": "xs", "out_key": "ys", "sink": sink, **more})
    with pytest.raises(EdgeError, match="whose results are in memory"):
        vmap(jit_edge(lambda x: x, in_keys=["x"], out_key="y"), batch_key="xs", out_key="ys", sink=sink)
    with pytest.raises(DataError, match="path=''; expected a folder"):
        sinks.Jsonl("")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_has_no_rows(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"n": n, "text": f"needle {n}"}) + "\n" for n in range(300)))
    saver = InMemorySaver()

    def fails(state: Any) -> int:
        if state["item"]["n"] == 200 and healthy == []:
            raise ValueError("broken")
        return state["item"]["n"]

    healthy: list[int] = []
    graph = graph_of(vmap(fails, batch_key="xs", out_key="ys"), checkpointer=saver)
    with pytest.raises(ValueError, match="broken"):
        run(graph, {"xs": stream(path)}, mode, thread())
    assert b"needle" not in pickle.dumps([dict(saver.storage), dict(saver.writes), dict(saver.blobs)])
    healthy.append(1)
    assert run(graph, None, mode, thread())["ys"] == list(range(300))


def test_a_source_that_changed_is_not_resumed(tmp_path: Path) -> None:
    path = rows_file(tmp_path, 300)
    healthy: list[int] = []

    def fails(state: Any) -> int:
        if state["item"]["n"] == 200 and healthy == []:
            raise ValueError("broken")
        return state["item"]["n"]

    graph = graph_of(vmap(fails, batch_key="xs", out_key="ys"), checkpointer=InMemorySaver())
    with pytest.raises(ValueError, match="broken"):
        graph.invoke({"xs": stream(path)}, thread())
    healthy.append(1)
    time_before = path.stat().st_mtime_ns
    os.utime(path, ns=(time_before, time_before + 1))
    with pytest.raises(DataError, match="has changed since"):
        graph.invoke(None, thread())


def test_a_stream_with_functions_is_not_saved() -> None:
    graph = graph_of(vmap(triple, batch_key="xs", out_key="ys"), checkpointer=InMemorySaver())
    rows = stream([{"n": 1}]).map(lambda row: row)
    with pytest.raises(TypeError, match="not msgpack serializable: Stream"):
        graph.invoke({"xs": rows}, thread())


def test_large_results_in_the_state_give_one_warning() -> None:
    text = "x" * 200_000

    def large(state: Any) -> Any:
        return {"text": text}

    for count, name in ((600, "many"), (200, "few")):
        edge = vmap(large, batch_key="xs", out_key="ys", name=name)
        run_edge(edge, [0] * 10, "sync")
        if name == "few":
            run_edge(edge, [0] * count, "sync")
            continue
        with pytest.warns(UserWarning, match=r"many: 600 results take about 1\d\d MB .* sink="):
            run_edge(edge, [0] * count, "sync")
        run_edge(edge, [0] * count, "sync")
