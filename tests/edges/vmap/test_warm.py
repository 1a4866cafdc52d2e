"""`warm`: the first items of each key run before the others, which begin when a model has answered."""

import asyncio
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from mahsm import Budget, RateLimit, Retry, is_item_error, jit_edge, limits, vmap
from mahsm._waiting import tasks
from mahsm.data import sinks, stream
from mahsm.errors import EdgeError, StateError
from mahsm.policies import Hedge
from mahsm.testing import ModelServer
from tests.helpers import MODES, chat_model, graph_of, run, run_edge, thread


def edge_of(target: Any, **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", "name": "edge", "warm": 1, **options})


class FirstAlone:
    """Answers of a server: the first call is answered before others come, and these are there together.

    Args:
        others: The number of other calls.
        answer: The answer.
    """

    def __init__(self, others: int, answer: Any = None) -> None:
        self.answer = answer or {"answer": "yes"}
        self.lock, self.together = threading.Lock(), threading.Barrier(others)
        self.is_begun = self.is_answered = False

    def __call__(self, call: Any) -> Any:
        with self.lock:
            first, self.is_begun = not self.is_begun, True
        if first:
            time.sleep(0.05)  # in which others could come too early
            self.is_answered = True
        else:
            assert self.is_answered, "it did not wait"
            self.together.wait(30)
        return self.answer


class Work:
    """Calls a model, and counts the items that began while no model had answered one of their key.

    Args:
        fails: Items that fail before a model answers.
        keys: The number of keys.
    """

    def __init__(self, fails: set[int] = frozenset(), keys: int = 1) -> None:  # type: ignore[assignment]
        self.fails, self.keys = set(fails), keys
        self.lock = threading.Lock()
        self.answered: set[int] = set()
        self.now: Counter[int] = Counter()
        self.most_before: Counter[int] = Counter()
        self.called: list[int] = []
        self.pause = 0.0

    def key(self, item: int) -> int:
        return item % self.keys

    def begin(self, item: int) -> int:
        key = self.key(item)
        with self.lock:
            self.called.append(item)
            if key not in self.answered:
                self.now[key] += 1
                self.most_before[key] = max(self.most_before[key], self.now[key])
        return key

    def end(self, item: int, key: int) -> int:
        with self.lock:
            self.now[key] -= 1
            if item in self.fails:
                raise ValueError(item)
            self.answered.add(key)
        limits.report(input_tokens=10, output_tokens=1)
        return item * 2

    def blocking(self, state: dict[str, Any]) -> int:
        item = state["item"]
        key = self.begin(item)
        time.sleep(self.pause)
        return self.end(item, key)

    async def waiting(self, state: dict[str, Any]) -> int:
        item = state["item"]
        key = self.begin(item)
        for _ in range(item % 4):
            await asyncio.sleep(self.pause)
        return self.end(item, key)


batches = st.fixed_dictionaries(
    {
        "size": st.integers(0, 40) | st.sampled_from([129, 300]),
        "bound": st.integers(1, 8),
        "warm": st.integers(1, 3),
        "keys": st.integers(1, 5),
        "chunk_size": st.none() | st.integers(1, 20),
        "mode": st.sampled_from(MODES),
        "blocks": st.booleans(),
        "saved": st.booleans(),
        "fails": st.sets(st.integers(0, 299), max_size=12),
    }
)


@settings(max_examples=80, deadline=None)
@given(batch=batches)
def test_results_are_those_of_a_loop_and_few_begin_before_the_first_answer(batch: dict[str, Any]) -> None:
    work = Work(batch["fails"], batch["keys"])
    edge = edge_of(
        work.blocking if batch["blocks"] else work.waiting,
        max_concurrency=batch["bound"],
        chunk_size=batch["chunk_size"],
        warm=batch["warm"],
        warm_key=work.key,
        on_error="collect",
    )
    saver, config = (InMemorySaver(), thread()) if batch["saved"] else (None, None)
    graph = graph_of(edge, checkpointer=saver)
    ys = run(graph, {"xs": list(range(batch["size"]))}, batch["mode"], config)["ys"]
    found = [y["index"] if is_item_error(y) else y for y in ys]
    assert found == [item if item in work.fails else item * 2 for item in range(batch["size"])]
    assert sorted(work.called) == list(range(batch["size"])), "each is called once"
    assert all(most <= batch["warm"] for most in work.most_before.values())


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_the_first_runs_alone_and_then_all(mode: str, blocks: bool, chunk_size: int | None) -> None:
    question = dspy.Predict("item -> answer")

    async def ask(state: dict[str, Any]) -> Any:
        return await question.acall(item=state["item"])

    edge = edge_of(question if blocks else ask, max_concurrency=8, chunk_size=chunk_size)
    with ModelServer(FirstAlone(8)) as server, dspy.context(lm=server.lm()):
        assert len(run_edge(edge, [f"{n}?" for n in range(9)], mode)) == 9


def test_langchain_models_are_heard() -> None:
    with ModelServer(FirstAlone(2, "yes")) as server:
        model = chat_model(server.base_url)
        edge = edge_of(lambda state: model.invoke(state["item"]).content)
        assert edge.invoke({"xs": ["a?", "b?", "c?"]})["ys"] == ["yes"] * 3


def test_the_others_begin_at_the_first_answer_and_not_at_the_end_of_the_item() -> None:
    begun = threading.Event()

    def target(state: dict[str, Any]) -> bool:
        if state["item"] > 0:
            begun.set()
            return True
        limits.report(input_tokens=1, output_tokens=1)
        return begun.wait(30)

    assert edge_of(target).invoke({"xs": [0, 1]})["ys"] == [True, True]


@pytest.mark.parametrize("mode", MODES)
def test_each_key_has_a_first_item_of_its_own(mode: str) -> None:
    together = threading.Barrier(2)

    def target(state: dict[str, Any]) -> str:
        if state["item"].endswith("1"):
            together.wait(30)  # both keys warm at the same time
        limits.report(input_tokens=1, output_tokens=1)
        return state["item"]

    xs = ["a1", "a2", "a3", "b1", "b2"]
    assert run_edge(edge_of(target, warm_key=lambda item: item[0], max_concurrency=2), xs, mode) == xs


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("mode", MODES)
def test_a_failed_item_is_followed_by_the_next_one(mode: str, chunk_size: int | None) -> None:
    work = Work({0, 1, 2})
    edge = edge_of(work.blocking, on_error="drop", chunk_size=chunk_size)
    assert run_edge(edge, range(6), mode) == [6, 8, 10]
    assert work.most_before[0] == 1
    if mode == "async":  # blocking items begin in the order in which their threads do
        assert work.called[:4] == [0, 1, 2, 3]


def test_all_may_fail() -> None:
    work = Work(set(range(50)))
    assert run_edge(edge_of(work.waiting, on_error="drop"), range(50), "async") == []
    assert work.most_before[0] == 1


def test_an_item_that_is_tried_again_keeps_its_turn() -> None:
    tried: list[int] = []

    def target(state: dict[str, Any]) -> int:
        tried.append(state["item"])
        if len(tried) < 3:
            raise ConnectionError
        limits.report(input_tokens=1, output_tokens=1)
        return state["item"]

    edge = edge_of(target, retry=Retry(attempts=3, base=0.0))
    assert edge.invoke({"xs": [0, 1, 2]})["ys"] == [0, 1, 2]
    assert tried[:3] == [0, 0, 0]


def test_without_calls_of_models_the_others_begin_at_the_end_of_the_first() -> None:
    called: list[int] = []

    async def target(state: dict[str, Any]) -> int:
        called.append(state["item"])
        if state["item"] == 0:
            await asyncio.sleep(0)
            assert called == [0]
        return state["item"]

    assert run_edge(edge_of(target), range(20), "async") == list(range(20))


def test_answers_from_the_cache_of_the_client_warm_nothing() -> None:
    edge, name = edge_of(dspy.Predict("item -> answer"), max_concurrency=8), uuid4()
    questions = [f"{name} {number}" for number in range(5)]
    with ModelServer({"answer": "yes"}) as server, dspy.context(lm=server.lm(cache=True)):
        edge.invoke({"xs": questions[:2]})
    with ModelServer(FirstAlone(2)) as server, dspy.context(lm=server.lm(cache=True)):
        edge.invoke({"xs": questions})
    assert len(server.calls) == 3


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_run_warms_with_its_first_open_item(mode: str, chunk_size: int | None) -> None:
    work = Work({5})
    edge = edge_of(work.blocking, max_concurrency=1, chunk_size=chunk_size)
    graph = graph_of(edge, checkpointer=InMemorySaver())
    with pytest.raises(ValueError, match="5"):
        run(graph, {"xs": list(range(12))}, mode, thread())
    done, again = set(work.called) - {5}, Work()
    work.__dict__.update({**again.__dict__, "called": []})
    assert run(graph, None, mode, thread())["ys"] == [2 * item for item in range(12)]
    assert not done & set(work.called)
    assert work.most_before[0] == 1


def test_an_item_may_ask_before_it_calls_a_model() -> None:
    def target(state: dict[str, Any]) -> str:
        answer = interrupt(state["item"])
        limits.report(input_tokens=1, output_tokens=1)
        return f"{state['item']} {answer}"

    graph = graph_of(edge_of(target, chunk_size=1), checkpointer=InMemorySaver())
    asked = graph.invoke({"xs": ["a", "b", "c"]}, thread())["__interrupt__"]
    assert sorted(one.value for one in asked) == ["a", "b", "c"]
    answers = {one.id: "yes" for one in asked}
    assert graph.invoke(Command(resume=answers), thread())["ys"] == ["a yes", "b yes", "c yes"]


@pytest.mark.parametrize("mode", MODES)
def test_edges_inside_do_not_wait_for_ever(mode: str) -> None:
    work = Work()
    inner = edge_of(work.waiting, batch_key="row", max_concurrency=1, name="inner")
    outer = edge_of(inner, item_to_state=lambda row: {"row": row}, result="ys", max_concurrency=1)
    assert run_edge(outer, [[0, 1], [2], [], [3, 4]], mode) == [[0, 2], [4], [], [6, 8]]
    assert work.most_before[0] == 1


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("mode", MODES)
def test_a_deadline_ends_the_wait(mode: str, chunk_size: int | None) -> None:
    async def target(state: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    edge = edge_of(target, deadline=0.05, on_error="collect", chunk_size=chunk_size)
    assert [y["type"] for y in run_edge(edge, range(5), mode)] == ["TimeoutError"] * 5


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("mode", MODES)
def test_an_error_ends_the_wait(mode: str, chunk_size: int | None) -> None:
    work = Work({0})
    with pytest.raises(ValueError, match="0"):
        run_edge(edge_of(work.waiting, chunk_size=chunk_size), range(40), mode)
    assert len(work.called) <= 2


def test_stop_when_ends_the_wait() -> None:
    ys = edge_of(lambda state: state["item"], stop_when=lambda entries: True).invoke({"xs": [7] * 30})["ys"]
    assert ys == [7]


def test_a_cancelled_run_ends_the_wait() -> None:
    begun = asyncio.Event()

    async def target(state: dict[str, Any]) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def main() -> None:
        async with tasks.task_group() as group:
            group.create_task(edge_of(target).ainvoke({"xs": [1, 2, 3]}))
            await begun.wait()
            raise ConnectionError  # cancels the run

    with pytest.raises(ConnectionError):
        asyncio.run(main())


@pytest.mark.parametrize("mode", MODES)
def test_streams_with_a_sink(mode: str, tmp_path: Path) -> None:
    work, rows = Work(keys=2), stream(lambda: iter(range(40)))
    edge = edge_of(work.waiting, warm_key=work.key, sink=sinks.Jsonl(tmp_path / "out"), chunk_size=4)
    assert run(edge, {"xs": rows}, mode)["ys"]["rows"] == 40
    assert max(work.most_before.values()) == 1


def test_samples_share_a_prompt() -> None:
    edge = edge_of(dspy.Predict("question -> answer"), batch_key=None, sample=5, result="answer")
    with ModelServer(FirstAlone(4)) as server, dspy.context(lm=server.lm()):
        assert edge.invoke({"question": "?"})["ys"] == ["yes"] * 5


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "options",
    [
        {"rate_limit": RateLimit("warm-test", rps=10_000, burst=100)},
        {"retry": Retry(base=0.0), "adaptive": True},
        {"timeout": 30.0},
        {"deadline": 30.0},
        {"hedge": Hedge()},
        {"budget": Budget(calls=100)},
        {"dedupe_key": lambda item: item},
        {"cache": InMemoryCache()},
        {"preserve_order": False},
        {"progress": "items"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_other_options_hold_as_well(options: dict[str, Any], mode: str, chunk_size: int | None) -> None:
    work, name = Work(), f"{mode} {chunk_size}"
    edge = edge_of(work.waiting, name=name, chunk_size=chunk_size, max_concurrency=4, **options)
    assert sorted(run_edge(edge, range(20), mode)) == [2 * item for item in range(20)]
    assert work.most_before[0] == 1


def test_a_key_that_is_not_hashable() -> None:
    edge = edge_of(lambda state: 1, warm_key=lambda item: [item])
    with pytest.raises(StateError, match=r"warm_key returned .* for item 0, which is not hashable"):
        edge.invoke({"xs": [1, 2]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warm": -1}, "warm=-1; expected the number of items .*Pass warm=1"),
        ({"warm": True}, "warm=True; expected the number"),
        ({"warm": 1.0}, "warm=1.0; expected the number"),
        ({"warm": 1, "warm_key": "model"}, "warm_key='model' cannot be called"),
        ({"warm": 0, "warm_key": len}, "warm_key=.* has no effect with warm=0"),
        ({"warm": 1, "executor": "process"}, "warm=1 with executor="),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        edge_of(Work().blocking, **options)


def test_numeric_items_are_not_called_one_by_one() -> None:
    numeric = jit_edge(lambda x: x * 2, in_keys=["item"], out_key="y")
    with pytest.raises(EdgeError, match="warm=1 has no effect"):
        edge_of(numeric)
