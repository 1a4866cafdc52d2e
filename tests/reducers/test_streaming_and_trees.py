"""Reducers that stream, fuse and merge: early decisions, weights, rankings, trees."""

import asyncio
import math
import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mahsm import RateLimit, limits, reduce_edge, vmap
from mahsm.edges._shared.reducer import streamed
from mahsm.errors import ReducerError
from mahsm.reducers import (
    Reducer,
    first,
    majority_vote,
    median,
    normalized,
    rank_fusion,
    tree_reduce,
    weighted_vote,
)
from mahsm.testing import ModelServer, item_error
from tests.helpers import MODES, Gauge, run

FAILED = item_error(ValueError("broken"), edge="edge", index=0, item="x")


def reduced(reducer: Any, values: Any, mode: str = "sync", **options: Any) -> Any:
    edge = reduce_edge(input_key="values", output_key="value", reducer=reducer, **options)
    return run(edge, {"values": values, "question": "?"}, mode)["value"]


# Votes


def test_texts_that_are_written_differently() -> None:
    assert majority_vote(["No", "The  Answer.", "the answer"], normalize=True) == "The  Answer."
    assert majority_vote([{"a": "Yes!"}, {"a": "yes"}, {"a": "no"}], key="a", normalize=True) == "Yes!"
    assert normalized(' "42." ') == "42"
    assert normalized(4) == 4
    assert majority_vote([[1], [2], [1]]) == [1], "what cannot be hashed is compared"


def test_weights() -> None:
    votes = [{"a": "x", "w": 1}, {"a": "Y", "w": 0.6}, {"a": "y", "w": 0.6}]
    assert weighted_vote(votes, weight="w", key="a") == "x"
    assert weighted_vote(votes, weight="w", key="a", normalize=True) == "Y"
    assert weighted_vote(weight=lambda vote: -len(vote) + 10)(["long", "s"]) == "s"
    assert weighted_vote(["a", "b"], weight=lambda _: 1) == "a", "of equals the first"


@pytest.mark.parametrize(
    ("votes", "message"),
    [
        ([], "there are no values to choose from"),
        ([{"w": -1}], r"the weight of value 0 is -1; expected a number >= 0"),
        ([{"w": math.nan}], r"the score of value 0 is nan; expected a number"),
        ([{"v": 1}], r"value 0 has no key 'w'"),
    ],
)
def test_weights_that_are_none(votes: Any, message: str) -> None:
    with pytest.raises(ReducerError, match=message):
        weighted_vote(votes, weight="w")


# Scores and lists


def test_median() -> None:
    assert median([3, 1, 2]) == 2
    assert median([1, 2, 3, 4]) == 2.5
    assert median(key="s")([{"s": 5}]) == 5
    with pytest.raises(ReducerError, match="no values"):
        median([])
    with pytest.raises(ReducerError, match="the score of value 1 is None"):
        median([1, None])


def test_first() -> None:
    assert first([1, 2, 3]) == [1]
    assert first(k=2, where=lambda value: value > 1)([1, 2, 3, 4]) == [2, 3]
    assert first([]) == []
    with pytest.raises(ReducerError, match="first: k=0; expected an integer >= 1"):
        first(k=0)


def test_rank_fusion() -> None:
    assert rank_fusion([["a", "b"], ["b", "a"]]) == ["a", "b"], "of equal scores the one seen first"
    assert rank_fusion([["a", "b", "c"], ["c", "b"]], k=1) == ["c", "b", "a"]
    assert rank_fusion([["a", "a", "b"], ["b"]], k=1) == ["b", "a"], "twice in one ranking counts once"
    pages = [[{"url": "x"}, {"url": "y"}], [{"url": "y"}]]
    assert rank_fusion(id="url")(pages) == [{"url": "y"}, {"url": "x"}]
    assert rank_fusion([[], ["a"]]) == ["a"]


