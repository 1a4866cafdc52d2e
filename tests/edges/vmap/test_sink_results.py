"""Results in the files of a sink: which values they may be, and what reads them back."""

import datetime
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mahsm import vmap
from mahsm.data import sinks, stream
from mahsm.errors import DataError, EdgeError


@dataclass
class Answer:
    text: str
    when: Any = None


def test_results_are_written_as_what_they_hold(tmp_path: Path) -> None:
    import dspy
    import numpy as np

    day = datetime.date(2026, 1, 2)
    results = [
        Answer("yes", day),
        dspy.Prediction(answer="no"),
        np.arange(2),
        np.float32(0.5),
        {"half": "\ud83d"},
        Answer("\ud83d", day),
        float("nan"),
        2**70,
        None,
    ]
    edge = vmap(
        lambda state: results[state["item"]],
        batch=lambda _: range(9),
        out_key="ys",
        sink=sinks.Jsonl(tmp_path),
    )
    edge.invoke({})
    found = sinks.read(tmp_path).collect()
    assert found[:4] == [{"text": "yes", "when": "2026-01-02"}, {"answer": "no"}, [0, 1], 0.5]
    assert found[4] == {"half": "\ud83d"}
    assert found[5] == {"text": "\ud83d", "when": "2026-01-02"}
    assert np.isnan(found[6])
    assert found[7:] == [2**70, None]


def test_a_result_without_json_is_an_error(tmp_path: Path) -> None:
    edge = vmap(lambda state: object(), batch_key="xs", out_key="ys", sink=sinks.Jsonl(tmp_path))
    with pytest.raises(DataError, match=r"a result cannot be written as JSON: .*object"):
        edge.invoke({"xs": [1]})
    edge = vmap(
        lambda state: ["\ud83d", object()], batch_key="xs", out_key="ys", sink=sinks.Jsonl(tmp_path / "half")
    )
    with pytest.raises(DataError, match=r"a result cannot be written as JSON: .*object"):
        edge.invoke({"xs": [{"\ud83d": object()}]})


def test_parquet_has_a_column_for_each_key(tmp_path: Path) -> None:
    rows = [{"a": 1}, {"b": "x"}, 3]
    edge = vmap(
        lambda state: state["item"], batch_key="xs", out_key="ys", sink=sinks.Parquet(tmp_path / "out")
    )
    edge.invoke({"xs": rows})
    assert pq.read_table(tmp_path / "out" / "part-000000.parquet").to_pylist() == [
        {"a": 1, "b": None, "value": None},
        {"a": None, "b": "x", "value": None},
        {"a": None, "b": None, "value": 3},
    ]
    mixed = vmap(
        lambda state: state["item"], batch_key="xs", out_key="ys", sink=sinks.Parquet(tmp_path / "mixed")
    )
    with pytest.raises(DataError, match="no columns of one type each"):
        mixed.invoke({"xs": [{"a": 1}, {"a": "x"}]})


def written(folder: Path, results: list[Any], kind: Any = sinks.Parquet, calls: Any = None) -> Any:
    def target(state: Any) -> Any:
        if calls is not None:
            calls.append(state["item"])
        return results[state["item"]]

    edge = vmap(target, batch=lambda _: range(len(results)), out_key="ys", sink=kind(folder))
    return edge.invoke({})["ys"]


def test_empty_dicts_are_rows_in_parquet_too(tmp_path: Path) -> None:
    assert written(tmp_path, [{}, {}])["rows"] == 2
    assert sinks.read(tmp_path).collect() == [{"value": None}, {"value": None}]


@pytest.mark.parametrize("results", [[{"a": {}}], [2**70], ["\ud83d"], [1, "x"]])
def test_results_that_are_no_columns_go_on_as_json_lines(tmp_path: Path, results: list[Any]) -> None:
    calls: list[int] = []
    with pytest.raises(DataError, match="no columns of one type each"):
        written(tmp_path, results, calls=calls)
    assert written(tmp_path, results, sinks.Jsonl, calls)["rows"] == len(results)
    assert len(calls) == len(results)
    assert sinks.read(tmp_path).collect() == results
    with pytest.raises(DataError, match="holds jsonl parts"):
        written(tmp_path, results)


