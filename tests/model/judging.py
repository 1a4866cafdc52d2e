"""Whether what came out of the runs of a case is what the plain loop gives."""

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

from mahsm import is_item_error
from mahsm.errors import BudgetExceeded, EdgeError, TooFewSucceeded
from tests.model.case import OVER_ROWS, Case
from tests.model.plain import Expected, Failed, failures_allowed, plain
from tests.model.running import Ended
from tests.model.savers import Stopped
from tests.model.world import BASES, Flaky, World


def judge(case: Case, world: World, runs: list[Ended]) -> None:
    """Check the last run's result, and the calls and bounds of all."""
    _judge_bounds(case, world)
    expected = [plain(case, items) for items in case.batches]
    _judge_calls(case, world, runs, expected)
    _judge_what_was_saved(case, world, expected)
    error = runs[-1].error
    if error is not None:
        if not isinstance(error, _errors(case, expected)):
            raise AssertionError(f"this error has no reason: {error!r}") from error
        return
    state = runs[-1].state
    assert state is not None
    rows = state["ys"] if case.nesting in OVER_ROWS else [state["ys"]]
    assert len(rows) == len(case.batches), f"{len(rows)} rows of {len(case.batches)}"
    for got, row in zip(rows, expected, strict=True):
        _judge_entries(case, [_shape(entry) for entry in got], row)
    if case.errors_key and case.nesting not in OVER_ROWS and _is_whole(case, expected[0]):
        found = [_shape(entry) for entry in state["errors"]]
        assert found == expected[0].failures, f"errors_key has {found}, expected {expected[0].failures}"


def _judge_bounds(case: Case, world: World) -> None:
    bound = max(case.bound, case.resumed.bound)
    if case.blocks and case.stop_after is not None and case.mode in ("ainvoke", "astream"):
        bound *= 2  # calls that nobody needs any more, in threads that run on
    assert world.gauge.most <= bound, f"{world.gauge.most} calls at once, and {bound} may be"
    for row, gauge in world.rows.items():
        most = max(case.max_concurrency, case.resumed.max_concurrency)
        assert gauge.most <= most, f"{gauge.most} calls at once in row {row}, and {most} may be"
    assert world.late == 0, f"{world.late} calls were made after the run was over"


def _errors(case: Case, expected: list[Expected]) -> tuple[type[BaseException], ...]:
    """What may come out of the last run."""
    found: list[type[BaseException]] = []
    if case.on_error == "raise":
        found += [
            {"Flaky": Flaky, "TimeoutError": TimeoutError}[place.kind]
            for row in expected
            for place in row.failures
        ]
        if case.hedge is not None and case.fails:
            found.append(Flaky)
        if case.budget is not None and any(not _is_whole(case, row) for row in expected):
            found.append(BudgetExceeded)
        if case.hangs is not None and case.deadline is not None:
            found.append(TimeoutError)
    if case.min_success is not None and len(expected[0].failures) > failures_allowed(
        case, len(expected[0].places)
    ):
        found.append(TooFewSucceeded)
    if case.resume:
        found.append(EdgeError)
    if case.fault is not None and case.saver is None:
        found.append(
            {"base": BASES.get(case.fault.error), "cancel": asyncio.CancelledError}[case.fault.kind]
            or Stopped
        )
    return tuple(found)


def _is_whole(case: Case, row: Expected) -> bool:
    """Whether nothing ends the run before all items have been called."""
    values = len(row.places) - len(row.failures)
    if case.hangs is not None and case.deadline is not None and case.deadline < 1:
        return False
    if case.budget is not None and case.budget < row.need * (1 if case.hedge is None else 2):
        return False
    return case.stop_after is None or case.stop_after > values


# Calls.


