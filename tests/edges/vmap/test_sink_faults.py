"""Faults around a sink: its folder, its source or its process fails in the middle of a run."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from mahsm import vmap
from mahsm.data import sinks, stream
from mahsm.errors import DataError
from tests.edges.vmap.test_streamed import rows_file
from tests.helpers import MODES, run_edge


@pytest.mark.parametrize("mode", MODES)
def test_a_run_whose_folder_is_lost_ends_with_that_error(tmp_path: Path, mode: str) -> None:
    out = tmp_path / "out"

    def target(state: Any) -> int:
        if state["item"] == 3:
            shutil.rmtree(out)
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
