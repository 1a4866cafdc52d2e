"""What LangGraph does about nodes that fail, wait or are asked again, with a fan-out as the node."""

import asyncio
import operator
import threading
from collections import Counter
from typing import Annotated, Any

import pytest
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import NodeError, NodeTimeoutError
from langgraph.graph import END, START, StateGraph
from langgraph.types import CachePolicy, Command, RetryPolicy, Send, TimeoutPolicy
from typing_extensions import TypedDict

from mahsm import connect, parallel, vmap
from mahsm.policies import is_item_error
from tests.helpers import MODES, run, thread


class State(TypedDict, total=False):
    xs: list[int]
    ys: Annotated[list[Any], operator.add]
    log: Annotated[list[str], operator.add]


def fails(state: dict[str, Any]) -> int:
    if state["item"] == 3:
        raise ValueError("three")
    return state["item"]


async def fails_later(state: dict[str, Any]) -> int:
    await asyncio.sleep(0)
    return fails(state)


def with_node(
    node: Any, after: Any = None, state: type[Any] = State, **options: Any
) -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(state)
    builder.add_node("fan", node, **options)
    builder.add_node("after", after or (lambda state: {"log": ["after"]}))
    builder.add_edge(START, "fan")
    builder.add_edge("fan", "after")
    return builder


def handle(state: State, error: NodeError) -> Any:
    return Command(update={"log": [f"{error.node}: {error.error!r}"]}, goto="after")


async def handle_later(state: State, error: NodeError) -> Any:
    return handle(state, error)


