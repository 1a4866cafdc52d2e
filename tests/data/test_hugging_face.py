"""Datasets of Hugging Face: read from files here, by the builder's name, without a network."""

import json
from pathlib import Path

import pytest

from mahsm import data, vmap
from mahsm.data import sinks, stream
from mahsm.errors import DataError

ROWS = [{"id": n, "text": "x" * n} for n in range(30)]


@pytest.fixture
def rows(tmp_path: Path) -> str:
    pytest.importorskip("datasets").config.HF_DATASETS_CACHE = tmp_path / "cache"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_dataset_is_a_stream(rows: str, streaming: bool) -> None:
    given = stream("json", data_files=rows, streaming=streaming)
    assert given.collect() == ROWS
    assert given.skip(3).limit(2).collect() == ROWS[3:5], "and can be read again"


def test_a_dataset_is_a_batch(rows: str, tmp_path: Path) -> None:
    edge = vmap(
        lambda state: len(state["item"]["text"]),
        batch_key="xs",
        out_key="ys",
        sink=sinks.Jsonl(tmp_path / "out"),
    )
    given = stream("json", data_files=rows)
    assert edge.invoke({"xs": given})["ys"]["rows"] == len(ROWS)
    assert sinks.read(tmp_path / "out").collect() == [row["id"] for row in ROWS]


def test_a_loaded_dataset_is_a_stream(rows: str) -> None:
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("json", data_files=rows, split="train")
    assert stream(loaded).collect() == ROWS
    assert stream(loaded.to_iterable_dataset()).collect() == ROWS


def test_a_name_that_nothing_has_is_an_error_that_says_where_it_was_looked_for(rows: str) -> None:
    data.register("tickets", lambda: ROWS)
    try:
        with pytest.raises(
            DataError, match=r"'tikets' is no file here, .* 'tickets'.* of Hugging Face, which says"
        ):
            stream("tikets").collect()
    finally:
        data.unregister("tickets")
