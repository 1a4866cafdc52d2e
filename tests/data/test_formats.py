"""Files: each format, compression, and rows that cannot be read."""

import bz2
import csv
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mahsm import vmap
from mahsm.data import BadRow, stream
from mahsm.data._formats import FORMATS
from mahsm.errors import DataError, RowError

ROWS = [{"id": n, "text": f"row {n}", "score": n / 2} for n in range(5)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def lines_of(rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@given(st.lists(JSON, max_size=20), st.sampled_from(["\n", "\r\n", "\n\n", "\n  \n"]), st.booleans())
def test_json_lines_are_those_that_json_reads(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], end: str, ends: bool
) -> None:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    text = end.join(json.dumps(row) for row in rows) + end * ends
    path.write_bytes(text.encode())
    assert stream(path).collect() == rows
    assert len(list(FORMATS["jsonl"].scan(str(path)))) == len(rows)


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=8)


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=20), st.sampled_from(["csv", "tsv"]))
def test_csv_is_that_which_csv_writes(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], format: str
) -> None:
    path = tmp_path_factory.mktemp("data") / f"rows.{format}"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, delimiter="," if format == "csv" else "\t")
        writer.writerows([("a", "b"), *rows])
    assert stream(path).collect() == [{"a": a, "b": b} for a, b in rows]
    marks = [mark for _, mark in FORMATS[format].scan(str(path))]
    for place, mark in enumerate(marks):
        assert list(FORMATS[format].read(str(path), mark)) == stream(path).collect()[place:]


def test_text_has_a_row_for_each_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\ntwo")
    assert stream(tmp_path / "a.txt").collect() == [{"text": "one"}, {"text": ""}, {"text": "two"}]


@pytest.mark.parametrize("groups", [2, 100])
def test_parquet_is_read_from_any_row_on(tmp_path: Path, groups: int) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=groups)
    assert stream(path).collect() == ROWS
    marks = [mark for _, mark in FORMATS["parquet"].scan(str(path))]
    assert [list(FORMATS["parquet"].read(str(path), mark)) for mark in marks] == [
        ROWS[place:] for place in range(5)
    ]


def zstd(data: bytes) -> bytes:
    made = pa.BufferOutputStream()
    with pa.CompressedOutputStream(made, "zstd") as file:
        file.write(data)
    return made.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("zst", zstd)],
)
def test_compressed_files_are_read_from_any_row_on(tmp_path: Path, suffix: str, compress: Any) -> None:
    path = tmp_path / f"rows.jsonl.{suffix}"
    path.write_bytes(compress(lines_of(ROWS).encode()))
    assert stream(path).collect() == ROWS
    marks = [mark for _, mark in FORMATS["jsonl"].scan(str(path))]
    assert list(FORMATS["jsonl"].read(str(path), marks[3])) == ROWS[3:]


def test_a_pattern_is_its_files_in_order(tmp_path: Path) -> None:
    for n in (2, 0, 1):
        (tmp_path / f"{n}.jsonl").write_text(lines_of([n]))
    assert stream(str(tmp_path / "*.jsonl")).collect() == [0, 1, 2]