@pytest.mark.parametrize("where", ["alone", "subgraph", "beside"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("target", [fails, fails_later])
@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize(("mode", "handler"), [("sync", handle), ("async", handle), ("async", handle_later)])
def test_an_error_handler_gets_the_error_itself(
    mode: str, saved: bool, target: Any, handler: Any, stream: bool, where: str
) -> None:
    """By a stream of subgraphs, in a subgraph, and beside a node that goes well, too."""
    builder = with_node(vmap(target, batch_key="xs", out_key="ys"), error_handler=handler)
    if where == "subgraph":
        builder = StateGraph(State).add_node("inner", builder.compile()).add_edge(START, "inner")
    elif where == "beside":
        builder.add_node("beside", lambda state: {"log": ["beside"]})
        builder.add_edge(START, "beside")
    graph = builder.compile(checkpointer=InMemorySaver() if saved else None)
    given, options = (
        {"xs": [1, 2, 3]},
        {"stream_mode": ["custom", "messages", "updates", "values"], "subgraphs": True},
    )

    async def read() -> Any:
        return [chunk async for chunk in graph.astream(given, thread(), **options)]

    if not stream:
        state = run(graph, given, mode, thread())
    else:
        chunks = list(graph.stream(given, thread(), **options)) if mode == "sync" else asyncio.run(read())
        state = [chunk for namespace, kind, chunk in chunks if kind == "values" and not namespace][-1]
    assert sorted(state["log"]) == [
        "after",
        *(["beside"] if where == "beside" else []),
        "fan: ValueError('three')",
    ]


@pytest.mark.parametrize("mode", MODES)
def test_the_nodes_retry_policy_calls_all_items_again(mode: str) -> None:
    """`vmap(retry=)` calls only those that failed."""
    called: Counter[int] = Counter()
    broken = [True]

    def breaks(state: dict[str, Any]) -> int:
        called[state["item"]] += 1
        if state["item"] == 3 and broken:
            broken.clear()
            raise ConnectionError("three")
        return state["item"]

    policy = RetryPolicy(initial_interval=0.001, jitter=False)
    edge = vmap(breaks, batch_key="xs", out_key="ys", max_concurrency=1)
    graph = with_node(edge, retry_policy=policy).compile(checkpointer=InMemorySaver())
    assert run(graph, {"xs": [1, 2, 3]}, mode, thread())["ys"] == [1, 2, 3]
    assert called == {1: 2, 2: 2, 3: 2}


@pytest.mark.parametrize("mode", MODES)
def test_the_nodes_cache_policy_calls_no_item_again(mode: str) -> None:
    called: list[int] = []

    def note(state: dict[str, Any]) -> int:
        called.append(state["item"])
        return state["item"] * 2

    edge = vmap(note, batch_key="xs", out_key="ys", max_concurrency=1)
    graph = with_node(edge, cache_policy=CachePolicy()).compile(cache=InMemoryCache())
    ends = [run(graph, {"xs": xs}, mode)["ys"] for xs in ([1, 2], [1, 2], [3])]
    assert ends == [[2, 4], [2, 4], [6]]
    assert called == [1, 2, 3]


@pytest.mark.parametrize("mode", MODES)
def test_a_deferred_fan_out_waits_for_the_longer_branch(mode: str) -> None:
    builder = StateGraph(State)
    fan = vmap(lambda state: state["item"] * 10, batch_key="xs", out_key="ys", name="fan")
    builder.add_node("fan", fan, defer=True)
    builder.add_node("short", lambda state: {"log": ["short"]})
    builder.add_node("long", lambda state: {"xs": [*state["xs"], 4]})
    builder.add_node("longer", lambda state: {"xs": [*state["xs"], 6], "log": ["longer"]})
    for start, end in [
        (START, "short"),
        (START, "long"),
        ("long", "longer"),
        ("short", "fan"),
        ("longer", "fan"),
        ("fan", END),
    ]:
        builder.add_edge(start, end)
    state = run(builder.compile(), {"xs": [1]}, mode)
    assert state["ys"] == [10, 40, 60]
    assert sorted(state["log"]) == ["longer", "short"]


@pytest.mark.parametrize("timeout", [0.3, TimeoutPolicy(idle_timeout=0.3)])
async def test_the_nodes_timeout_ends_a_fan_out(timeout: Any) -> None:
    begun: list[int] = []
    cancelled: list[int] = []

    async def hangs(state: dict[str, Any]) -> None:
        begun.append(state["item"])
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(state["item"])
            raise

    edge = vmap(hangs, batch_key="xs", out_key="ys")
    with pytest.raises(NodeTimeoutError, match="fan"):
        await with_node(edge, timeout=timeout).compile().ainvoke({"xs": [1, 2]})
    assert sorted(cancelled) == sorted(begun)


async def test_an_item_over_time_is_one_item_only() -> None:
    async def hangs(state: dict[str, Any]) -> int:
        if state["item"] == 2:
            await asyncio.Event().wait()
        return state["item"]

    edge = vmap(hangs, batch_key="xs", out_key="ys", timeout=0.3, on_error="collect")
    first, error, third = (await with_node(edge).compile().ainvoke({"xs": [1, 2, 3]}))["ys"]
    assert (first, third) == (1, 3)
    assert is_item_error(error)
    assert error["type"] == "TimeoutError"


@pytest.mark.parametrize("mode", MODES)
def test_a_recursion_limit_counts_the_fan_out_as_one_step(mode: str) -> None:
    """However many items it has."""
    graph = with_node(vmap(lambda state: state["item"], batch_key="xs", out_key="ys")).compile()
    given = {"xs": list(range(5000))}
    assert run(graph, given, mode, {"recursion_limit": 3})["ys"] == given["xs"]


@pytest.mark.parametrize("mode", MODES)
def test_a_graph_that_goes_round_and_round_is_one_failed_item(mode: str) -> None:
    class Steps(TypedDict):
        item: int
        count: int

    builder = StateGraph(Steps)
    builder.add_node("step", lambda state: {"count": state.get("count", 0) + 1})
    builder.add_edge(START, "step")
    builder.add_conditional_edges(
        "step", lambda state: END if state["count"] >= state["item"] else "step", ["step", END]
    )
    edge = vmap(
        builder.compile(name="steps"), batch_key="xs", out_key="ys", result="count", on_error="collect"
    )
    first, error, third = run(with_node(edge).compile(), {"xs": [2, 99, 4]}, mode, {"recursion_limit": 10})[
        "ys"
    ]
    assert (first, third) == (2, 4)
    assert error["type"] == "langgraph.errors.GraphRecursionError"


# Errors as a part of the state.


@pytest.mark.parametrize("mode", MODES)
def test_the_rest_of_a_fan_out_and_of_branches_goes_on(mode: str) -> None:
    """One branch that fails ends all of them in LangGraph."""
    native = StateGraph(State)
    native.add_node("one", lambda state: {"ys": [fails(state)]})
    native.add_conditional_edges(
        START, lambda state: [Send("one", {"item": x}) for x in state["xs"]], ["one"]
    )
    with pytest.raises(ValueError, match="three"):
        run(native.compile(), {"xs": [1, 3]}, mode)

    kept = vmap(fails, batch_key="xs", out_key="ys", on_error="drop", errors_key="log", name="kept")
    state = run(connect(StateGraph(State), START, kept, END).compile(), {"xs": [1, 3, 4]}, mode)
    assert state["ys"] == [1, 4]
    assert [error["index"] for error in state["log"]] == [1]

    branches = {"good": lambda state: {"ys": [1]}, "bad": lambda state: fails({"item": 3})}
    both = parallel(branches, on_error="isolate", errors_key="log", name="both")
    state = run(connect(StateGraph(State), START, both, END).compile(), {"xs": []}, mode)
    assert state["ys"] == [1]
    assert [error["message"] for error in state["log"]] == ["three"]


# What was changed after a failure.


class Late:
    """Fails at 3 until it is mended."""

    def __init__(self) -> None:
        self.broken = True
        self.called: list[int] = []

    def __call__(self, state: dict[str, Any]) -> int:
        self.called.append(state["item"])
        if state["item"] == 3 and self.broken:
            raise ValueError("three")
        return state["item"] * 2


def by_send(late: Late) -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(State)
    builder.add_node("fan", lambda state: {"ys": [late(state)]})
    builder.add_conditional_edges(
        START, lambda state: [Send("fan", {"item": x}) for x in state["xs"]], ["fan"]
    )
    return builder


def by_edge(late: Late) -> StateGraph[Any, Any, Any, Any]:
    return connect(StateGraph(State), START, vmap(late, batch_key="xs", out_key="ys", name="fan"), END)


@pytest.mark.parametrize("changed", [True, False], ids=["changed-state", "new-input"])
@pytest.mark.parametrize("mode", MODES)
def test_another_batch_after_a_failure_has_no_stale_results(mode: str, changed: bool) -> None:
    ends: list[Any] = []
    for build in (by_send, by_edge):
        late, config = Late(), thread(max_concurrency=1)
        graph = build(late).compile(checkpointer=InMemorySaver())
        with pytest.raises(ValueError, match="three"):
            run(graph, {"xs": [1, 2, 3]}, mode, config)
        late.broken = False
        if changed:
            graph.update_state(config, {"xs": [5, 6]}, as_node=START)
        ends.append((run(graph, None if changed else {"xs": [5, 6]}, mode, config), late.called))
    assert ends[0] == ends[1]
    assert ends[0] == ({"xs": [5, 6], "ys": [10, 12], "log": []}, [1, 2, 3, 5, 6])


# How many at once, and who waits for whom.


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_blocking_items_run_all_at_once_if_they_may(mode: str, saved: bool) -> None:
    """LangGraph's pool of threads has only some. Here each item waits for all others, so that fewer would
    never end."""
    barrier = threading.Barrier(40)

    def meet(state: dict[str, Any]) -> int:
        barrier.wait(timeout=60)
        return state["item"]

    edge = vmap(meet, batch_key="xs", out_key="ys", max_concurrency=40)
    graph = with_node(edge).compile(checkpointer=InMemorySaver() if saved else None)
    assert run(graph, {"xs": list(range(40))}, mode, thread())["ys"] == list(range(40))


@pytest.mark.parametrize("mode", MODES)
def test_branches_of_unequal_length_are_joined_once(mode: str) -> None:
    """By plain edges the node after them runs once for each length."""
    steps: dict[str, Any] = {
        name: lambda state, name=name: {"log": [name]} for name in ("a", "b", "c", "join")
    }
    native = StateGraph(State)
    for name, step in steps.items():
        native.add_node(name, step)
    for start, end in [(START, "a"), (START, "b"), ("b", "c"), ("a", "join"), ("c", "join")]:
        native.add_edge(start, end)
    assert run(native.compile(), {"log": []}, mode)["log"].count("join") == 2

    class Logs(TypedDict):
        log: Annotated[list[str], operator.add]

    long = StateGraph(Logs, output_schema=Logs)
    long.add_node("b", steps["b"]).add_node("c", steps["c"]).add_edge(START, "b").add_edge("b", "c")
    both = parallel({"a": steps["a"], "long": long.compile(name="long")}, name="both")
    builder = StateGraph(State).add_node("join", steps["join"])
    state = run(connect(builder, START, both, "join", END).compile(), {"log": []}, mode)
    assert state["log"] == ["a", "b", "c", "join"]
