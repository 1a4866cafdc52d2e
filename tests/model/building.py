"""The edge of a case, and the graph around it."""

from dataclasses import dataclass
from typing import Any, TypedDict

from langgraph.cache.memory import InMemoryCache
from langgraph.graph import END, START, StateGraph

from mahsm import Budget, Edge, RateLimit, Retry, connect, parallel, vmap
from mahsm.policies import Hedge
from tests.model.case import OVER_ROWS, Case
from tests.model.world import World


class Outer(TypedDict, total=False):
    xs: Any
    ys: Any
    errors: Any
    side: Any


class Row(TypedDict, total=False):
    row: Any
    ys: Any
    errors: Any


@dataclass
class Means:
    """What is shared by all runs of a case.

    Attributes:
        provider: Whose rate limit it is.
        cache: The cache, if the case has one.
    """

    provider: str
    cache: InMemoryCache[Any] | None


def edge_of(case: Case, world: World, means: Means) -> Edge:
    """The edge that calls the target."""
    batch_key = "row" if case.nesting in OVER_ROWS else "xs"
    source: dict[str, Any] = {"sample": case.size} if case.sample else {"batch_key": batch_key}
    return vmap(
        world.target,
        **source,
        out_key="ys",
        name="edge",
        max_concurrency=case.max_concurrency,
        chunk_size=case.chunk_size,
        preserve_order=case.preserve_order,
        on_error=case.on_error,
        errors_key="errors" if case.errors_key else None,
        min_success=case.min_success,
        timeout=case.timeout,
        deadline=case.deadline,
        retry=None if case.attempts is None else Retry(attempts=case.attempts, base=0, share=None),
        rate_limit=None
        if case.rate is None
        else RateLimit(means.provider, rps=case.rate[0], burst=case.rate[1]),
        hedge=None if case.hedge is None else Hedge(percentile=0.9, after=case.hedge),
        adaptive=case.adaptive,
        budget=None if case.budget is None else Budget(calls=case.budget),
        stop_when=None if case.stop_after is None else lambda entries: len(entries) >= (case.stop_after or 0),
        dedupe_key=None if case.dedupe is None else case.key,
        cache=means.cache,
    )


def _over_rows(case: Case, edge: Edge) -> Edge:
    def call(state: dict[str, Any]) -> Any:
        return edge.invoke({"row": state["row"]})

    async def await_(state: dict[str, Any]) -> Any:
        return await edge.ainvoke({"row": state["row"]})

    target: Any = edge
    if case.nesting == "called":
        target = await_ if case.is_async else call
    elif case.nesting == "mapped":
        target = connect(StateGraph(Row), START, edge, END).compile()
    return vmap(
        target,
        batch_key="xs",
        out_key="ys",
        item_to_state=lambda row: {"row": row},
        result="ys",
        max_concurrency=case.outer_concurrency,
        name="rows",
    )


def around(case: Case, world: World, means: Means) -> Any:
    """What stands in the outermost graph."""
    edge = edge_of(case, world, means)
    if case.nesting in OVER_ROWS:
        return _over_rows(case, edge)
    if case.nesting == "parallel":
        return parallel(
            {"edge": edge, "side": world.side}, max_concurrency=case.outer_concurrency, name="both"
        )
    return edge


def graph_of(case: Case, world: World, means: Means, saver: Any) -> Any:
    """What is run."""
    node = around(case, world, means)
    if case.nesting == "alone":
        return node
    if case.nesting == "subgraph":
        inner = connect(StateGraph(Outer), START, node, END).compile()
        return StateGraph(Outer).add_node("inner", inner).add_edge(START, "inner").compile(checkpointer=saver)
    return connect(StateGraph(Outer), START, node, END).compile(checkpointer=saver)


def input_of(case: Case) -> dict[str, Any]:
    return {"xs": case.batches if case.nesting in OVER_ROWS else list(range(case.size))}
