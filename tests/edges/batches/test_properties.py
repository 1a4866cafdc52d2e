"""Drawn runs over a batch API come to the same as a plain loop, pay once, and leave nothing behind."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from mahsm import is_item_error
from mahsm.errors import EdgeError
from tests.edges.batches.draws import Plan, left_behind, outcome, plans, served


@settings(max_examples=60)
@given(plan=plans())
def test_a_run_is_a_plain_loop_at_half_the_price(plan: Plan) -> None:
    with served(plan) as server, tempfile.TemporaryDirectory() as folder:
        if not any(count for _, count in plan.items):
            with pytest.raises(EdgeError, match="no item called a model"):
                outcome(plan, Path(folder))
            return
        if plan.is_loud:
            with pytest.raises(Exception, match="400"):
                outcome(plan, Path(folder))
        else:
            assert [_plain(entry) for entry in outcome(plan, Path(folder))] == plan.expected()
            if plan.target != "parallel" or not plan.refused:
                assert len(server.bill) == plan.paid
        if plan.is_quiet:
            assert len(server.jobs.ids) <= max(count for _, count in plan.items)
        if not (plan.is_loud and plan.saver):
            states = {server.jobs.status(job) for job in server.jobs.ids}
            assert states <= {"completed", "expired", "cancelled", "failed"}
        assert not left_behind()


def _plain(entry: Any) -> Any:
    return None if is_item_error(entry) else entry