def _judge_calls(case: Case, world: World, runs: list[Ended], expected: list[Expected]) -> None:
    hedged = 1 if case.hedge is None else 2
    once = len(runs) == 1 and runs[0].error is None
    for row in expected:
        for item, calls in row.calls.items():
            most = (calls if len(runs) == 1 else max(case.tries, calls)) * hedged * len(runs)
            assert world.calls[item] <= most, f"item {item}: {world.calls[item]} calls, at most {most} may be"
            if once and _is_whole(case, row):
                assert world.calls[item] >= calls, f"item {item}: {world.calls[item]} calls of {calls}"
    if case.budget is not None:
        most = case.budget * len(runs) * len(expected)
        total = world.calls.total()
        assert total <= most, f"{total} calls, and the budget has {most}"
        if once and hedged == 1 and case.on_error != "raise":
            least = sum(min(case.budget, row.need) for row in expected)
            assert total == least, f"{total} calls, and the budget has {least}"


def _judge_what_was_saved(case: Case, world: World, expected: list[Expected]) -> None:
    """After an error no task of LangGraph that had finished runs again."""
    if (
        case.saver is None
        or case.durability == "exit"
        or case.chunk_size is None
        or case.resume
        or case.fault is not None
    ):
        return
    if case.hedge is not None and case.mode in ("invoke", "stream"):
        return  # in threads, a second call may begin while the first is on its way out of the target
    tasks: list[list[int]] = []
    for row in expected:
        called = list(row.calls)
        tasks += [called[lo : lo + case.chunk_size] for lo in range(0, len(called), case.chunk_size)]
    for finished, since in zip(world.at_error, world.called_since, strict=True):
        again = [item for task in tasks if finished.issuperset(task) for item in task if since[item]]
        assert not again, f"items {again} had finished when another one failed, and ran again"


# Entries.


def _shape(entry: Any) -> Any:
    if not is_item_error(entry):
        return entry
    return Failed(entry["index"], entry["type"].rpartition(".")[2], entry["attempts"])


def _judge_entries(case: Case, got: list[Any], row: Expected) -> None:
    if case.resume:
        return _judge_entries_of_another_edge(case, got, row)
    # A run that came to its end had no failure, or has been resumed until there was none.
    if case.on_error == "raise":
        row = replace(row, places=row.values)
    if not _is_whole(case, row):
        return _judge_part(case, got, row)
    expected = row.entries(case.on_error)
    if not case.preserve_order:
        got, expected = sorted(got, key=repr), sorted(expected, key=repr)
    assert got == expected, f"got {got}, expected {expected}"
    return None


def _judge_part(case: Case, got: list[Any], row: Expected) -> None:
    """Nothing is wrong, and as much is there as must be."""
    values = Counter(entry for entry in got if not isinstance(entry, Failed))
    right = Counter(place for place in row.places if not isinstance(place, Failed))
    # an item that is not tried often enough any more has failed, and one that is not reached holds another
    # error
    assert values <= right, f"{values - right} are in the result, and ought not to be"
    if case.stop_after is not None:
        least = min(case.stop_after, right.total())
        assert values.total() >= least, f"{values.total()} entries, and stop_when wants {least}"
    elif case.on_error == "collect":
        assert len(got) == len(row.places), f"{len(got)} entries of {len(row.places)}"
        if case.preserve_order:
            for index, (entry, place) in enumerate(zip(got, row.places, strict=True)):
                assert entry.index == index if isinstance(entry, Failed) else entry == place, (
                    f"{entry} at place {index}"
                )
    if case.preserve_order and case.on_error != "collect":
        rest = iter(row.places)
        assert all(entry in rest for entry in got), f"{got} is not in the order of {row.places}"
    for entry in got:
        if isinstance(entry, Failed):
            assert entry.kind in ("Flaky", "BudgetExceeded", "TimeoutError"), entry


def _judge_entries_of_another_edge(case: Case, got: list[Any], row: Expected) -> None:
    """Each entry is what one of the two edges gives; none is missing."""
    assert len(got) == len(row.places), f"{len(got)} entries of {len(row.places)}, without a word"
    known = [item for items in case.batches for item in items] if case.cache else row.items
    for index, entry in enumerate(got):
        item = row.items[index]
        same = {
            other
            for other in known
            if any(each.key(other) == each.key(item) for each in (case, case.resumed))
        }
        if isinstance(entry, Failed):
            assert entry.index == index, f"{entry} at place {index}"
            assert not same.isdisjoint(dict(case.fails)), f"{entry} has never failed"
        else:
            assert entry in {case.value(other) for other in same}, f"{entry} at place {index}"
