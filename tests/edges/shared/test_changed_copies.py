"""`edge.with_`: a changed copy is what the edge's function makes of all the arguments."""

import asyncio
import copy
import operator
from typing import Annotated, Any, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from mahsm import Branch, Budget, Edge, RateLimit, Retry, connect, fuse, jit_edge, limits, parallel, vmap
from mahsm.edges import reduce_edge
from mahsm.errors import EdgeError, LimitError
from mahsm.policies import Hedge, penalize
from mahsm.reducers import llm_judge_select, tree_reduce
from tests.helpers import MODES, DictState, Gauge, graph_of, run, run_edge


def double(state: dict[str, Any]) -> dict[str, Any]:
    if state["item"] == 2:
        raise ValueError("two")
    return {"ys": state["item"] * 2, "zs": [state.get("bias")]}


async def triple(state: dict[str, Any]) -> dict[str, Any]:
    return {"ys": state["item"] * 3}


def negative(item: int) -> int:
    return -item


class Item(TypedDict, total=False):
    item: int
    ys: Any


def unnamed() -> Any:
    builder = StateGraph(Item)
    builder.add_node("inner", lambda state: {"ys": -state["item"]})
    builder.add_edge(START, "inner")
    return builder.compile()


OPTIONS: dict[str, list[Any]] = {
    "target": [double, triple, negative, unnamed(), 3],
    "batch_key": ["xs", "more", "missing", 3],
    "batch": [lambda state: state["xs"][:2]],
    "sample": [None, 3, 0],
    "out_key": ["ys", ["ys", "zs"], ""],
    "item_to_state": [None, lambda item: {"item": item + 1}, "item"],
    "inherit": [None, True, False, ["bias"], "bias"],
    "result": [None, "ys", "missing", 3],
    "name": [None, "mine", "a:b"],
    "max_concurrency": [1, 8, 0],
    "adaptive": [False, True, (1, 4), (4, 1)],
    "preserve_order": [True, False, 1],
    "chunk_size": [None, 1, 2, 0],
    "batch_size": [None, None, 2],
    "retry": [None, Retry(attempts=2, base=0), 3],
    "timeout": [None, 30.0, 0],
    "rate_limit": [None, {"provider": "copies", "rps": 1e6, "retry": Retry(attempts=3, base=0)}, "nobody", 3],
    "hedge": [None, Hedge(after=1000), 1],
    "deadline": [None, 60.0, -1],
    "budget": [None, Budget(usd=1.0), 1],
    "stop_when": [None, lambda entries: False, 1],
    "min_success": [None, 2, 0.5, 9, True],
    "on_error": ["drop", "collect", "raise", "colect"],
    "errors_key": [None, "errors", "ys", 3],
    "dedupe_key": [None, lambda item: item % 2, 3],
    "cache": [None, InMemoryCache(), 3],
    "progress": [False, "items", 3],
    "max_concurency": [3],
}
some = st.lists(st.sampled_from(list(OPTIONS)), max_size=5, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: st.sampled_from(OPTIONS[name]) for name in names})
)
good = st.lists(st.sampled_from(list(OPTIONS)[:-1]), max_size=8, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: st.sampled_from(OPTIONS[name][:2]) for name in names})
)
BASIS: dict[str, Any] = {"target": double, "batch_key": "xs", "out_key": "ys", "on_error": "drop"}


def made(make: Any) -> Any:
    """The edge that comes of it, and what it is; or how that fails."""
    try:
        edge = make()
    except Exception as error:  # noqa: BLE001  it is compared
        return None, (type(error), str(error))
    return edge, (repr(edge), edge.reads, edge.writes, sorted(edge.graph.nodes))


def outcome(edge: Edge, mode: str, *, ordered: bool) -> Any:
    """What comes of running it."""
    try:
        update = run(edge, {"xs": [1, 2, 3, 4], "more": range(9), "bias": 7}, mode)
    except Exception as error:  # noqa: BLE001  it is compared
        return type(error), str(error)
    return {key: values if ordered else sorted(map(repr, values)) for key, values in update.items()}


