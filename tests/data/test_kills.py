"""A process that writes a sink is killed, and another one goes on: each row is in the sink once, in order."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from mahsm.data import sinks, stream
from mahsm.data.sinks._journal import Journal
from tests.edges.vmap.test_streamed import rows_file

ROWS = 400


def calls_of(folder: Path, options: list[str], kill_after: int | None) -> list[int]:
    """Run the worker; return what it called. It is killed after that many calls."""
    command = [sys.executable, "-m", "tests.data.sink_worker", str(folder), *options]
    calls: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith("\n"):
                calls.append(int(line))
            if len(calls) == kill_after:
                process.kill()
    assert process.returncode == (0 if kill_after is None else -9)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize(("format", "mode"), [("jsonl", "async"), ("parquet", "sync")])
def test_each_row_is_in_the_sink_once_after_kills(tmp_path: Path, format: str, mode: str) -> None:
    rows_file(tmp_path, ROWS)
    drawn = random.Random(f"{format} {mode}")
    calls: list[int] = []
    for _ in range(4):
        # With a journal, each run gets further than the one before, so few calls are left in the end.
        chunk_size = drawn.choice([0, 7, 50])
        calls += calls_of(tmp_path, [format, str(chunk_size), mode], drawn.randrange(20, 90))
    calls += calls_of(tmp_path, [format, "0", mode], None)

    failed = list(range(3, ROWS, 10))
    assert sinks.read(tmp_path / "out").collect() == [{"n": 2 * n} for n in range(ROWS) if n not in failed]
    errors = stream(tmp_path / "out" / "errors.jsonl").collect()
    assert [(one["index"], one["item"]["n"], one["type"]) for one in errors] == [
        (n, n, "ValueError") for n in failed
    ]
    assert set(calls) == set(range(ROWS))
    # Only calls that were in progress are made again, eight at most for each of the four kills.
    assert len(calls) - len(set(calls)) <= 4 * 8
    assert not [one.name for one in (tmp_path / "out").iterdir() if one.name.startswith((".open", "errors-"))]


def test_a_journal_has_each_result_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    journal = Journal(path)
    journal.add(1, b"true\n")
    journal.add(0, b"[]\n")
    # What a process that is killed now leaves behind.
    assert Path(path).read_bytes() == b"1\ttrue\n0\t[]\n"
    journal.close()
    with open(path, "ab") as file:
        file.write(b"2\tfal")
    assert Journal(path).read() == {1: b"true\n", 0: b"[]\n"}
    assert Path(path).read_bytes() == b"1\ttrue\n0\t[]\n"
