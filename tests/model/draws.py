"""How examples are drawn: everything that `vmap` takes, as far as a plain loop can say what comes of it."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from tests.model.case import ALWAYS, ASYNC_MODES, MODES, NESTINGS, OVER_ROWS, Case, Fault
from tests.model.world import BASES


def seldom(*values: Any, nones: int = 4) -> st.SearchStrategy[Any]:
    """One of the values now and then, and else None."""
    return st.sampled_from([None] * nones + list(values))


sizes = st.integers(0, 12) | st.integers(0, 60) | st.sampled_from([0, 1, 2, 128, 129, 257, 300])
bounds = st.sampled_from([1, 1, 2, 2, 3, 4, 8, 8, 16, 64])

around = {
    "size": sizes,
    "rows": st.integers(1, 5),
    "mode": st.sampled_from(MODES),
    "nesting": st.sampled_from(["flat", *NESTINGS]),
    "blocks": st.booleans(),
    "work": st.sampled_from([0.0, 0.0, 0.0005]),
    "max_concurrency": bounds,
    "outer_concurrency": bounds,
    "config_bound": seldom(1, 2, 3, 8),
    "chunk_size": st.sampled_from([None, None, 1, 1, 2, 7, 16]),
    "preserve_order": st.booleans() | st.just(True),
}

policies = {
    "on_error": st.sampled_from(["raise", "raise", "collect", "drop"]),
    "attempts": seldom(1, 2, 3, 4, nones=3),
    "timeout": seldom(30.0),
    "deadline": seldom(60.0),
    "rate": seldom((100_000.0, 1000), (2000.0, 5)),
    "hedge": seldom(1, 20, 10_000, nones=8),
    "dedupe": seldom(1, 2, 7, 50, nones=6),
    "cache": st.sampled_from([False, False, False, True]),
}


@st.composite
def cases(draw: Any, mode: str | None = None) -> Case:
    """Any case; of one mode, if it is said."""
    case = Case(**{name: draw(strategy) for name, strategy in (around | policies).items()})
    case = case if mode is None else replace(case, mode=mode)
    if case.cache and case.nesting in OVER_ROWS:
        case = replace(case, dedupe=None)  # the cache is shared by rows, and so would be what is equal
    if case.nesting != "alone":
        case = replace(case, saver=draw(st.sampled_from([None, "memory", "memory", "sqlite"])))
    if case.saver:
        case = replace(case, durability=draw(st.sampled_from(["async", "async", "sync", "exit"])))
        case = replace(case, slow=draw(st.sampled_from([0.0, 0.0, 0.001, 0.003])) if case.size <= 60 else 0.0)
    special = draw(
        st.sampled_from(["fails", "fails", "fault", "fault", "resume", "ends", "ends", "sample", "hangs"])
    )
    case = {
        "fails": _failing,
        "fault": _faulty,
        "resume": _with_other_settings,
        "ends": _ending,
        "sample": _sampled,
        "hangs": _hanging,
    }[special](draw, case)
    if case.attempts is not None:
        case = replace(case, adaptive=draw(st.booleans()))
    if case.on_error != "raise":
        case = replace(case, errors_key=draw(st.booleans()))
    return case


def _some_items(draw: Any, case: Case, most: int = 4) -> list[int]:
    return (
        draw(st.lists(st.integers(0, max(0, case.size - 1)), max_size=most, unique=True)) if case.size else []
    )


def _failing(draw: Any, case: Case) -> Case:
    """Some items fail, a few times or always; the loop knows which ones in the end."""
    ends = case.on_error == "raise" and case.saver
    if ends:
        often = st.integers(1, 3)
    elif case.hedge is not None:  # a second call may succeed where the first has failed
        often = st.just(ALWAYS)
    else:
        often = st.sampled_from([1, 2, 3, ALWAYS])
    case = replace(case, fails=tuple((item, draw(often)) for item in _some_items(draw, case)))
    if case.on_error != "raise" and case.nesting not in OVER_ROWS:
        case = replace(case, min_success=draw(seldom(1, 0.5, 0.9, 1.0)))
    return case


def _faulty(draw: Any, case: Case) -> Case:
    """The run is cut short, and resumed if something is saved."""
    kinds = ["base", *(["stop"] if case.saver else []), *(["cancel"] if case.mode in ASYNC_MODES else [])]
    kind = draw(st.sampled_from(kinds))
    at = draw(st.integers(0 if kind == "base" else 1, max(1, case.size)))
    if kind == "stop":
        at = draw(st.integers(1, 12)) if draw(st.booleans()) else at
    fault = Fault(
        kind, at, draw(st.sampled_from(list(BASES))) if kind == "base" else "", once=draw(st.booleans())
    )
    fails = () if case.on_error == "raise" else tuple((item, ALWAYS) for item in _some_items(draw, case))
    return replace(case, fault=fault, fails=fails)


def _with_other_settings(draw: Any, case: Case) -> Case:
    """An error ends the run, and the next one is another edge."""
    if case.nesting == "alone":
        case = replace(case, nesting="flat")
    case = replace(case, on_error="raise", hedge=None, preserve_order=True, size=max(1, case.size))
    case = replace(
        case, saver=case.saver or "memory", fails=tuple((item, 1) for item in _some_items(draw, case) or [0])
    )
    changed = {
        "max_concurrency": bounds,
        "chunk_size": st.sampled_from([None, 1, 2, 7, 16]),
        "dedupe": st.sampled_from([None, 1, 2, 7]),
        "on_error": st.just("collect"),
        "outer_concurrency": bounds,
    }
    names = draw(st.lists(st.sampled_from(sorted(changed)), min_size=1, max_size=3, unique=True))
    return replace(case, resume=tuple((name, draw(changed[name])) for name in names))


def _ending(draw: Any, case: Case) -> Case:
    """A budget or a decision ends the run before all items are called."""
    often = st.just(ALWAYS)
    fails = (
        ()
        if case.on_error == "raise" and case.saver
        else tuple((item, draw(often)) for item in _some_items(draw, case))
    )
    if draw(st.booleans()):
        return replace(case, fails=fails, budget=draw(st.integers(1, case.size + 3)))
    return replace(case, fails=fails, stop_after=draw(st.integers(1, case.size + 3)))


def _sampled(draw: Any, case: Case) -> Case:
    nesting = case.nesting if case.nesting not in OVER_ROWS else "flat"
    case = replace(case, sample=True, size=max(1, case.size), nesting=nesting, dedupe=None, cache=False)
    return _failing(draw, case)


def _hanging(draw: Any, case: Case) -> Case:
    """An item never answers; what else there is waits for nothing while it is called, so no timeout can hit
    it."""
    case = replace(
        case,
        hangs=draw(st.integers(0, max(0, case.size - 1))),
        blocks=False,
        attempts=None,
        work=0.0,
        hedge=None,
    )
    return replace(case, timeout=0.2) if draw(st.booleans()) else replace(case, deadline=0.3)
