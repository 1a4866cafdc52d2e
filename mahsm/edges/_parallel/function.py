"""`parallel`: run several targets on one state, and merge their updates."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, get_args

from mahsm._common import State, check, shown
from mahsm._waiting import sides
from mahsm.edges._parallel.branch import Branches, branch_specs
from mahsm.edges._parallel.lowering import ParallelLowering
from mahsm.edges._parallel.spec import OnBranchError, ParallelSpec
from mahsm.edges._parallel.waves import Scheduler, plan
from mahsm.edges._shared.constructor import constructor
from mahsm.edges._shared.edge import Edge, StateReducer
from mahsm.edges._shared.ends import Ends
from mahsm.edges._shared.failures import Failures
from mahsm.errors import EdgeError


@constructor(
    retry="It belongs to a branch: Branch(target, name='draft', retry=Retry(...)).",
    rate_limit="It belongs to a branch: Branch(target, name='draft', rate_limit=RateLimit(...)).",
    budget="A budget goes around the run: with budget(...).",
)
def parallel(
    branches: Branches,
    *,
    # what runs, and what comes out
    merge: Callable[[State, dict[str, State]], Any] | None = None,
    name: str | None = None,
    # in which order, and how many at a time
    scheduler: Scheduler = "parallel",
    wave_size: int | None = None,
    eager: bool = False,
    max_concurrency: int | None = None,
    # when the run is over
    timeout: float | None = None,
    # what becomes of failures
    on_error: OnBranchError = "raise",
    errors_key: str | None = None,
) -> Edge:
    """Run several targets on one state, and merge their updates into one.

    Each branch is a node of the subgraph, so LangGraph saves it when it ends: after a crash, an error or an
    interrupt it is not run again.

    Updates to different keys are merged. A key that the parent's state reduces gets each branch's value, in
    the order of the branches, if the edge is wired with `connect`. If two branches write any other key, the
    one that depends on the other wins; if neither does, that is an error, unless `merge` resolves it.

    Args:
        branches: Targets and `Branch`es: a list, or `{name: target}`. A target is anything that `vmap` takes.
        merge: A function `(state, updates)` that returns the edge's update, from the parent's state and the
            branches' updates by name; sync or async.
        name: Node name; by default `parallel_` and the branches' names.
        scheduler: `"parallel"` runs all branches at the same time, on the same state. `"sequential"` runs one
            after the other; each sees the updates of those before it. `"wave"` runs a branch in the first
            wave after the branches that it depends on (see `Branch`); each wave sees the updates of the
            earlier ones.
        wave_size: The most branches in a wave, >= 1.
        eager: With `"wave"`: begin a branch when its own dependencies are done, without waiting for its wave.
            It then sees their updates only.
        max_concurrency: Branches at a time, >= 1, including items and branches of edges inside; by default
            all.
        timeout: Seconds for the whole edge, > 0. After that, branches that run or have not begun fail with a
            `TimeoutError`.
        on_error: `"raise"` cancels the rest and raises the first error as it is; `"isolate"` keeps the
            updates of the other branches, and skips those that depend on a branch that failed.
        errors_key: State key that gets the `ItemError`s of branches that failed or were skipped.

    Returns:
        An edge that writes the keys that its branches write.

    Raises:
        EdgeError: immediately, for invalid arguments, such as unknown names or branches that wait for each
            other; when run, if two branches wrote one key.
        NodeError: immediately, for a target that cannot be called with a state; when run, for a result that
            is not an update.
        MissingKeyError: when run, if a branch reads a key that is missing and that no branch writes.

    Example:
        >>> from mahsm import parallel
        >>> edge = parallel({
        ...     "words": lambda state: {"words": len(state["text"].split())},
        ...     "letters": lambda state: {"letters": len(state["text"])},
        ... })
        >>> edge.invoke({"text": "a token bucket"})
        {'words': 3, 'letters': 14}
    """
    edge = "parallel" if name is None else f"parallel {name!r}"
    check.choice(edge, "scheduler", scheduler, get_args(Scheduler))
    check.flag(edge, "eager", eager)
    check.function(
        edge, "merge", merge, "a function (state, updates) that returns one update, with updates by branch"
    )
    check.seconds(edge, "timeout", timeout)
    for argument, value, hint in (
        ("max_concurrency", max_concurrency, "Leave it out to run all at the same time."),
        ("wave_size", wave_size, "Leave it out for waves of any size."),
    ):
        if value is not None:
            check.whole(edge, argument, value, hint)
    if name is not None:
        check.name(edge, name)
    _check_waves(edge, scheduler, wave_size, eager)
    ends, failures = Ends(deadline=timeout), Failures(on_error, errors_key)
    failures.check(edge, get_args(OnBranchError))
    specs = branch_specs(edge, branches, ends)
    if merge is not None:
        _check_merge(edge, merge)
    joined = "_".join(spec.name for spec in specs)
    spec = ParallelSpec(
        name=name or f"parallel_{joined if len(joined) <= 40 else len(specs)}",
        branches=specs,
        scheduler=scheduler,
        plan=plan(edge, specs, scheduler, wave_size, eager=eager),
        merge=merge,
        max_concurrency=max_concurrency,
        ends=ends,
        failures=failures,
        reducers={},
    )
    return edge_of_branches(spec)


def edge_of_branches(
    spec: ParallelSpec, lower: Callable[[ParallelSpec], ParallelLowering] = ParallelLowering
) -> Edge:
    """Return the edge of a checked specification."""
    written = {key for branch in spec.branches for key in branch.writes}
    reads = {key for branch in spec.branches for key in branch.needs} - written
    writes = (
        {key for branch in spec.branches for key in branch.promises} if spec.merge is None else set[str]()
    )
    if spec.failures.errors_key is not None:
        writes.add(spec.failures.errors_key)
    lowered = lower(spec)

    def within(reducers: Mapping[str, StateReducer]) -> Edge:
        _check_several(spec, reducers)
        return edge_of_branches(replace(spec, reducers=reducers), lower)

    return Edge(
        *sides(lowered.run),
        name=spec.name,
        graph=lowered.graph,
        reads=sorted(reads),
        writes=sorted({*writes, *lowered.writes}),
        children={
            **{branch.name: branch.target.source for branch in spec.branches},
            **({"merge": spec.merge} if hasattr(spec.merge, "as_node") else {}),  # an operator
            **lowered.children,
        },
        within=within,
    )


def _check_several(spec: ParallelSpec, reducers: Mapping[str, StateReducer]) -> None:
    for branch in spec.branches:
        edge = branch.target.source
        reduced = (
            sorted(edge.writes & reducers.keys()) if isinstance(edge, Edge) and edge.has_several_keys else []
        )
        if reduced:
            raise EdgeError(
                f"{spec.name}: the branch {branch.name!r} is an edge with several keys, which returns a list "
                f"for each, but the state's reducer of {reduced[0]!r} would take a list as one value. Make "
                "the edge a node of the graph, beside this one."
            )


def _check_waves(edge: str, scheduler: str, wave_size: int | None, eager: bool) -> None:
    if wave_size is not None and scheduler != "wave":
        raise EdgeError(
            f"{edge}: wave_size={wave_size}, but scheduler={scheduler!r} has no waves. Pass scheduler='wave'."
        )
    if eager and scheduler != "wave":
        raise EdgeError(
            f"{edge}: eager=True, but scheduler={scheduler!r} has no waves to run ahead of. Pass "
            "scheduler='wave'."
        )
    if eager and wave_size is not None:
        raise EdgeError(
            f"{edge}: wave_size={wave_size} has no effect with eager=True, where branches do not wait for a "
            "wave. Pass max_concurrency instead."
        )


def _check_merge(edge: str, merge: Callable[..., Any]) -> None:
    try:
        inspect.signature(merge).bind({}, {})
    except (TypeError, ValueError) as error:
        raise EdgeError(
            f"{edge}: merge={shown(merge)} cannot be called with (state, updates): {error}."
        ) from None