@settings(max_examples=100)
@given(before=some | good, after=some | good, mode=st.sampled_from(MODES))
def test_a_copy_is_what_all_the_arguments_make(
    before: dict[str, Any], after: dict[str, Any], mode: str
) -> None:
    given = {**BASIS, **before}
    if "batch" in given or given.get("sample") is not None:
        del given["batch_key"]
    original, what = made(lambda: vmap(**given))
    if original is None:  # there is nothing to copy
        original, given = vmap(**BASIS), BASIS
    else:
        assert made(original.with_)[1] == what
    edge, what = made(lambda: vmap(**{**given, **after}))
    changed, also = made(lambda: original.with_(**after))
    assert also == what
    if edge is not None:
        ordered = {**given, **after}.get("preserve_order", True)
        assert outcome(changed, mode, ordered=ordered) == outcome(edge, mode, ordered=ordered)


# Every kind of edge.

join = parallel({"a": lambda state: {"a": state["x"]}, "b": lambda state: {"b": 2}})
total = reduce_edge(input_key="xs", output_key="y", reducer=sum)
halve = jit_edge(lambda x: x / 2, in_keys=["x"], out_key="y", name="halve")
square = jit_edge(lambda y: y * y, in_keys=["y"], out_key="z", name="square")
KINDS: dict[str, tuple[Edge, dict[str, Any], dict[str, Any], Any]] = {
    "vmap": (
        vmap(negative, batch_key="xs", out_key="ys"),
        {"out_key": "zs", "max_concurrency": 1},
        {"xs": [1, 2]},
        {"zs": [-1, -2]},
    ),
    "vmap of a jit": (
        vmap(halve, batch_key="xs", out_key="ys", item_to_state=lambda x: {"x": x}),
        {"result": "y", "batch_size": 1},
        {"xs": [1.0, 2.0]},
        {"ys": [0.5, 1.0]},
    ),
    "parallel": (join, {"merge": lambda state, updates: {"c": len(updates)}}, {"x": 1}, {"c": 2}),
    "reduce": (total, {"reducer": max}, {"xs": [1, 2]}, {"y": 2}),
    "reduce by a tree": (
        total,
        {"reducer": tree_reduce(merge=lambda state: sum(state["items"]), max_concurrency=2)},
        {"xs": [1, 2]},
        {"y": 3},
    ),
    "jit": (halve, {"output": "python", "out_key": "z"}, {"x": [1.0]}, {"z": [0.5]}),
    "fuse": (fuse(halve, square), {"keep": ["y", "z"]}, {"x": 4.0}, {"y": 2.0, "z": 4.0}),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("edge", "changes", "state", "update"), KINDS.values(), ids=KINDS.keys())
def test_each_kind_has_changed_copies(edge: Edge, changes: Any, state: Any, update: Any, mode: str) -> None:
    before = run(edge, state, mode)
    changed = edge.with_(**changes)
    assert type(changed) is type(edge)
    assert run(changed, state, mode) == update
    assert run(edge, state, mode) == before
    assert changed.graph is not edge.graph
    named = edge.with_(name="named")
    assert named.name == "named"
    assert run(named, state, mode) == before
    assert run(named.with_(**changes, name="twice"), state, mode) == update, "a copy of a copy"


UNKNOWN: dict[str, tuple[Edge, dict[str, Any], str]] = {
    "vmap": (
        KINDS["vmap"][0],
        {"max_concurency": 3},
        r"^vmap: max_concurency=3; there is no such argument\. Did",
    ),
    "parallel": (join, {"merg": max}, r"^parallel: merg=.*Did you mean 'merge'\?"),
    "parallel's elsewhere": (join, {"retry": Retry()}, r"It belongs to a branch: Branch\(target"),
    "reduce": (total, {"reducers": max}, r"^reduce_edge: reducers=.*Did you mean 'reducer'\?"),
    "jit": (halve, {"x46": True}, r"^jit_edge: x46=True.*Did you mean 'x64'\?"),
    "jit's elsewhere": (halve, {"keep": ["y"]}, r"^jit_edge: keep=.*It belongs to fuse: fuse\(first, second"),
    "fuse": (fuse(halve, square), {"kep": ["y"]}, r"^fuse: kep=.*Did you mean 'keep'\?"),
    "steps of fuse": (
        fuse(halve, square),
        {"edges": [halve]},
        r"^fuse: edges=.*given by position, and cannot be changed afterwards",
    ),
    "a part of fuse": (
        fuse(halve, square),
        {"x64": True},
        r"^fuse: x64=True; .*It belongs to the edges that are fused\. Change these, and fuse them",
    ),
}


