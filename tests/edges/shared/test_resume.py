"""A run that broke off is resumed with other settings, another batch, or other code: it goes on, or says what
differs."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels import Topic
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from mahsm import vmap
from mahsm.errors import EdgeError
from mahsm.reducers import majority_vote
from tests.helpers import MODES, graph_of, run, thread


class Work:
    """Doubles items; item 20 fails until the work is repaired."""

    def __init__(self, fails: int = 20) -> None:
        self.calls: Counter[int] = Counter()
        self.fails = fails
        self.is_broken = True

    def __call__(self, state: dict[str, Any]) -> int:
        self.calls[state["item"]] += 1
        if self.is_broken and state["item"] == self.fails:
            raise ConnectionError("down")
        return state["item"] * 2

    def target(self, mode: str) -> Any:
        async def work(state: dict[str, Any]) -> int:  # without a pause: none is cancelled in the middle
            return self(state)

        return work if mode == "async" else self


def edge_of(target: Any, **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", "name": "edge", **options})


def broken_off(edge: Any, xs: Any, mode: str) -> InMemorySaver:
    """A run that an error has ended, and the checkpointer that it is to be resumed with."""
    saver = InMemorySaver()
    with pytest.raises(ConnectionError, match="down"):
        run(graph_of(edge, checkpointer=saver), {"xs": xs}, mode, thread())
    return saver


def resumed(edge: Any, saver: InMemorySaver, mode: str) -> Any:
    return run(graph_of(edge, checkpointer=saver), None, mode, thread())["ys"]


@pytest.mark.parametrize(
    ("size", "before", "after"),
    [
        (600, (8, 1), (16, 1)),
        (600, (8, 1), (8, None)),
        (600, (8, 1), (8, 4)),
        (600, (8, 4), (8, 1)),
        (600, (32, 1), (8, 1)),
        (600, (8, None), (8, 1)),
        (600, (2, 7), (16, 3)),
        (1500, (8, None), (8, 3)),
        (100, (8, None), (1, 50)),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_other_bounds_and_chunks(
    size: int, before: tuple[int, Any], after: tuple[int, Any], mode: str
) -> None:
    work = Work()
    target = work.target(mode)
    saver = broken_off(
        edge_of(target, max_concurrency=before[0], chunk_size=before[1]), list(range(size)), mode
    )
    work.is_broken = False
    ys = resumed(edge_of(target, max_concurrency=after[0], chunk_size=after[1]), saver, mode)
    assert ys == [x * 2 for x in range(size)]
    assert [x for x, count in work.calls.items() if count > 1] == [20], (
        "nothing that had finished was called again"
    )


@pytest.mark.parametrize("chunk_size", [1, 4, None])
@pytest.mark.parametrize(
    ("before", "after"),
    [(None, lambda x: x % 7), (lambda x: x % 7, None), (lambda x: x % 7, lambda x: x % 5)],
    ids=["added", "removed", "changed"],
)
def test_another_dedupe_key_goes_on_or_says_that_items_would_be_lost(
    before: Any, after: Any, chunk_size: Any
) -> None:
    work = Work(fails=3)
    edge = edge_of(work, dedupe_key=before, chunk_size=chunk_size, max_concurrency=2)
    saver = broken_off(edge, list(range(40)), "sync")
    finished = {x for x in work.calls if x != 3}
    work.is_broken = False
    try:
        ys = resumed(edge_of(work, dedupe_key=after, chunk_size=chunk_size), saver, "sync")
    except EdgeError as error:
        assert "have no outcome. Was the run begun with another target or dedupe_key?" in str(error)  # noqa: PT017
        assert before is not None
        assert chunk_size != 4, "only what was a task of its own is bound to be run as it is"
        ys = resumed(edge, saver, "sync")
        assert [y // 2 % 7 for y in ys] == [x % 7 for x in range(40)], "nothing was lost meanwhile"
    else:
        key: Callable[[int], int] = after or (lambda x: x)
        assert [key(y // 2) for y in ys] == [key(x) for x in range(40)]
    assert all(work.calls[x] == 1 for x in finished)


@pytest.mark.parametrize("mode", MODES)
def test_more_samples_are_refused(mode: str) -> None:
    work = Work(fails=3)
    saver = broken_off(vmap(work, sample=10, out_key="ys", name="edge"), [], mode)
    work.is_broken = False
    more = vmap(work, sample=20, out_key="ys", name="edge")
    with pytest.raises(
        EdgeError, match=r"edge: this run began with a batch of 10 items, and now it has 20\. Resume it with"
    ):
        resumed(more, saver, mode)
    again = vmap(work, sample=10, out_key="ys", name="edge")
    assert resumed(again, saver, mode) == [x * 2 for x in range(10)], "nothing was lost meanwhile"


@pytest.mark.parametrize("chunk_size", [1, None])
@pytest.mark.parametrize("mode", MODES)
def test_another_batch_is_refused(mode: str, chunk_size: Any) -> None:
    """As when the items come from a set, whose order is another one in each process."""
    work = Work(fails=3)
    rows = [list(range(300))]
    inner = vmap(work, batch_key="row", out_key="ys", name="inner", chunk_size=chunk_size)
    outer = edge_of(inner, item_to_state=lambda _: {"row": rows[0]}, result="ys")
    saver = broken_off(outer, [0], mode)
    work.is_broken = False
    rows[0] = rows[0][::-1]
    with pytest.raises(
        EdgeError, match=r"inner: this run began with a batch of other items: 300 then and now"
    ):
        resumed(outer, saver, mode)
    rows[0] = rows[0][::-1]
    assert resumed(outer, saver, mode) == [[x * 2 for x in range(300)]]


@pytest.mark.parametrize("mode", MODES)
def test_items_that_a_checkpoint_changes_are_still_the_same(mode: str) -> None:
    """Tuples come back as lists, and other objects may come back as anything."""

    class Opaque:
        pass

    work = Work(fails=3)
    made: list[Any] = []

    def rows(item: Any) -> dict[str, Any]:
        made.append(tuple if not made else list)
        return {"row": [{"at": made[-1]([x, None, 1.5]), "what": Opaque(), "item": x} for x in range(20)]}

    def number(state: dict[str, Any]) -> int:
        return work({"item": state["item"]["item"]})

    inner = vmap(number, batch_key="row", out_key="ys", name="inner")
    outer = edge_of(inner, item_to_state=rows, result="ys")
    saver = broken_off(outer, [0], mode)
    work.is_broken = False
    assert resumed(outer, saver, mode) == [[x * 2 for x in range(20)]]


@pytest.mark.parametrize("chunk_size", [1, 4, None])
@pytest.mark.parametrize("mode", MODES)
def test_a_target_that_has_another_name_now_is_refused(mode: str, chunk_size: Any) -> None:
    """LangGraph drops the tasks of a node that there is not any more."""
    work = Work(fails=3)

    def renamed(state: dict[str, Any]) -> int:
        return work(state)

    target = work.target(mode)
    saver = broken_off(edge_of(target, chunk_size=chunk_size, max_concurrency=1), list(range(200)), mode)
    work.is_broken = False
    with pytest.raises(
        EdgeError, match=r"edge: of 200 items, \d+ have no outcome. Was the run begun with another target"
    ):
        resumed(edge_of(renamed, chunk_size=chunk_size), saver, mode)
    assert resumed(edge_of(target, chunk_size=chunk_size), saver, mode) == [x * 2 for x in range(200)]
    assert [x for x, count in work.calls.items() if count > 1] == [3], "nothing was lost meanwhile"


class Ranges(TypedDict):
    done: Annotated[list[Any], Topic(list, accumulate=True)]


def begun_by_0_7(saver: InMemorySaver) -> None:
    """A run whose tasks are ranges, and whose third one fails."""

    def work(span: Any) -> Any:
        lo, hi = span
        if lo == 4:
            raise ConnectionError("down")
        return {
            "done": [
                {"lo": lo, "values": [x * 2 for x in range(lo, hi)], "errors": [], "ranks": [1] * (hi - lo)}
            ]
        }

    inner = StateGraph(Ranges)
    inner.add_node("work", work)
    inner.add_conditional_edges(
        START, lambda _: [Send("work", (lo, lo + 2)) for lo in range(0, 8, 2)], ["work"]
    )
    compiled = inner.compile(name="edge")

    class State(TypedDict, total=False):
        xs: Any
        ys: Any

    def edge(state: Any) -> Any:
        return {"ys": compiled.invoke({})}

    builder = StateGraph(State)
    builder.add_node("edge", edge)
    builder.add_edge(START, "edge")
    builder.add_edge("edge", END)
    with pytest.raises(ConnectionError):
        builder.compile(checkpointer=saver).invoke({"xs": list(range(8))}, thread())


@pytest.mark.parametrize("chunk_size", [1, None, 3])
def test_what_another_version_has_begun_is_refused(chunk_size: Any) -> None:
    saver = InMemorySaver()
    begun_by_0_7(saver)

    def work(state: dict[str, Any]) -> int:
        return state["item"] * 2

    with pytest.raises(
        EdgeError, match=r"edge: the saved results of this run were written by another version of mahsm"
    ):
        resumed(edge_of(work, chunk_size=chunk_size), saver, "sync")


@pytest.mark.parametrize("chunk_size", [1, 4])
@pytest.mark.parametrize("mode", MODES)
def test_a_decision_counts_what_was_saved_before(mode: str, chunk_size: int) -> None:
    work = Work(fails=9)

    def vote(state: dict[str, Any]) -> str:
        work(state)
        return "yes"

    options: dict[str, Any] = {
        "stop_when": majority_vote,
        "max_concurrency": 1,
        "chunk_size": chunk_size,
        "result": None,
    }
    saver = broken_off(edge_of(vote, **options), list(range(21)), mode)
    work.is_broken = False
    ys = resumed(edge_of(vote, **options), saver, mode)
    assert set(ys) == {"yes"}
    assert 11 <= len(ys) <= 21
    assert sum(work.calls.values()) <= 22
    if chunk_size > 1:
        assert len(ys) == 11, "eleven of twenty-one cannot be overtaken"


# Items of a shared task, and graphs that LangGraph does not see.


class Steps(TypedDict):
    x: int
    a: str
    b: str


class Agent:
    """Holds a graph of two nodes, where LangGraph does not look for it."""

    def __init__(self) -> None:
        self.is_broken = True
        builder = StateGraph(Steps)
        builder.add_node("first", self.first)
        builder.add_node("second", self.second)
        builder.add_edge(START, "first")
        builder.add_edge("first", "second")
        builder.add_edge("second", END)
        self.graphs = {"one": builder.compile()}

    def first(self, state: Steps) -> dict[str, str]:
        return {"a": f"a{state['x']}"}

    def second(self, state: Steps) -> dict[str, str]:
        if state["x"] == 13 and self.is_broken:
            raise ConnectionError("down")
        return {"b": f"{state['a']} b{state['x']}"}

    def run(self, state: dict[str, Any]) -> str:
        time.sleep(random.random() * 0.004)
        return self.graphs["one"].invoke({"x": state["item"]})["b"]

    async def run_async(self, state: dict[str, Any]) -> str:
        await asyncio.sleep(random.random() * 0.004)
        return (await self.graphs["one"].ainvoke({"x": state["item"]}))["b"]


@pytest.mark.parametrize("durability", ["async", "sync"])
@pytest.mark.parametrize("mode", MODES)
def test_items_that_share_a_task_do_not_share_the_state_of_graphs_inside(mode: str, durability: Any) -> None:
    agent = Agent()
    graph = graph_of(
        edge_of(agent.run if mode == "sync" else agent.run_async, chunk_size=16), checkpointer=InMemorySaver()
    )

    def go(state: Any) -> Any:
        if mode == "sync":
            return graph.invoke(state, thread(), durability=durability)
        return asyncio.run(graph.ainvoke(state, thread(), durability=durability))

    for _ in range(2):
        with pytest.raises(ConnectionError):
            go({"xs": list(range(64))})
    agent.is_broken = False
    assert go(None)["ys"] == [f"a{x} b{x}" for x in range(64)]
