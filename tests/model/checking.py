"""One example from beginning to end."""

import itertools
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from langgraph.cache.memory import InMemoryCache

from mahsm import limits
from tests.model.branch_judging import judge_branches
from tests.model.branch_world import BranchWorld, branch_graph, branch_input
from tests.model.branches import BranchCase
from tests.model.building import Means, edge_of, graph_of, input_of
from tests.model.case import Case
from tests.model.judging import judge
from tests.model.leftovers import check_clean, check_full_speed, handles, warm_up
from tests.model.plain import plain
from tests.model.running import Ended, play
from tests.model.world import World
from tests.watchdog import ended

_numbers = itertools.count()


def check(case: Case) -> None:
    """Run a case under the watchdog, and compare it with the plain loop."""
    ended(lambda: _check(case), repr(case))


def _check(case: Case) -> None:
    warm_up()
    before = handles()
    means = Means(f"model{next(_numbers)}", InMemoryCache() if case.cache else None)
    try:
        with tempfile.TemporaryDirectory() as directory:
            world = World(case)

            def build(now: Case, saver: Any) -> Any:
                return graph_of(now, world, means, saver)

            runs = play(case, world, build, input_of(case), Path(directory))
            judge(case, world, runs)
            _check_tokens(case, world, means.provider, runs)
        _check_cached(case, world, means, runs)
        parties = min(8, case.max_concurrency)
        limit = means.provider if case.rate is not None else None
        check_full_speed(parties, is_async=case.is_async, blocks=case.blocks, rate_limit=limit)
        check_clean(means.provider, before)
    finally:
        limits.forget(means.provider)


def _check_tokens(case: Case, world: World, provider: str, runs: list[Ended]) -> None:
    """What the bucket let through and did not get back are the calls that were made.

    Where calls are broken off, one that was let through may be cancelled in the moment before the target sees
    it.
    """
    found = limits.stats().get(provider)
    if found is None:
        return
    calls = world.calls.total()
    assert found.admitted >= calls, f"{found.admitted} admitted, {calls} calls"
    breaks_off = case.hedge is not None or case.stop_after is not None or case.hangs is not None
    if not breaks_off and all(ended.error is None for ended in runs):
        assert found.admitted == calls, f"{found.admitted} admitted, {calls} calls"


def _check_cached(case: Case, world: World, means: Means, runs: list[Ended]) -> None:
    """A further run calls nothing that has succeeded."""
    if (
        means.cache is None
        or case.resume
        or runs[-1].error is not None
        or not case.size
        or case.saver is not None
    ):
        return
    if case.nesting not in ("alone", "flat", "subgraph"):
        return
    before, finished = Counter(world.calls), set(world.finished)
    world.gone = False
    edge_of(case, world, means).invoke(input_of(case))
    failed = {items[index] for items in case.batches for index, *_ in plain(case, items).failures}
    again = {
        item
        for item, calls in (world.calls - before).items()
        if item in finished and item not in failed and calls
    }
    assert not again, f"items {again} were called, though the cache has them"


def check_branches(case: BranchCase) -> None:
    """The same for a case of branches."""
    ended(lambda: _check_branches(case), repr(case))


def _check_branches(case: BranchCase) -> None:
    warm_up()
    before = handles()
    with tempfile.TemporaryDirectory() as directory:
        world = BranchWorld(case)
        runs = play(
            case, world, lambda _, saver: branch_graph(world, saver), branch_input(case), Path(directory)
        )
        judge_branches(case, world, runs)
    check_full_speed(min(8, case.size), is_async=case.is_async, blocks=bool(case.blocks), rate_limit=None)
    check_clean("", before)
