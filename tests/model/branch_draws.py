"""How examples of branches are drawn."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from tests.model.branches import BranchCase
from tests.model.case import ALWAYS, ASYNC_MODES, MODES, Fault
from tests.model.draws import seldom
from tests.model.world import BASES


@st.composite
def branch_cases(draw: Any) -> BranchCase:
    """Any case."""
    size = draw(st.integers(1, 7))
    numbers = st.integers(0, size - 1)
    scheduler = draw(st.sampled_from(["parallel", "sequential", "wave", "wave", "wave"]))
    after: list[tuple[int, ...]] = [()]
    for branch in range(1, size):
        needs = draw(st.sets(st.integers(0, branch - 1), max_size=2)) if scheduler == "wave" else ()
        after.append(tuple(sorted(needs)))
    eager = scheduler == "wave" and draw(st.booleans())
    case = BranchCase(
        after=tuple(after),
        order=tuple(draw(st.permutations(range(size)))),
        mode=draw(st.sampled_from(MODES)),
        nesting=draw(st.sampled_from(["flat", "flat", "subgraph"])),
        rows=draw(seldom(1, 3)),
        blocks=tuple(sorted(draw(st.sets(numbers)))),
        edges=tuple(sorted(draw(st.sets(numbers, max_size=2)))),
        scheduler=scheduler,
        eager=eager,
        wave_size=draw(seldom(1, 2)) if scheduler == "wave" and not eager else None,
        max_concurrency=draw(seldom(1, 2, nones=2)),
        config_bound=draw(seldom(1, 2)),
        attempts=draw(seldom(1, 2, 3)),
        on_error=draw(st.sampled_from(["raise", "isolate"])),
        answers_all=draw(st.booleans()),
        merged=draw(st.sampled_from([False, False, True])),
        saver=draw(st.sampled_from([None, "memory", "memory", "sqlite"])),
    )
    if case.saver is not None:
        case = replace(case, durability=draw(st.sampled_from(["async", "async", "sync", "exit"])))
        case = replace(case, slow=draw(st.sampled_from([0.0, 0.0, 0.002])))
    return _with_trouble(draw, case, numbers)


def _with_trouble(draw: Any, case: BranchCase, numbers: st.SearchStrategy[int]) -> BranchCase:
    special = draw(st.sampled_from(["fails", "fails", "asks", "asks", "fault", "fault"]))
    if special == "fails":
        ends = case.on_error == "raise" and case.saver is not None
        often = st.integers(1, 2) if ends else st.sampled_from([1, 2, ALWAYS])
        return replace(
            case, fails=tuple((branch, draw(often)) for branch in sorted(draw(st.sets(numbers, max_size=2))))
        )
    if special == "asks" and case.saver is not None:
        asks = draw(st.sets(numbers, min_size=1, max_size=3)) - set(case.edges)
        return replace(case, asks=tuple(sorted(asks)))
    kinds = ["base", *(["stop"] if case.saver else []), *(["cancel"] if case.mode in ASYNC_MODES else [])]
    kind = draw(st.sampled_from(kinds))
    at = draw(numbers) if kind == "base" else draw(st.integers(1, 2 * case.size))
    return replace(
        case,
        fault=Fault(
            kind, at, draw(st.sampled_from(list(BASES))) if kind == "base" else "", draw(st.booleans())
        ),
    )
