"""Results that are not saved hold back new calls, however slow the checkpointer is."""

import asyncio
import threading
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from mahsm import Branch, parallel, vmap
from mahsm.edges._shared.saving import SAVER, saver_of
from mahsm.policies import Retry
from tests.helpers import MODES, BranchState, Gauge, graph_of, run, thread
from tests.watchdog import ended


class ModuleRef(InMemorySaver):
    """A checkpointer whose writes of tasks' results return when they are told to; it counts how many have
    begun."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.begun = 0

    def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        if any(channel == "done" and value for channel, value in writes):
            self.begun += 1
            assert self.go_on.wait(60)
        super().put_writes(config, writes, task_id, task_path)

    async def aput_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        if any(channel == "done" and value for channel, value in writes):
            self.begun += 1
            assert await asyncio.to_thread(self.go_on.wait, 60)
        super().put_writes(config, writes, task_id, task_path)


class Calls:
    """Counts calls; `still` is told when there have been none for a while."""

    def __init__(self) -> None:
        self.gauge = Gauge()
        self.tries: dict[int, int] = {}

    def __call__(self, state: dict[str, Any]) -> int:
        with self.gauge.inside():
            return state["item"] * 2

    async def later(self, state: dict[str, Any]) -> int:
        with self.gauge.inside():
            await asyncio.sleep(0)
            return state["item"] * 2

    def fails_first(self, state: dict[str, Any]) -> int:
        self.tries[state["item"]] = self.tries.get(state["item"], 0) + 1
        if self.tries[state["item"]] == 1:
            raise ConnectionError("once")
        return self(state)

    def until_still(self) -> int:
        """How many calls there are when no more come."""
        last, same = -1, 0
        while same < 20:
            threading.Event().wait(0.02)
            same = same + 1 if self.gauge.total == last > 0 else 0
            last = self.gauge.total
        return last


@pytest.mark.parametrize("durability", ["async", "sync"])
@pytest.mark.parametrize(("bound", "chunk_size"), [(4, 1), (4, 3), (2, 10), (3, None)])
@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_no_more_calls_than_the_formula_are_not_saved(
    mode: str, blocks: bool, bound: int, chunk_size: int | None, durability: Any
) -> None:
    saver, calls = ModuleRef(), Calls()
    target = calls if blocks else calls.later
    edge = vmap(target, batch_key="xs", out_key="ys", max_concurrency=bound, chunk_size=chunk_size)
    graph = graph_of(edge, checkpointer=saver)
    size = chunk_size or 3  # of 300 items, by 128 parts

    def go() -> Any:
        given = {"xs": list(range(300))}
        if mode == "sync":
            return graph.invoke(given, thread(), durability=durability)
        return asyncio.run(graph.ainvoke(given, thread(), durability=durability))

    def held() -> Any:
        threads = [threading.Thread(target=lambda: found.append(go()), daemon=True)]
        found: list[Any] = []
        threads[0].start()
        made = calls.until_still()
        saver.go_on.set()
        threads[0].join(60)
        return made, found[0]["ys"]

    made, ys = ended(held)
    assert size <= made <= bound + 2 * size
    assert ys == [x * 2 for x in range(300)]
    assert calls.gauge.total == 300


@pytest.mark.parametrize("mode", MODES)
def test_attempts_that_failed_do_not_count(mode: str) -> None:
    """Every item fails once; those that wait for their next attempt are no results that could be lost."""
    saver, calls = ModuleRef(), Calls()
    retry = Retry(base=0, share=None)
    edge = vmap(calls.fails_first, batch_key="xs", out_key="ys", max_concurrency=2, chunk_size=1, retry=retry)
    graph = graph_of(edge, checkpointer=saver)

    def held() -> Any:
        found: list[Any] = []
        worker = threading.Thread(
            target=lambda: found.append(run(graph, {"xs": list(range(60))}, mode, thread())), daemon=True
        )
        worker.start()
        made = calls.until_still()
        saver.go_on.set()
        worker.join(60)
        return made, found[0]["ys"]

    made, ys = ended(held)
    assert 1 <= made <= 4
    assert ys == [x * 2 for x in range(60)]


@pytest.mark.parametrize("mode", MODES)
def test_branches_are_held_back_too(mode: str) -> None:
    saver, calls = ModuleRef(), Calls()
    branches = [Branch(lambda _: calls({"item": 1}) and None, name=f"b{place}") for place in range(30)]
    graph = graph_of(parallel(branches, max_concurrency=2), state=BranchState, checkpointer=saver)

    def held() -> Any:
        worker = threading.Thread(target=lambda: run(graph, {"text": ""}, mode, thread()), daemon=True)
        worker.start()
        made = calls.until_still()
        saver.go_on.set()
        worker.join(60)
        return made

    assert 1 <= ended(held) <= 4
    assert calls.gauge.total == 30


@pytest.mark.parametrize("mode", MODES)
def test_a_checkpointer_that_fails_ends_the_run_with_its_error(mode: str) -> None:
    class Full(InMemorySaver):
        def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
            if any(channel == "done" and value for channel, value in writes):
                raise OSError("no space left")
            super().put_writes(config, writes, task_id, task_path)

        async def aput_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
            self.put_writes(config, writes, task_id, task_path)

    calls = Calls()
    graph = graph_of(vmap(calls, batch_key="xs", out_key="ys", max_concurrency=2), checkpointer=Full())
    with pytest.raises(OSError, match="no space left"):
        ended(lambda: run(graph, {"xs": list(range(1000))}, mode, thread()))
    assert calls.gauge.total < 100, "no more is paid for what cannot be kept"


class FailsInside(InMemorySaver):
    """A checkpointer whose first write of what an edge inside of another one has done fails."""

    failed = False

    def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        is_inside = "|" in config["configurable"]["checkpoint_ns"]
        if is_inside and not self.failed and any(channel == "done" and value for channel, value in writes):
            self.failed = True
            raise OSError("no space left")
        super().put_writes(config, writes, task_id, task_path)

    async def aput_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        self.put_writes(config, writes, task_id, task_path)


@pytest.mark.parametrize("kind", ["collect", "drop", "isolate", "retry"])
@pytest.mark.parametrize("mode", MODES)
def test_a_checkpointer_that_fails_inside_is_nobodys_failed_item(mode: str, kind: Any) -> None:
    saver = FailsInside()
    inner = vmap(lambda state: state["item"] * 2, batch_key="xs", out_key="ys", name="inner")
    if kind == "isolate":
        edge = parallel([Branch(inner, name="doubled")], on_error="isolate", name="outer")
    else:
        retry = Retry(attempts=3, base=0.001) if kind == "retry" else None
        edge = vmap(
            inner,
            sample=2,
            out_key="rows",
            result="ys",
            chunk_size=1,
            on_error="raise" if retry else kind,
            retry=retry,
        )
    graph, config = edge.compile(checkpointer=saver), thread()
    with pytest.raises(OSError, match="no space left"):
        ended(lambda: run(graph, {"xs": [1, 2]}, mode, config))
    assert saver.failed
    state = ended(lambda: run(graph, None, mode, config))
    assert state["ys"] == [2, 4] if kind == "isolate" else state["rows"] == [[2, 4], [2, 4]]


def test_with_exit_durability_nothing_is_held_back() -> None:
    saver, calls = InMemorySaver(), Calls()
    graph = graph_of(vmap(calls, batch_key="xs", out_key="ys", max_concurrency=2), checkpointer=saver)
    assert graph.invoke({"xs": list(range(300))}, thread(), durability="exit")["ys"] == [
        x * 2 for x in range(300)
    ]


def test_langgraph_keeps_the_checkpointer_where_it_is_looked_for() -> None:
    """Else results would not hold back calls: the name is LangGraph's own, and may change."""
    found: list[Any] = []
    saver = InMemorySaver()

    def target(state: Any, config: Any) -> int:
        found.append((config["configurable"].get(SAVER), saver_of(config)))
        return 1

    graph_of(vmap(target, batch_key="xs", out_key="ys", chunk_size=1), checkpointer=saver).invoke(
        {"xs": [1]}, thread()
    )
    assert found == [(saver, saver)], "and what an item calls gets the user's own"


@pytest.mark.parametrize("mode", MODES)
def test_what_items_of_a_shared_task_call_gets_no_checkpointer(mode: str) -> None:
    found: list[Any] = []

    def target(state: Any, config: Any) -> int:
        found.append(config["configurable"].get(SAVER))
        return 1

    graph = graph_of(vmap(target, batch_key="xs", out_key="ys", chunk_size=2), checkpointer=InMemorySaver())
    run(graph, {"xs": [1, 2]}, mode, thread())
    assert found == [None, None]
