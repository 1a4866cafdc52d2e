"""`vmap`: call a target for every item of a list in the state."""

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast, get_args

from langgraph.cache.base import BaseCache
from langgraph.types import RetryPolicy

from mahsm._common import Overlay, State, check, shown
from mahsm._waiting import sides
from mahsm.edges._jit import JitEdge
from mahsm.edges._reduce import Reducer, StopWhen
from mahsm.edges._shared.edge import Edge, StateReducer
from mahsm.edges._vmap.lowering import VmapLowering
from mahsm.edges._vmap.numeric import jit_vmap
from mahsm.edges._vmap.spec import OnError, VmapSpec
from mahsm.errors import EdgeError, LimitError, NodeError
from mahsm.limits import RateLimit
from mahsm.limits._internal import resolved
from mahsm.nodes._internal import Target, as_target, node_name, single_try
from mahsm.policies import Budget, Hedge, Retry


@check.arguments()
def vmap(
    target: object,
    *,
    batch_key: str | None = None,
    batch: Callable[[State], Any] | None = None,
    sample: int | None = None,
    out_key: str | Sequence[str],
    item_to_state: Callable[[Any], Overlay] | None = None,
    inherit: bool | Sequence[str] | None = None,
    max_concurrency: int = 8,
    preserve_order: bool = True,
    timeout: float | None = None,
    retry: Retry | RetryPolicy | None = None,
    rate_limit: RateLimit | Mapping[str, Any] | str | None = None,
    adaptive: bool | tuple[int, int] = False,
    hedge: Hedge | None = None,
    budget: Budget | None = None,
    deadline: float | None = None,
    on_error: OnError = "raise",
    errors_key: str | None = None,
    min_success: int | float | None = None,
    stop_when: StopWhen | None = None,
    dedupe_key: Callable[[Any], Hashable] | None = None,
    cache: BaseCache[Any] | None = None,
    result: str | Callable[[Any], Any] | None = None,
    chunk_size: int | None = None,
    batch_size: int | None = None,
    progress: bool | Literal["items"] = False,
    name: str | None = None,
) -> Edge:
    """Call a target for every item of a list in the state, at most `max_concurrency` at a time; or several
    times for one state.

    Each item gets the parent's state with `item_to_state(item)` laid over it, as a dict, or as the dataclass
    or pydantic model that the target's first parameter is annotated with; a function that is annotated with
    something that is no state, such as `str` or a message, gets the item itself. A graph gets what
    `item_to_state` gives and nothing else, as by a `Send`. An empty batch gives `[]`.

    With a checkpointer, finished items are not run again after a crash, an error or an interrupt.

    A `jit_edge` as the target is computed once for all items, by `jax.vmap`, and not called for each.

    Args:
        target: What to call: a function of the state (sync or async; it may take LangGraph's `config`,
            `runtime`, `store` and `writer`), a DSPy module, a Runnable, a compiled graph or another edge.
        batch_key: State key of the items: a list, tuple, array, generator or dict view.
        batch: In place of a key, a function of the state, as a dict, that gives the items. They are never
            stored in the state. On resume it is called again, and must give the same items.
        sample: Call the target so many times, >= 1, on the same state, in place of a batch; the items are the
            numbers from 0. Each call draws an answer of its own from DSPy's models: it has a rollout id, so
            that the cache does not give one answer to all, and a temperature of 1.0 where there is none or 0.
            Drawn again, the samples come from the cache.
        out_key: State key that gets one entry per item. Or several keys, of which an item may give any or
            none: each value goes through the parent's reducer, as by a `Send`, and a key without one gets the
            list of values. Wire such an edge by `connect`, which knows the reducers; added by `add_node` it
            writes each value by itself. Alone it gives lists.
        item_to_state: From an item to the keys laid over the parent's state; by default `{"item": item}`, and
            for a `dspy.Example` its input fields too.
        inherit: What of the parent's state the target sees besides: all (True), nothing (False), or these
            keys. By default nothing if the target is a compiled graph, and else all.
        max_concurrency: Items at once, >= 1, those of edges inside included. LangGraph's own
            `max_concurrency` in the config, or under its `configurable`, is an upper bound that all edges of
            a graph run share.
        preserve_order: Entries in the order of the input; else in the order in which the items finished.
        timeout: Seconds that one item may take, > 0. An async target is cancelled then; a blocking one is
            reported, and its thread runs on, since a thread cannot be stopped.
        retry: Try failed items again: a `Retry`, or LangGraph's `RetryPolicy`. `timeout` then holds for each
            attempt.
        rate_limit: What the provider allows: a `RateLimit`, its arguments as a dict, or the name of a
            provider that has one. Every attempt takes a request and its tokens; it holds no slot while it
            waits for them.
        adaptive: Find out by 429s how many items at once the provider takes: True, or the fewest and the
            most. There are never more than `max_concurrency`. Needs `retry`, since some items meet a 429.
        hedge: Start an item that takes unusually long once more, and take the first answer.
        budget: What each run of the edge may spend; when it is spent, nothing new begins, and open items hold
            a `BudgetExceeded`.
        deadline: Seconds from the beginning of the run, > 0, after which nothing new begins and what runs is
            over, with a `TimeoutError`.
        on_error: `"raise"` stops the rest and raises the first error as it is; `"collect"` leaves an
            `ItemError` in the failed item's place; `"drop"` leaves it out.
        errors_key: State key that gets the `ItemError`s, in input order.
        min_success: How many items must succeed: a count >= 1, or a share in (0, 1].
        stop_when: Stop as soon as this is decided: `majority_vote`, `first`, a `Reducer` of yours, or a
            function of the list of entries so far. What still runs is cancelled, and only what has ended is
            in `out_key`.
        dedupe_key: From an item to what it is the same as: items with equal keys run once.
        cache: A LangGraph cache. An item whose key is in it is not called; the key is `dedupe_key`, or else
            what `item_to_state` gives.
        result: What of the target's update becomes the entry: one of its keys, or a function of it; by
            default all.
        chunk_size: Results that are saved together, >= 1. By default a batch is saved in at most 128 parts.
            After a kill, at most `max_concurrency + 2 * chunk_size` finished items run again. With 1, each
            item is a task of LangGraph, as it is by default in small batches, and if the target holds a
            graph; `interrupt()` in an item needs that.
        batch_size: Of a `jit_edge`: items that are computed at once, >= 1. By default all, which all have to
            fit in memory; with it, at most about twice this many do besides the items and results themselves.
        progress: Show a bar on stderr; or `"items"`, for a stream event (`stream_mode="custom"`) when an item
            has finished, with its index, and its value or error.
        name: Node name; by default `vmap_` and the target's name, or `out_key` if the target is a graph
            without a name. Such a graph takes the edge's name, in drawings, spans and `usage().by_node`.

    Returns:
        An edge that reads `batch_key` and writes `out_key` (and `errors_key`).

    Raises:
        EdgeError: at once, for arguments that cannot work.
        NodeError: at once, for a target that cannot be called with a state.
        StateError: when run, for a batch that is missing or is none.
        LimitError: at once or when run, for a rate limit that cannot be kept or contradicts another one.
        BudgetExceeded: when run with `on_error="raise"`, if the budget is spent before all items are begun.
        TooFewSucceeded: when run, as soon as `min_success` cannot be reached.

    Example:
        >>> from mahsm import vmap
        >>> async def shout(state):
        ...     return {"loud": state["word"].upper()}
        >>> as_state = lambda word: {"word": word}
        >>> edge = vmap(shout, batch_key="words", out_key="out", item_to_state=as_state, result="loud")
        >>> edge.invoke({"words": ["a", "b"]})
        {'out': ['A', 'B']}
    """
    edge = f"vmap({out_key!r})" if name is None else f"vmap {name!r}"
    out_keys = check.keys(edge, "out_key", out_key)
    _check_batch(edge, batch_key, batch, sample, dedupe_key, cache)
    check.whole(
        edge,
        "max_concurrency",
        max_concurrency,
        "1 runs one item at a time; there is no value for 'unbounded'.",
    )
    check.flag(edge, "preserve_order", preserve_order)
    check.flag(edge, "progress", progress == "items" or progress)
    check.choice(edge, "on_error", on_error, get_args(OnError))
    check.function(edge, "item_to_state", item_to_state, "a function from an item to a dict of state keys")
    check.function(edge, "dedupe_key", dedupe_key, "a function from an item to what it is the same as")
    _check_decisions(edge, stop_when, result)
    check.seconds(edge, "timeout", timeout)
    check.seconds(edge, "deadline", deadline)
    if chunk_size is not None:
        check.whole(edge, "chunk_size", chunk_size, "Leave it out to let the edge choose.")
    if batch_size is not None:
        _check_batch_size(edge, batch_size, target)
    if name is not None:
        check.name(edge, name)
    check.of_type(edge, "hedge", hedge, Hedge, "Hedge(percentile=0.95)")
    check.of_type(edge, "budget", budget, Budget, "Budget(usd=1.0)")
    check.of_type(edge, "cache", cache, BaseCache, "a LangGraph cache, as InMemoryCache()")
    _check_failures(edge, out_keys, on_error, errors_key, min_success)
    _check_several(edge, out_key, on_error, result)
    limit = None if rate_limit is None else resolved(RateLimit.of(rate_limit))
    if retry is None and isinstance(limit, RateLimit):
        retry = limit.retry_policy
    made = as_target(
        target if retry is None else single_try(target), reader=edge, of_items=item_to_state is None
    )
    if isinstance(limit, RateLimit):
        _check_limit(edge, limit, made)
    _check_item(edge, made, item_to_state, sample)
    if made.graph is not None and chunk_size not in (None, 1):
        raise EdgeError(
            f"{edge}: chunk_size={chunk_size!r}, but the target {made.name!r} holds a graph, whose "
            "checkpoints belong to one task each. Leave chunk_size out."
        )
    name = name or f"vmap_{node_name('_'.join(out_keys)) if made.is_unnamed else made.name}"
    made = made.named(name)
    spec = VmapSpec(
        name=name,
        target=made,
        batch_key=batch_key,
        batch=batch,
        sample=sample,
        out_key=out_key if isinstance(out_key, str) else out_keys,
        item_to_state=item_to_state,
        inherit=check.inherit(edge, inherit, default=not made.is_graph),
        max_concurrency=max_concurrency,
        preserve_order=preserve_order,
        timeout=timeout,
        retry=None if retry is None else Retry.of(retry),
        rate_limit=limit,
        adaptive=_adaptive_range(edge, adaptive, max_concurrency, retry is not None),
        hedge=hedge,
        budget=budget,
        deadline=deadline,
        stop_when=stop_when,
        dedupe_key=dedupe_key,
        cache=cache,
        on_error=on_error,
        errors_key=errors_key,
        min_success=min_success,
        result=result,
        chunk_size=chunk_size,
        progress=progress,
    )
    if isinstance(target, JitEdge):
        return jit_vmap(edge, spec, target, batch_size)
    return _edge(spec)