def test_what_is_no_sink_is_said_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"holds 'notes.txt', and is not a sink"):
        written(tmp_path, [1], sinks.Jsonl)
    assert [one.name for one in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(DataError, match=r"notes.txt' is not a sink"):
        sinks.read(tmp_path / "notes.txt")
    with pytest.raises(DataError, match=r"notes.txt' is a file; expected a folder, new, empty or a sink"):
        written(tmp_path / "notes.txt", [1], sinks.Jsonl)
    with pytest.raises(EdgeError, match=r"Jsonl'>; expected sinks.Jsonl\(folder\)"):
        vmap(lambda state: 1, batch_key="xs", out_key="ys", sink=sinks.Jsonl)  # type: ignore[arg-type]


def test_a_sink_is_read_by_itself_or_its_folder(tmp_path: Path) -> None:
    sink = sinks.Jsonl(tmp_path)
    written(tmp_path, [1, 2], sinks.Jsonl)
    assert sinks.read(sink).collect() == sinks.read(tmp_path).collect() == [1, 2]
    with pytest.raises(DataError, match=r"is a folder; if it is a sink, read it with sinks.read\('"):
        stream(tmp_path)


def test_another_source_is_told_in_a_few_words(tmp_path: Path) -> None:
    def run(rows: Any) -> Any:
        return vmap(lambda state: 1, batch=lambda _: rows, out_key="ys", sink=sinks.Jsonl(tmp_path / "out"))

    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text("1\n2\n")
    rows = stream(str(tmp_path / "*.jsonl"))
    run(rows).invoke({})
    os.utime(tmp_path / "b.jsonl", ns=(1, 1))
    wrong = [
        ([1], "all rows of files then, and a part of files, or rows from elsewhere now"),
        (stream(tmp_path / "a.jsonl"), r"'.*b.jsonl' is among its files only then"),
        (stream(str(tmp_path / "*.jsonl")), r"'.*b.jsonl' has changed: the same size, but written at \d{4}-"),
    ]
    for other, message in wrong:
        with pytest.raises(DataError, match=f"rows of another source: {message}"):
            run(other).invoke({})
    one = stream(tmp_path / "a.jsonl")
    for begun, now, message in (
        ([1], one, "a part of files, or rows from elsewhere then, and all rows of files now"),
        ([1], [1, 2], "1 rows then, and 2 now"),
        ([1], [2], "1 rows then and now, but not the same"),
        (
            stream(tmp_path / "a.jsonl"),
            stream(tmp_path / "a.jsonl").map(str),
            "rows as they are then, and rows mapped by str now",
        ),
    ):
        shutil.rmtree(tmp_path / "out")
        run(begun).invoke({})
        with pytest.raises(DataError, match=f"rows of another source: {message}"):
            run(now).invoke({})
    (tmp_path / "a.jsonl").write_text("1\n2\n3\n")
    with pytest.raises(DataError, match=r"a.jsonl' has changed: 4 bytes then, and 6 now"):
        run(stream(tmp_path / "a.jsonl")).invoke({})


def test_a_path_need_not_be_text(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has only names that are UTF-8")
    (folder / "rows.jsonl").write_text("1\n")
    edge = vmap(
        lambda state: 1,
        batch=lambda _: stream(folder / "rows.jsonl"),
        out_key="ys",
        sink=sinks.Jsonl(folder / "out"),
    )
    assert edge.invoke({}) == edge.invoke({})
    assert sinks.read(folder / "out").collect() == [1]


def test_a_folder_that_lacks_something_is_refused(tmp_path: Path) -> None:
    written(tmp_path, [1], sinks.Jsonl)
    (tmp_path / "part-000000.jsonl").unlink()
    for use in (lambda: written(tmp_path, [1], sinks.Jsonl), lambda: sinks.read(tmp_path)):
        with pytest.raises(DataError, match="lacks 1 of 1 parts, which were removed after its run had ended"):
            use()
    (tmp_path / "manifest.json").write_text('{"version": 1, "format": "jsonl"}')
    for use in (lambda: written(tmp_path, [1], sinks.Jsonl), lambda: sinks.read(tmp_path)):
        with pytest.raises(DataError, match=r"manifest.json lacks 'cut'"):
            use()
