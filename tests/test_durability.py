"""A process is killed in the middle of a batch; another one resumes it."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("crash_worker.py")
MAX_CONCURRENCY = 8


def noted(directory: Path) -> list[int]:
    path = directory / "done"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def run_until(directory: Path, arguments: list[str], items: int) -> None:
    process = subprocess.Popen([sys.executable, str(WORKER), *arguments])
    try:
        while len(noted(directory)) < items:
            assert process.poll() is None, "the worker ended before it could be killed"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("bound", [None, 4], ids=lambda bound: f"config-{bound}")
@pytest.mark.parametrize("kind", ["plain", "nested", "chunk1"])
@pytest.mark.parametrize("mode", ["async", "sync"])
def test_kill_loses_few_finished_items(tmp_path: Path, mode: str, kind: str, bound: int | None) -> None:
    arguments = [mode, str(tmp_path), kind, *([str(bound)] if bound else [])]
    run_until(tmp_path, arguments, items=500)
    finished = set(noted(tmp_path))
    subprocess.run([sys.executable, str(WORKER), *arguments], check=True)

    counts = Counter(noted(tmp_path))
    again = sum(counts[item] - 1 for item in finished)
    assert counts.keys() == set(range(1000))
    assert again <= (MAX_CONCURRENCY if kind == "chunk1" else 0.05 * len(finished))


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_kill_in_the_middle_of_a_wave(tmp_path: Path, mode: str) -> None:
    """A hundred branches in ten layers, eager under async; what had ended is not run again, but for what was being saved."""
    arguments = [mode, str(tmp_path), "wave"]
    run_until(tmp_path, arguments, items=37)
    finished = set(noted(tmp_path))
    subprocess.run([sys.executable, str(WORKER), *arguments], check=True)

    counts = Counter(noted(tmp_path))
    assert counts.keys() == set(range(100))
    assert sum(counts[branch] - 1 for branch in finished) <= 4, "as many as ran at once"