def _edge(spec: VmapSpec) -> Edge:
    def within(reducers: Mapping[str, StateReducer]) -> Edge:
        return _edge(replace(spec, reducers=reducers))

    lowered, inherited = VmapLowering(spec), () if isinstance(spec.inherit, bool) else spec.inherit
    return Edge(
        *sides(lowered.run),
        name=spec.name,
        graph=lowered.graph,
        reads=[*([spec.batch_key] if spec.batch_key else []), *inherited],
        writes=[*spec.out_keys, *([spec.errors_key] if spec.errors_key else [])],
        children={spec.target.name: spec.target.source},
        within=None if isinstance(spec.out_key, str) else within,
        items=lowered,
    )


def _check_batch(
    edge: str, batch_key: str | None, batch: object, sample: int | None, dedupe_key: object, cache: object
) -> None:
    if sum(value is not None for value in (batch_key, batch, sample)) != 1:
        raise EdgeError(
            f"{edge}: batch_key={batch_key!r}, batch={shown(batch)} and sample={sample!r}; expected one of "
            "them: the state key of the items, a function that gives them, or how often to call the target "
            "on one state."
        )
    if batch_key is not None:
        check.key(edge, "batch_key", batch_key)
        return
    if batch is not None:
        check.function(edge, "batch", batch, "a function from the state to a list of items")
        if inspect.iscoroutinefunction(batch):
            raise EdgeError(
                f"{edge}: batch={shown(batch)} is async; expected a plain function. Let a node before find "
                "the items."
            )
        return
    check.whole(edge, "sample", sample, "It is how many answers are drawn.")
    for argument, value in {"dedupe_key": dedupe_key, "cache": cache}.items():
        if value is not None:
            raise EdgeError(
                f"{edge}: {argument}= with sample={sample}, whose items are equal on purpose. Leave it out."
            )