BAD = {
    "a.jsonl": (b'{"a": 1}\n\n{"a": \n{"a": 2}\n', 3, "it is not JSON: EOF while parsing a value"),
    "a.csv": (b"a,b\n1,2\n1\n3,4\n", 3, "it has 1 fields, and the header 2"),
    "b.csv": (b'a,b\n1,2\n"x"y,4\n3,4\n', 3, "it is not CSV: ',' expected after '\"'"),
    "c.csv": (b"a,b\n1,2\n\xff,2\n3,4\n", 3, "it is not UTF-8"),
    "a.txt": (b"one\n\xff\nthree\n", 2, "it is not UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_an_error_with_file_and_line(tmp_path: Path, name: str) -> None:
    data, line, problem = BAD[name]
    path = tmp_path / name
    path.write_bytes(data)
    rows = iter(stream(path))
    next(rows)
    with pytest.raises(RowError) as caught:
        next(rows)
    assert str(caught.value).startswith(f"{path}:{line}: {problem}")
    good, bad, after = stream(path, on_error="collect").collect()
    assert isinstance(bad, BadRow)
    assert (bad.line, str(bad.error)) == (line, str(caught.value))
    assert stream(path, on_error="drop").collect() == [good, after]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("cut.jsonl.gz", gzip.compress(lines_of(range(999)).encode(), mtime=0)[:-20]),
        ("cut.jsonl.bz2", bz2.compress(lines_of(range(999)).encode())[:-20]),
        ("cut.jsonl.xz", lzma.compress(lines_of(range(999)).encode())[:-20]),
        ("cut.jsonl.zst", zstd(lines_of(range(999)).encode())[:-20]),
        ("plain.csv.gz", b"a,b\n1,2\n"),
        ("garbled.jsonl.gz", gzip.compress(b"1\n2\n", mtime=0)[:-12] + b"\xff" * 12),
        ("empty.parquet", b""),
        ("not.parquet", b"PAR1 and more PAR1"),
    ],
)
def test_a_damaged_file_is_an_error_with_its_name(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    rows = stream(tmp_path / name, on_error="drop")
    with pytest.raises(DataError, match=rf"{name}' cannot be read: .*Is it whole"):
        rows.collect()
    with pytest.raises(DataError, match=rf"{name}' cannot be read: .*Is it whole"):
        list(FORMATS[name.split(".")[1]].scan(str(tmp_path / name)))


def test_a_csv_whose_header_cannot_be_read_has_no_rows_to_count(tmp_path: Path) -> None:
    path = tmp_path / "mac.csv"
    path.write_bytes(b"a,b\r1,2\r3,4\r")
    edge = vmap(lambda state: 1, batch_key="xs", out_key="ys")
    with pytest.raises(DataError, match="the first line is to name the columns"):
        edge.invoke({"xs": stream(path)})


def test_json_that_is_too_deep_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "deep.jsonl"
    path.write_bytes(b"[" * 100_000 + b'"\\ud83d"' + b"]" * 100_000 + b"\n" + b"[" * 250 + b"]" * 250 + b"\n")
    bad, good = stream(path, on_error="collect").collect()
    assert "too many lists or dicts in one another" in bad.problem
    assert str(good) == "[" * 250 + "]" * 250


def test_a_long_field_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"a\n{'x' * 1_000_000}\n")
    assert len(stream(tmp_path / "a.csv").collect()[0]["a"]) == 1_000_000


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.csv", "empty.txt"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert stream(tmp_path / name).collect() == []


def test_what_is_wrong_with_a_source_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.json").write_text("[]")
    (tmp_path / "twice.csv").write_text("a,a\n1,2\n")
    wrong: list[tuple[Any, str]] = [
        ("no.jsonl", "'.*no.jsonl' cannot be read: No such file"),
        ("*.csvs", r"'\*.csvs' matches no file"),
        (".", "'.' is a folder; expected files, such as './\\*.jsonl'"),
        ("rows.json", "write it as JSON Lines"),
        (3, "stream: 3; expected a path, a name, an iterable"),
    ]
    for source, message in wrong:
        with pytest.raises(DataError, match=message):
            stream(source)
    with pytest.raises(DataError, match="has a name twice"):
        stream("twice.csv").collect()
    with pytest.raises(DataError, match="on_error='skip'; expected one of raise, collect, drop"):
        stream("twice.csv", on_error="skip")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="format='json'; expected one of jsonl"):
        stream("rows.json", format="json")
    assert stream("rows.json", format="jsonl").collect() == [[]]


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("1\n")
    rows = stream(path)
    path.write_text("1\n2\n")
    with pytest.raises(DataError, match=r"has changed since stream\(\) looked at it \(2 bytes then, 4 now\)"):
        rows.collect()
    assert stream(path).collect() == [1, 2]
