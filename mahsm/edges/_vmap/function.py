"""`vmap`: call a target for every item of a list in the state."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

from langgraph.cache.base import BaseCache
from langgraph.types import RetryPolicy

from mahsm._common import Overlay, State, check
from mahsm._waiting import sides
from mahsm.edges._jit import JitEdge
from mahsm.edges._shared.constructor import constructor
from mahsm.edges._shared.edge import Edge, StateReducer
from mahsm.edges._shared.ends import Ends
from mahsm.edges._shared.failures import Failures
from mahsm.edges._shared.reducer import StopWhen
from mahsm.edges._shared.tries import Tries
from mahsm.edges._vmap.batch import Batch
from mahsm.edges._vmap.concurrency import Concurrency
from mahsm.edges._vmap.executors import OtherProcesses, target_here
from mahsm.edges._vmap.lowering import VmapLowering
from mahsm.edges._vmap.numeric import jit_vmap
from mahsm.edges._vmap.spec import OnError, VmapSpec
from mahsm.edges._vmap.streamed import Sink
from mahsm.edges._vmap.warm import Warm
from mahsm.errors import EdgeError
from mahsm.limits import RateLimit
from mahsm.nodes._internal import as_target, node_name
from mahsm.policies import BatchAPI, Budget, Hedge, Retry


@constructor()
def vmap(
    target: object,
    *,
    # what is called, for what, and what comes out
    batch_key: str | None = None,
    batch: Callable[[State], Any] | None = None,
    sample: int | None = None,
    out_key: str | Sequence[str],
    item_to_state: Callable[[Any], Overlay] | None = None,
    inherit: bool | Sequence[str] | None = None,
    result: str | Callable[[Any], Any] | None = None,
    name: str | None = None,
    # how many at a time
    max_concurrency: int = 8,
    adaptive: bool | tuple[int, int] = False,
    preserve_order: bool = True,
    chunk_size: int | None = None,
    batch_size: int | None = None,
    executor: Any = None,
    # how each is tried
    retry: Retry | RetryPolicy | None = None,
    timeout: float | None = None,
    rate_limit: RateLimit | Mapping[str, Any] | str | None = None,
    hedge: Hedge | None = None,
    batch_api: BatchAPI | bool | None = None,
    warm: int = 0,
    warm_key: Callable[[Any], Hashable] | None = None,
    # when the run is over
    deadline: float | None = None,
    budget: Budget | None = None,
    stop_when: StopWhen | None = None,
    min_success: int | float | None = None,
    # what becomes of failures, what is kept, what is shown
    on_error: OnError = "raise",
    errors_key: str | None = None,
    dedupe_key: Callable[[Any], Hashable] | None = None,
    cache: BaseCache[Any] | None = None,
    progress: bool | Literal["items"] = False,
    sink: Sink | None = None,
) -> Edge:
    """Call a target for every item of a list in the state, or several times for one state.

    For each item, the target sees the parent's state with `item_to_state(item)` laid over it: as a dict, or
    as the dataclass or pydantic model that its first parameter is annotated with. A function whose parameter
    is annotated with something other than a state, such as `str` or a message, gets the item itself. A graph
    gets `item_to_state(item)` alone, as by a `Send`. An empty batch gives `[]`.

    With a checkpointer, finished items are not run again after a crash, an error or an interrupt.

    A `jit_edge` is not called for each item: `jax.vmap` computes all items together.

    `edge.with_(max_concurrency=64)` returns a copy of the edge with some arguments changed.

    Args:
        target: What to call: a function of the state (sync or async; it may take LangGraph's `config`,
            `runtime`, `store` and `writer`), a DSPy module, a Runnable, a compiled graph or another edge.
        batch_key: State key of the items: a list, tuple, array, generator or dict view, or a stream of
            `mahsm.data`, of which two ranges are in memory.
        batch: In place of a key, a function that returns the items, given the state as a dict. The items are
            never stored in the state. On resume it is called again, and must return the same items.
        sample: In place of a batch, the number of calls on the same state, >= 1; the items are the numbers
            from 0. Each call draws its own answer from DSPy's models: it has a rollout id, so that the cache
            does not give all calls the same answer, and a temperature of 1.0 if that is unset or 0. If the
            samples are drawn again, they come from the cache.
        out_key: State key that gets one entry per item. Or several keys: an item may write any of them, each
            value goes through the parent's reducer, as by a `Send`, and a key without a reducer gets the list
            of values. Wire such an edge by `connect`, which knows the reducers; added by `add_node`, it
            writes each value by itself. An edge that runs alone returns lists.
        item_to_state: Maps an item to state keys, which the target sees on top of the parent's state; by
            default `{"item": item}`, and for a `dspy.Example` its input fields too.
        inherit: The part of the parent's state that the target sees: all (True), nothing (False), or these
            keys. By default nothing if the target is a compiled graph, otherwise all.
        result: The part of the target's update that becomes the entry: one of its keys, or a function of it;
            by default all.
        name: Node name; by default `vmap_` and the target's name, or `out_key` if the target is a graph
            without a name. Such a graph takes the edge's name in drawings, spans and `usage().by_node`.
        max_concurrency: Items at a time, >= 1, including those of edges inside. LangGraph's own
            `max_concurrency` in the config, or under its `configurable`, is an upper bound that all edges of
            a graph run share.
        adaptive: Learn from 429s how many items the provider takes at a time: True, or the fewest and the
            most. There are never more than `max_concurrency`. Needs `retry`, since some items meet a 429.
        preserve_order: Order entries like the input; otherwise in the order in which the items finish.
        chunk_size: Results that are saved together, >= 1. By default a batch is saved in at most 128 parts.
            After a kill, at most `max_concurrency + 2 * chunk_size` finished items run again. With 1, each
            item is a task of LangGraph, which `interrupt()` in an item needs; that is the default for small
            batches, and for a target that holds a graph.
        batch_size: For a `jit_edge`: items that are computed together, >= 1. By default all, which then have
            to fit in memory together; with it, memory holds about twice this many at most, besides the items
            and results themselves.
        executor: Run the items in other processes: a `distributed.Client` of Dask, an executor of
            `concurrent.futures`, or `"process"` for a pool with a process for each core. Each worker has its
            share of `max_concurrency` and of the rate limit. In place of a compiled graph, pass its
            `StateGraph`, or where it is: `"package.module:graph"`.
        retry: Retry failed items: a `Retry`, or LangGraph's `RetryPolicy`. `timeout` then applies to each
            attempt.
        timeout: Seconds that one item may take, > 0. After that, an async target is cancelled. A blocking
            target fails with a `TimeoutError`, but its thread runs on, since a thread cannot be stopped.
        rate_limit: The provider's limit: a `RateLimit`, its arguments as a dict, or the name of a provider
            that has one. Every attempt takes a request and its tokens, and holds no slot while it waits for
            them.
        hedge: Start a second call for an item that takes unusually long, and use the first answer.
        batch_api: Collect the calls of DSPy's models in all items, and send them as jobs of the provider's
            batch API, at about half the price: a `BatchAPI`, or True for its defaults. An item that waits for
            its answer holds no slot. Each model has to be a `dspy.LM` of OpenAI, Anthropic or Gemini.
        warm: Items that run before the others, >= 0: these begin when a model has answered one of them, so
            that the provider's prompt cache has the common beginning of their prompts. If such an item fails,
            the next one takes its turn.
        warm_key: Maps an item to a key, such as its model or the beginning of its prompt; `warm` then counts
            for the items of each key by themselves.
        deadline: Seconds from the beginning of the run, > 0. After that nothing new begins, and items in
            progress fail with a `TimeoutError`.
        budget: What each run of the edge may spend. When it is spent, nothing new begins, and items without a
            result fail with a `BudgetExceeded`.
        stop_when: Stop as soon as this is decided: `majority_vote`, `first`, a `Reducer` of yours, or a
            function of the list of entries so far. Calls in progress are cancelled, and `out_key` gets only
            the entries of items that have finished.
        min_success: How many items must succeed: a count >= 1, or a share in (0, 1].
        on_error: `"raise"` stops the rest and raises the first error as it is; `"collect"` puts an
            `ItemError` in the failed item's place; `"drop"` leaves the item out.
        errors_key: State key that gets the `ItemError`s, in input order.
        dedupe_key: Maps an item to a key; items with equal keys are called once.
        cache: A LangGraph cache. An item whose key is in it is not called. The key is `dedupe_key(item)`, or
            `item_to_state(item)` without a `dedupe_key`.
        progress: True shows a bar on stderr; `"items"` emits a stream event (`stream_mode="custom"`) whenever
            an item has finished, with its index and its value or error.
        sink: Where results go, in place of the state: `sinks.Jsonl(folder)`, `sinks.Parquet(folder)`, or a
            function, sync or async, that gets a `sinks.Part` for each range of items. `out_key` gets a
            `sinks.Report`, and failed items are in the sink's `errors.jsonl`. `chunk_size` is then the number
            of results in a part, by default as many as 4 MB of items give, at most 8,192. A run that was
            killed goes on where its folder is; no checkpointer is needed. A budget or deadline that ends the
            run raises its error, so that a later run goes on.

    Returns:
        An edge that reads `batch_key` and writes `out_key` (and `errors_key`).

    Raises:
        EdgeError: immediately, for invalid or contradictory arguments.
        NodeError: immediately, for a target that cannot be called with a state.
        StateError: when run, if the batch is missing or not a list.
        LimitError: immediately or when run, if a rate limit is invalid or contradicts another one.
        BudgetExceeded: when run with `on_error="raise"`, if the budget is spent before all items have begun.
        DataError: when run, if a stream cannot be read, or has changed since the run began, or a sink was
            begun with other items or another target.
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
    items = Batch(batch_key, batch, sample, item_to_state, dedupe_key, cache)
    concurrency = Concurrency(max_concurrency, adaptive, preserve_order, chunk_size, batch_size)
    ends = Ends(deadline, budget, stop_when, min_success)
    warms = Warm(warm, warm_key)
    failures = Failures(on_error, errors_key)
    out_keys = _out_keys(edge, out_key, on_error, result)
    for group in (items, concurrency, ends, warms):
        group.check(edge)
    failures.check(edge, get_args(OnError), out_keys, min_success=min_success)
    check.flag(edge, "progress", progress == "items" or progress)
    if name is not None:
        check.name(edge, name)
    tries = Tries.of(edge, retry, timeout, rate_limit, hedge, batch_api)
    if tries.batch_api is not None:
        warms.refuse_with(edge, "batch_api=", "the calls of all items are answered together")
    given = target
    if executor is not None:
        if tries.batch_api is not None:
            raise EdgeError(
                f"{edge}: executor= with batch_api=: the calls of all items are collected in one process. "
                "Leave one of the two out."
            )
        target = target_here(edge, target, executor)
    made = as_target(tries.once(target), reader=edge, of_items=item_to_state is None)
    name = name or f"vmap_{node_name('_'.join(out_keys)) if made.is_unnamed else made.name}"
    spec = VmapSpec(
        name=name,
        target=made.named(name),
        tries=tries,
        ends=ends,
        batch=items,
        out_key=out_key if isinstance(out_key, str) else out_keys,
        inherit=check.inherit(edge, inherit, default=not made.is_graph),
        result=result,
        concurrency=concurrency,
        failures=failures,
        progress=progress,
        warm=warms,
        sink=sink,
    )
    if isinstance(target, JitEdge):
        return jit_vmap(edge, spec, target)
    if executor is not None:
        warms.refuse_with(edge, "executor=", "workers report the answers of models when a part has ended")
        # What is left out, this process does.
        elsewhere: dict[str, Any] = {
            "batch_key": batch_key if batch is None else "items",
            "sample": sample,
            "out_key": out_key,
            "item_to_state": item_to_state,
            "inherit": inherit,
            "result": result,
            "name": name,
            "adaptive": adaptive,
            "retry": retry,
            "timeout": timeout,
            "rate_limit": rate_limit,
            "hedge": hedge,
        }
        workers = OtherProcesses(executor, partial(vmap, given, **elsewhere))
        workers.check(edge, spec.target)
        spec = replace(spec, workers=workers)
    spec.check_target(edge)
    return _edge(spec)


def _edge(spec: VmapSpec) -> Edge:
    def within(reducers: Mapping[str, StateReducer]) -> Edge:
        return _edge(replace(spec, reducers=reducers))

    lowered = VmapLowering(spec)
    return Edge(
        *sides(lowered.run),
        name=spec.name,
        graph=lowered.graph,
        reads=spec.reads,
        writes=spec.writes,
        children={spec.target.name: spec.target.source},
        within=None if isinstance(spec.out_key, str) else within,
        items=lowered,
    )


def _out_keys(edge: str, out_key: str | Sequence[str], on_error: str, result: object) -> tuple[str, ...]:
    keys = check.keys(edge, "out_key", out_key)
    if not isinstance(result, str):
        check.function(edge, "result", result, "a key of the target's update, or a function of the update")
    if isinstance(out_key, str):
        return keys
    if on_error == "collect":
        raise EdgeError(
            f"{edge}: on_error='collect' puts an ItemError in the item's place in out_key, but out_key names "
            "several keys. Pass on_error='drop' with errors_key=, or one out_key."
        )
    if isinstance(result, str):
        raise EdgeError(
            f"{edge}: result={result!r} is one key, and out_key names several; expected a function that "
            "returns a dict of these, or None."
        )
    return keys