def _check_batch_size(edge: str, batch_size: object, target: object) -> None:
    check.whole(edge, "batch_size", batch_size, "Leave it out to compute all items at once.")
    if not isinstance(target, JitEdge):
        raise EdgeError(
            f"{edge}: batch_size={batch_size!r} is of a jit_edge, whose items are computed together; "
            f"{shown(target)} is called for each item. Pass max_concurrency= for how many at once."
        )


def _check_several(edge: str, out_key: object, on_error: str, result: object) -> None:
    if isinstance(out_key, str):
        return
    if on_error == "collect":
        raise EdgeError(
            f"{edge}: on_error='collect' leaves an ItemError in the place of an item, and of several keys "
            "none is its place. Pass on_error='drop' with errors_key=, or one out_key."
        )
    if isinstance(result, str):
        raise EdgeError(
            f"{edge}: result={result!r} is one key, and out_key names several; expected a function that "
            "gives a dict of these, or nothing."
        )


def _check_decisions(edge: str, stop_when: object, result: object) -> None:
    if not isinstance(stop_when, Reducer):
        check.function(
            edge, "stop_when", stop_when, "majority_vote, or a function of the list of entries so far"
        )
    if not isinstance(result, str):
        check.function(edge, "result", result, "a key of the target's update, or a function of the update")


