"""Kill a worker at random moments, resume it until it is done, and count what ran again."""

import random
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests import scripts
from tests.kills.plans import ITEMS, Plan

WORKER = Path(__file__).with_name("worker.py")
LIMIT = 120.0
"""Seconds without an end, after which a worker hangs."""


@dataclass
class Toll:
    """What the kills of one worker have cost.

    Attributes:
        plan: What it ran.
        again: For each kill the number of rows that had finished before it and ran again after it.
    """

    plan: Plan
    again: list[int] = field(default_factory=list)


@contextmanager
def plan_of(
    kind: str, saver: str, *, blocks: bool, slow: float, database: str | None, thread: str
) -> Iterator[Plan]:
    """A plan with a storage of its own."""
    with tempfile.TemporaryDirectory() as directory:
        address = f"{directory}/checkpoints" if saver.endswith("sqlite") else database
        assert address is not None, "there is no database"
        yield Plan(kind, saver, blocks, slow, address, f"{directory}/notes", thread)


def noted(plan: Plan) -> list[int]:
    path = Path(plan.notes)
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def kill_and_resume(plan: Plan, kills: int, chance: random.Random) -> Toll:
    """Let it run, kill it so many times, and let it end.

    Raises:
        AssertionError: if an item is lost, the result is wrong, it does not end, or a kill costs too much.
    """
    toll = Toll(plan)
    killed_at: list[int] = []
    for left in range(kills, -1, -1):
        before = len(noted(plan))
        target = before + chance.randint(1, max(1, (ITEMS - before) // (left + 1) * 2 - 1)) if left else None
        if not _run(plan, target, chance.uniform(0, 0.02)):
            break  # it is done, perhaps before it could be killed once more
        killed_at.append(len(noted(plan)))
    notes = noted(plan)
    assert set(notes) == set(range(ITEMS)), f"{plan.label}: {ITEMS - len(set(notes))} items are lost"
    for begun, at in zip([0, *killed_at], killed_at, strict=False):
        # What an earlier kill has cost, and nobody has run since, is not of this one.
        again = set(notes[begun:at]) & set(notes[at:])
        toll.again.append(len(again))
        assert len(again) <= plan.may_run_again, (
            f"{plan.label}: {len(again)} rows that had finished ran again after a kill; {plan.may_run_again} "
            "may"
        )
    return toll


def _run(plan: Plan, until: int | None, delay: float) -> bool:
    """Run a worker to its end, or until so many items are noted and a while longer; whether it was killed."""
    with tempfile.TemporaryDirectory() as folder:
        process = scripts.start(WORKER, plan.to_json(), folder=Path(folder))
        try:
            _watch(process, plan, until, delay)
        finally:
            process.kill()
            process.join()
        killed = process.exitcode == -signal.SIGKILL
        assert killed or process.exitcode == 0, f"{plan.label}: {Path(folder, '2').read_text()[-3000:]}"
        return killed


def _watch(process: BaseProcess, plan: Plan, until: int | None, delay: float) -> None:
    deadline = time.monotonic() + LIMIT
    while process.is_alive():
        assert time.monotonic() < deadline, f"{plan.label}: hangs after {len(noted(plan))} items"
        if until is not None and len(noted(plan)) >= until:
            time.sleep(delay)
            process.kill()
            process.join()
        time.sleep(0.005)
