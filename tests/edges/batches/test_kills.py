"""Processes that are killed while jobs are open: nothing is paid for twice, and no answer is lost."""

from pathlib import Path

import pytest

from mahsm.testing import BatchJobs, ModelServer
from tests.edges.batches.conftest import shout
from tests.edges.batches.killing import run_killed
from tests.edges.batches.worker import ITEMS, Plan, answers

MODELS = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5-20251001"]


@pytest.mark.parametrize(("mode", "model"), [("sync", MODELS[0]), ("async", MODELS[1])])
def test_a_killed_run_pays_for_each_request_once(mode: str, model: str, tmp_path: Path) -> None:
    jobs = BatchJobs(validation=0.1, duration=0.3, finalizing=0.1)
    with ModelServer(shout, jobs=jobs) as server:
        plan = Plan(server.base_url, str(tmp_path / "saved.sqlite"), model, mode)
        found = run_killed(plan, kills=2, seed=len(mode + model))
        assert found.ys == answers()
        assert not server.bill.repeated
        assert len(server.bill) == 2 * ITEMS


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_killed_run_that_postgresql_saves(mode: str, database: str) -> None:
    jobs = BatchJobs(validation=0.1, duration=0.3, finalizing=0.1)
    with ModelServer(shout, jobs=jobs) as server:
        plan = Plan(server.base_url, database, MODELS[0], mode, thread=f"batches {mode}")
        found = run_killed(plan, kills=1, seed=len(mode))
        assert found.ys == answers()
        assert not server.bill.repeated
        assert len(server.bill) == 2 * ITEMS