@pytest.mark.parametrize(("edge", "changes", "message"), UNKNOWN.values(), ids=UNKNOWN.keys())
def test_an_unknown_name_is_refused(edge: Edge, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        edge.with_(**changes)


@pytest.mark.parametrize(
    ("edge", "changes", "message"),
    [
        (join, {"eager": True}, "eager=True, but scheduler='parallel' has no waves"),
        (total, {"errors": "dorp"}, "errors='dorp'; expected one of 'drop', 'raise'"),
        (halve, {"static_keys": ["q"]}, "static_keys has 'q'; expected some of in_keys, 'x'"),
        (
            fuse(halve, square),
            {"keep": ["q"]},
            "keep has 'q'; expected some of the keys that the edges write",
        ),
    ],
)
def test_other_kinds_check_their_copies(edge: Edge, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        edge.with_(**changes)


# A copy keeps what is not named, and nothing that only followed from what is.


def test_a_retry_that_came_with_a_rate_limit_goes_with_it() -> None:
    limits.forget("copies-retry")
    calls: list[int] = []

    def fail(state: dict[str, Any]) -> None:
        calls.append(1)
        raise ConnectionError("gone")

    limit = RateLimit("copies-retry", rps=1e6, retry=Retry(attempts=3, base=0))
    edge = vmap(fail, batch_key="xs", out_key="ys", rate_limit=limit)
    for each, expected in ((edge, 3), (edge.with_(timeout=30), 3), (edge.with_(rate_limit=None), 1)):
        calls.clear()
        with pytest.raises(ConnectionError):
            each.invoke({"xs": [1]})
        assert len(calls) == expected


def test_a_name_that_was_not_given_is_made_anew() -> None:
    edge = vmap(double, batch_key="xs", out_key="ys")
    assert [edge.with_(target=negative).name, edge.with_(max_concurrency=1).name] == [
        "vmap_negative",
        edge.name,
    ]
    assert edge.with_(name="mine").with_(target=negative).name == "mine"


def test_a_contradicting_rate_limit_is_refused() -> None:
    limits.forget("copies-two")
    edge = vmap(double, batch_key="xs", out_key="ys", rate_limit=RateLimit("copies-two", rps=5))
    with pytest.raises(LimitError, match="two limits for 'copies-two'"):
        edge.with_(rate_limit=RateLimit("copies-two", rps=6))


def test_lists_are_kept_as_they_were() -> None:
    branches, keys = {"a": lambda state: {"a": 1}}, ["ys"]
    two = parallel(branches)
    one = vmap(lambda item: {"ys": [1], "zs": [2]}, batch_key="xs", out_key=keys)
    branches["b"] = lambda state: {"b": 1}
    keys.append("zs")
    assert two.with_(timeout=30).invoke({}) == {"a": 1}
    assert one.with_(max_concurrency=1).writes == {"ys"}


def test_branches_can_be_changed() -> None:
    edge = parallel([Branch(lambda state: {"a": 1}, name="a")], timeout=30)
    assert edge.with_(branches={"b": lambda state: {"b": 1}}).invoke({}) == {"b": 1}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_copies_of_other_kinds_can_be_changed(copied: Any) -> None:
    assert copied(vmap(negative, batch_key="xs", out_key="ys")).with_(out_key="zs").invoke({"xs": [1]}) == {
        "zs": [-1]
    }


# In graphs.


class Summed(TypedDict, total=False):
    xs: list[int]
    ys: Annotated[list[int], operator.add]
    zs: Annotated[list[int], operator.add]


@pytest.mark.parametrize("mode", MODES)
def test_an_edge_in_a_graph_can_be_changed(mode: str) -> None:
    spread = vmap(
        lambda state: {"ys": [state["item"]], "zs": [-state["item"]]},
        batch_key="xs",
        out_key=["ys", "zs"],
        name="spread",
    )
    graph = graph_of(spread, state=Summed, checkpointer=InMemorySaver())
    node: Any = graph.builder.nodes["spread"].runnable
    assert node is not spread, "what is in the graph knows its reducers"
    config: Any = {"configurable": {"thread_id": "1"}}
    assert run(graph, {"xs": [1, 2], "ys": [0]}, mode, config)["ys"] == [0, 1, 2]
    both = graph_of(spread, node.with_(out_key="ys", result="zs", name="again"), state=Summed)
    assert run(both, {"xs": [1, 2]}, mode) == {"xs": [1, 2], "ys": [1, 2, [-1], [-2]], "zs": [-1, -2]}
    assert run(graph, {"xs": [3]}, mode, config)["ys"] == [0, 1, 2, 3]


def test_a_copy_without_a_name_of_its_own_is_another_node() -> None:
    edge = vmap(negative, batch_key="xs", out_key="ys")
    with pytest.raises(EdgeError, match="vmap_negative"):
        connect(StateGraph(DictState), START, edge, edge.with_(max_concurrency=1), END)


async def test_a_copy_finds_out_the_concurrency_for_itself() -> None:
    gauge, first = Gauge(), list[int]()

    async def target(state: dict[str, Any]) -> None:
        with gauge.inside():
            for _ in range(60):  # those that may begin do so; none more, before one has ended
                await asyncio.sleep(0)
            first.append(gauge.most)

    edge = vmap(target, batch_key="xs", out_key="ys", adaptive=True, max_concurrency=40, retry=Retry())
    most: list[int] = []
    for each in (edge, edge, edge.with_(timeout=60)):
        gauge.most, first = 0, []
        await each.ainvoke({"xs": range(40)})
        most.append(first[0])
    assert most[0] == most[2] == 8
    assert most[1] > 8


# Modules of numeric edges.


def scale(by: float) -> Any:
    import equinox as eqx
    import jax

    class Scale(eqx.Module):
        by: jax.Array

        def __call__(self, x: Any) -> Any:
            return x * self.by

    made = scales.setdefault("class", Scale)
    return made(jax.numpy.array(by))


scales: dict[str, Any] = {}


def test_a_copy_computes_with_the_module_that_was_put_in() -> None:
    edge = jit_edge(scale(2.0), in_keys=["x"], out_key="y", name="scale")
    edge.replace(scale(10.0))
    changed = edge.with_(out_key="z", name="other")
    assert changed.invoke({"x": 3.0}) == {"z": 30.0}
    changed.replace(scale(5.0))
    assert edge.invoke({"x": 3.0}) == {"y": 30.0}
    assert changed.with_(out_key="y").invoke({"x": 3.0}) == {"y": 15.0}
    assert changed.with_(fn=lambda x: -x).invoke({"x": 3.0}) == {"z": -3.0}
    assert (edge.stats.compiles, changed.stats.compiles) == (1, 1)


def test_so_does_one_of_a_fused_edge() -> None:
    first = jit_edge(scale(2.0), in_keys=["x"], out_key="y", name="first")
    second = jit_edge(scale(3.0), in_keys=["y"], out_key="z", name="second")
    fused = fuse(first, second)
    fused.replace(scale(100.0), step="second")
    first.replace(scale(7.0))
    assert fused.with_(keep=["y", "z"], name="both").invoke({"x": 1.0}) == {"y": 2.0, "z": 200.0}


# Options that are passed on.


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: tree_reduce(merge=len, **options),
        lambda **options: llm_judge_select(**options),
    ],
    ids=["tree_reduce", "llm_judge_select"],
)
def test_options_that_are_passed_on_are_checked_when_the_reducer_is_made(make: Any) -> None:
    with pytest.raises(TypeError, match=r"retires=3; there is no such argument\. Did you mean 'retry'"):
        make(retires=3)
    with pytest.raises(EdgeError, match="max_concurrency=0; expected an integer >= 1"):
        make(max_concurrency=0)


def test_penalties_can_be_changed() -> None:
    failing = vmap(double, batch_key="xs", out_key="ys", result="ys", on_error="collect")
    ys = run_edge(failing, [1, 2], "sync")
    edge = reduce_edge(input_key="ys", output_key="y", reducer=sum)
    assert edge.with_(errors=penalize(-1)).invoke({"ys": ys}) == {"y": 1}