def _check_item(edge: str, target: Target, item_to_state: object, sample: int | None) -> None:
    if sample is not None and target.item not in (None, "int"):
        raise NodeError(
            f"{edge}: the target {target.name} takes one {target.item}, an item, but the items of "
            f"sample={sample} are numbers, and each call is for the same state. Let the target take the "
            "state."
        )
    if target.item is not None and item_to_state is not None:
        raise NodeError(
            f"{edge}: the target {target.name} takes one {target.item}, an item, but item_to_state= makes a "
            "state of each item. Leave item_to_state out, or let the target take the state."
        )


def _check_limit(edge: str, limit: RateLimit, target: Target) -> None:
    if limit.tpm is not None and limit.tokens is None and not target.reports:
        raise LimitError(
            f"{edge}: tpm={limit.tpm:g}, but {target.name} is a plain function, whose calls take nobody "
            "knows how many tokens. Pass RateLimit(..., tokens=1_000), or tokens= as a function of the "
            "item's state."
        )


def _adaptive_range(edge: str, adaptive: object, most: int, retries: bool) -> tuple[int, int] | None:
    if adaptive is False:
        return None
    least, upper = (1, most) if adaptive is True else _pair(adaptive)
    if not 1 <= least <= upper <= most:
        raise EdgeError(
            f"{edge}: adaptive={shown(adaptive)}; expected True, or the fewest and the most items at once, "
            f"with 1 <= fewest <= most <= max_concurrency={most}."
        )
    if not retries:
        raise EdgeError(
            f"{edge}: adaptive={shown(adaptive)} finds its bound by 429s, and those items would be lost. "
            "Pass retry=."
        )
    return least, upper


def _pair(value: Any) -> tuple[int, int]:
    works = isinstance(value, tuple) and [type(part) for part in cast("tuple[Any, ...]", value)] == [int, int]
    return cast("tuple[int, int]", value) if works else (0, 0)


def _check_failures(
    edge: str, out_keys: Sequence[str], on_error: str, errors_key: object, min_success: object
) -> None:
    if errors_key is not None:
        check.key(edge, "errors_key", errors_key)
        if errors_key in out_keys:
            raise EdgeError(f"{edge}: errors_key and out_key are both {errors_key!r}; expected two keys.")
    if min_success is not None:
        share = isinstance(min_success, float) and 0 < min_success <= 1
        count = isinstance(min_success, int) and not isinstance(min_success, bool) and min_success >= 1
        if not share and not count:
            raise EdgeError(
                f"{edge}: min_success={shown(min_success)}; expected a count >= 1, or a share in (0, 1] as a "
                "float."
            )
    for argument, value in {"errors_key": errors_key, "min_success": min_success}.items():
        if value is not None and on_error == "raise":
            raise EdgeError(
                f"{edge}: {argument}={value!r} has no effect with on_error='raise', where the first error "
                "ends the run. Pass on_error='collect' or 'drop'."
            )
