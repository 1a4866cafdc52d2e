"""Whether what came out of branches is what they give one after the other."""

import asyncio
from collections.abc import Mapping
from typing import Any

from tests.model.branch_world import BranchWorld
from tests.model.branches import ITEMS, BranchCase, Expected, plain_branches
from tests.model.running import ANSWER, Ended
from tests.model.world import BASES, Flaky


def judge_branches(case: BranchCase, world: BranchWorld, runs: list[Ended]) -> None:
    """Check the last run's result, and the calls and bounds of all."""
    assert world.gauge.most <= case.bound, f"{world.gauge.most} calls at once, and {case.bound} may be"
    assert world.late == 0, f"{world.late} calls were made after the run was over"
    expected = plain_branches(case, ANSWER)
    _judge_calls(case, world, runs, expected)
    error = runs[-1].error
    if error is not None:
        if not isinstance(error, _errors(case)):
            raise AssertionError(f"this error has no reason: {error!r}") from error
        return
    state = runs[-1].state
    assert state is not None
    if case.rows is None:
        return _judge_update(case, state, expected)
    assert len(state["ys"]) == case.rows, f"{len(state['ys'])} rows of {case.rows}"
    for update in state["ys"]:
        _judge_update(case, update, expected)
    return None


def _errors(case: BranchCase) -> tuple[type[BaseException], ...]:
    found: list[type[BaseException]] = []
    if case.on_error == "raise" and any(often >= case.tries(branch) for branch, often in case.fails):
        found.append(Flaky)
    if case.fault is not None and case.saver is None:
        found.append(asyncio.CancelledError if case.fault.kind == "cancel" else BASES[case.fault.error])
    return tuple(found)


def _judge_update(case: BranchCase, update: Mapping[str, Any], expected: Expected) -> None:
    if case.merged:
        assert update["merged"] == sorted(expected.update), f"merged {update['merged']}"
    else:
        got = {key: value for key, value in update.items() if key[0] == "b"}
        assert got == expected.update, f"got {got}, expected {expected.update}"
    if case.is_logged:
        log = [branch for branch in expected.done if branch not in case.edges]
        assert sorted(update.get("log", [])) == sorted(log), f"log {update.get('log')}, expected {log}"
    if case.on_error == "isolate":
        errors = {error["key"].strip("'\""): error["type"].rpartition(".")[2] for error in update["errors"]}
        failed = {f"b{branch}": "Flaky" for branch in expected.failed}
        skipped = {f"b{branch}": "BranchSkipped" for branch in expected.skipped}
        assert errors == failed | skipped, f"errors {errors}, expected {failed | skipped}"


def _judge_calls(case: BranchCase, world: BranchWorld, runs: list[Ended], expected: Expected) -> None:
    fails = dict(case.fails)
    once = len(runs) == 1 and runs[0].error is None
    for (_, branch, item), calls in world.calls.items():
        in_one_run = min(fails.get(branch, 0) + 1, case.tries(branch)) if item == 0 else 1
        assert calls <= in_one_run * len(runs), f"branch {branch}: {calls} calls in {len(runs)} runs"
        assert not once or calls == in_one_run, f"branch {branch}: {calls} calls, expected {in_one_run}"
        assert branch not in expected.skipped, f"branch {branch} was to be skipped"
    if runs[-1].error is None:
        for branch in expected.done:
            for item in range(ITEMS if branch in case.edges else 1):
                for row in range(case.rows or 1):
                    assert world.calls[row, branch, item], f"branch {branch} was not called"
    if case.saver is None or case.durability == "exit" or case.fault is not None:
        return
    for finished, since in zip(world.at_error, world.called_since, strict=True):
        again = [place for place in finished if since[place]]
        assert not again, f"{again} had finished when another branch failed, and ran again"
    asked = set(case.asks)
    if asked and not case.fails:
        again = [place for place, calls in world.calls.items() if calls > 1 and place[1] not in asked]
        assert not again, f"{again} had finished when the run was interrupted, and ran again"