@pytest.mark.parametrize(
    ("rankings", "message"),
    [
        ([], "no values to choose from"),
        (["abc"], "found 'abc'; expected a ranking, a list with the best first"),
        ([[{"url": 1}]], r"\{'url': 1\} is not hashable, so it cannot identify an entry. Pass id="),
    ],
)
def test_rankings_that_are_none(rankings: Any, message: str) -> None:
    with pytest.raises(ReducerError, match=message):
        rank_fusion(rankings)


@given(
    rankings=st.lists(st.lists(st.integers(0, 9), unique=True), min_size=1),
    k=st.integers(1, 100),
)
def test_fusion_keeps_every_entry_once_in_order_of_its_score(rankings: list[list[int]], k: int) -> None:
    fused = rank_fusion(rankings, k=k)
    scores = [
        sum(1 / (k + ranking.index(entry) + 1) for ranking in rankings if entry in ranking) for entry in fused
    ]
    assert sorted(fused) == sorted({entry for ranking in rankings for entry in ranking})
    assert all(one >= other - 1e-12 for one, other in pairwise(scores))


# Value by value


class Longest:
    """A reducer of a user's."""

    def init(self, total: int) -> str:
        return ""

    def add(self, state: str, value: str) -> str:
        return max(state, value, key=len)

    def decided(self, state: str) -> bool:
        return len(state) >= 5

    def result(self, state: str) -> str:
        return state


@pytest.mark.parametrize("mode", MODES)
def test_a_reducer_of_ones_own(mode: str) -> None:
    assert isinstance(Longest(), Reducer)
    assert reduced(Longest(), ["a", "abcde", "abcdefg"], mode) == "abcde", "decided before the last"
    assert reduce_edge(input_key="a", output_key="b", reducer=Longest()).name == "reduce_Longest"
    edge = vmap(
        lambda state: state["item"], batch_key="xs", out_key="ys", stop_when=Longest(), max_concurrency=1
    )
    assert run(edge, {"xs": ["a", "abcde", "b"]}, mode)["ys"] == ["a", "abcde"]


@pytest.mark.parametrize("mode", MODES)
def test_first_stops_a_fan_out(mode: str) -> None:
    good = first(k=2, where=lambda value: value % 2)
    edge = vmap(lambda state: state["item"], batch_key="xs", out_key="ys", stop_when=good, max_concurrency=1)
    ys = run(edge, {"xs": [0, 1, 2, 3, 4, 5]}, mode)["ys"]
    assert first(ys, k=2, where=lambda value: value % 2) == good(ys)
    assert len(ys) < 6


@pytest.mark.parametrize("reducer", [majority_vote, majority_vote(key=str), first, first(k=3)])
@given(values=st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_value_by_value_is_the_same_as_all_at_once(reducer: Any, values: list[str]) -> None:
    stream = streamed(reducer)
    assert stream is not None
    state = stream.init(len(values))
    decided: Any = None
    for value in values:
        state = stream.add(state, value)
        if decided is None and stream.decided(state):
            decided = stream.result(state)
    assert stream.result(state) == reducer(values)
    assert decided in (None, reducer(values))


def test_what_does_not_stream() -> None:
    assert streamed(median) is None
    assert streamed(len) is None


# Defaults


@pytest.mark.parametrize("mode", MODES)
def test_a_default_when_there_is_nothing(mode: str) -> None:
    assert reduced(majority_vote, [], mode, default="none") == "none"
    assert reduced(majority_vote, [FAILED, FAILED], mode, default=None) is None
    assert reduced(majority_vote, [FAILED, "a"], mode, default=None) == "a"
    with pytest.raises(
        ReducerError, match=r"all 1 inputs failed; first: item 0: ValueError: broken.*pass default= to go on"
    ):
        reduced(majority_vote, [FAILED], mode)


# Trees


class Merges:
    """Adds up, and notes how many values each call got."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.gauge = Gauge()
        self.lock = threading.Lock()

    def __call__(self, state: dict[str, Any]) -> int:
        with self.gauge.inside(), self.lock:
            self.sizes.append(len(state["items"]))
        return sum(state["items"])


def test_a_thousand_values_in_four_levels() -> None:
    merges = Merges()
    assert tree_reduce(range(1000), merge=merges, arity=8) == sum(range(1000))
    assert len(merges.sizes) <= 144
    assert max(merges.sizes) <= 8
    assert merges.sizes[-1] == 2, "1000 -> 125 -> 16 -> 2 -> 1"


@given(count=st.integers(1, 60), arity=st.integers(2, 7))
def test_a_tree_keeps_the_order_and_loses_nothing(count: int, arity: int) -> None:
    sizes: list[int] = []

    def join(state: dict[str, Any]) -> list[int]:
        sizes.append(len(state["items"]))
        return [number for item in state["items"] for number in (item if isinstance(item, list) else [item])]

    assert tree_reduce(range(count), merge=join, arity=arity, max_concurrency=1) == list(range(count))
    assert max(sizes) <= arity
    assert min(sizes[-1:]) >= min(count, 2)


@pytest.mark.parametrize("mode", MODES)
def test_a_tree_in_an_edge_sees_the_state_and_keeps_limits(mode: str) -> None:
    limits.forget("tree")
    gauge = Gauge()

    async def merge(state: dict[str, Any]) -> dict[str, str]:
        with gauge.inside():
            return {"summary": f"{state['question']}({' '.join(state['docs'])})"}

    reducer = tree_reduce(
        merge=merge,
        arity=2,
        input_key="docs",
        result="summary",
        max_concurrency=2,
        rate_limit=RateLimit("tree", rps=5000),
    )
    assert reduced(reducer, ["a", "b", "c"], mode) == "?(?(a b) ?(c))"
    assert gauge.most <= 2
    assert limits.stats()["tree"].admitted == gauge.total


@pytest.mark.parametrize("mode", MODES)
def test_a_dspy_module_merges(mode: str) -> None:
    reducer = tree_reduce(
        merge=dspy.Predict("docs: list[str] -> summary"), arity=3, input_key="docs", result="summary"
    )
    with (
        ModelServer(lambda call: {"summary": f"<{len(call.field('docs'))}>"}) as server,
        dspy.context(lm=server.lm()),
    ):
        assert reduced(reducer, list("abcdefg"), mode).startswith("<")
    assert len(server.calls) == 4, "seven values in three calls, and one for what came of them"


def test_trees_that_are_none() -> None:
    with pytest.raises(ReducerError, match=r"tree_reduce: arity=1; expected an integer >= 2"):
        tree_reduce(merge=sum, arity=1)
    with pytest.raises(ReducerError, match="no values to choose from"):
        tree_reduce([], merge=lambda state: None)
    values: Sequence[int] = [5]
    assert tree_reduce(values, merge=lambda state: -sum(state["items"])) == -5, "a single value is merged too"


async def test_a_cancelled_tree_calls_nothing_more() -> None:
    """Under asyncio the reducer blocks a thread, which knows of no cancellation; its edge does."""
    calls: list[int] = []
    begun, ended = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def merge(state: dict[str, Any]) -> int:
        calls.append(1)
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            loop.call_soon_threadsafe(ended.set)
        return 0

    edge = reduce_edge(
        input_key="xs", output_key="x", reducer=tree_reduce(merge=merge, arity=2, max_concurrency=1)
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(edge.ainvoke({"xs": list(range(64))}))
        assert await asyncio.to_thread(begun.wait, 10)
        task.cancel()
    assert task.cancelled()
    await asyncio.wait_for(ended.wait(), 10)
    assert calls == [1]


@pytest.mark.parametrize("mode", MODES)
def test_a_tree_inside_an_item_lends_its_slot(mode: str) -> None:
    reduce = reduce_edge(
        input_key="item",
        output_key="sum",
        reducer=tree_reduce(merge=lambda state: sum(state["items"]), arity=2),
    )
    edge = vmap(reduce, batch_key="rows", out_key="sums", result="sum", max_concurrency=1)
    assert run(edge, {"rows": [[1, 2, 3], [4], [5, 6]]}, mode)["sums"] == [6, 4, 11]
