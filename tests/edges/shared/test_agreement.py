"""`usage()`, budgets and progress events say the same of calls and tokens: what the models themselves have
counted."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage

import mahsm
from mahsm import Budget, RateLimit, Retry, budget, limits, vmap
from mahsm._waiting.slots import Closed
from mahsm.errors import BudgetExceeded
from mahsm.policies import Hedge
from mahsm.testing import Call, FakeLM, ModelServer, Reply
from tests.helpers import MODES, chat_model, graph_of, run, run_edge

_numbers = itertools.count()
_process = uuid4().hex  # DSPy's cache is kept on disk


@dataclass
class Case:
    """One draw: what is called, what goes wrong, and how it ends."""

    kinds: tuple[str, ...]
    items: list[int]
    mode: str
    blocks: bool
    fails: int
    status: int
    attempts: int
    cached: bool
    deduped: bool
    hedged: bool
    limited: bool
    end: str
    at: int
    number: int = field(default_factory=lambda: next(_numbers))


cases = st.builds(
    Case,
    kinds=st.lists(st.sampled_from(["predict", "fake", "chat", "report"]), min_size=1, max_size=2).map(tuple),
    items=st.lists(st.integers(0, 7), min_size=1, max_size=12),
    mode=st.sampled_from(MODES),
    blocks=st.booleans(),
    fails=st.integers(0, 2),
    status=st.sampled_from([400, 429, 503]),
    attempts=st.integers(1, 3),
    cached=st.booleans(),
    deduped=st.booleans(),
    hedged=st.booleans(),
    limited=st.booleans(),
    end=st.sampled_from(["all", "all", "raise", "stop", "spent", "cancel"]),
    at=st.integers(1, 8),
)


def answer_of(case: Case) -> Callable[[Call], Any]:
    def answer(call: Call) -> Reply:
        if call.repeats < case.fails:
            return Reply.failed(case.status)
        return Reply(
            {"answer": "x"},
            usage=(len(call.text) % 7 + 1, 2),
            latency=0.02 if call.text.endswith("7") else 0.0,
        )

    return answer


class Models:
    """What the items of a case call, and what that says that it was asked."""

    def __init__(self, case: Case, server: ModelServer) -> None:
        self.case = case
        self.server = server
        self.fake = FakeLM(answer_of(case), cache=case.cached)
        self.lm = server.lm(cache=case.cached)
        self.chat = chat_model(server.base_url, cache=InMemoryCache() if case.cached else None)
        self.ask = dspy.Predict("question -> answer")
        self.reports = 0
        self.bare = 0
        """Attempts that called nothing: budgets count these as calls."""
        self.cut_short = 0
        """Attempts that were cancelled before their first call had ended: perhaps before it had begun."""
        self.lock = threading.Lock()
        self.begun = itertools.count(1)
        self.cancel: Callable[[], object] = lambda: None

    def question(self, kind: str, item: int) -> str:
        return f"{_process} run {self.case.number} {kind} {item}"

    def begins(self) -> None:
        if self.case.end == "cancel" and next(self.begun) == self.case.at:
            self.cancel()

    def reported(self) -> None:
        with self.lock:
            self.reports += 1
        limits.report(input_tokens=5, output_tokens=1)

    def call(self, state: dict[str, Any]) -> int:
        with self.counted() as count:
            self.begins()
            for kind in self.case.kinds:
                question = self.question(kind, state["item"])
                if kind == "report":
                    self.reported()
                elif kind == "chat":
                    self.chat.invoke(question)
                else:
                    self.ask(question=question, lm=self.lm if kind == "predict" else self.fake)
                count.called = True
        return state["item"]

    async def call_async(self, state: dict[str, Any]) -> int:
        with self.counted() as count:
            self.begins()
            for kind in self.case.kinds:
                question = self.question(kind, state["item"])
                if kind == "report":
                    self.reported()
                elif kind == "chat":
                    await self.chat.ainvoke(question)
                else:
                    await self.ask.acall(question=question, lm=self.lm if kind == "predict" else self.fake)
                count.called = True
        return state["item"]

    def counted(self) -> "Bare":
        return Bare(self)

    @property
    def asked(self) -> list[Call]:
        """What the models were asked in this case."""
        mine = f"run {self.case.number} "
        return [call for call in [*self.server.calls, *self.fake.calls] if mine in call.text]

    @property
    def answered(self) -> int:
        """Tokens of the answers that they gave."""
        return sum(len(call.text) % 7 + 3 for call in self.asked if call.status == 200) + 6 * self.reports


class Bare:
    """Sees whether an attempt was refused its first call."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.called = False

    def __enter__(self) -> "Bare":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self.called:
            return
        with self.models.lock:
            self.models.bare += isinstance(error, Closed)
            self.models.cut_short += isinstance(error, asyncio.CancelledError)


def edge_of(case: Case, models: Models) -> Any:
    return vmap(
        models.call if case.blocks else models.call_async,
        batch_key="xs",
        out_key="ys",
        name="edge",
        max_concurrency=3,
        retry=Retry(
            base=0, attempts=case.attempts, share=None, on=lambda error: not isinstance(error, BudgetExceeded)
        ),
        on_error="raise" if case.end == "raise" else "collect",
        dedupe_key=(lambda item: item) if case.deduped else None,
        hedge=Hedge(percentile=0.5, after=1) if case.hedged else None,
        rate_limit=RateLimit("agreement", rps=10_000, burst=1000, tpm=1e9, tokens=1)
        if case.limited
        else None,
        stop_when=(lambda entries: len(entries) >= case.at) if case.end == "stop" else None,
        budget=Budget(calls=case.at) if case.end == "spent" else None,
    )


def streamed(case: Case, models: Models) -> list[Any]:
    """Run the case; the events of its edge, if it ended by itself."""
    graph, batch, events = graph_of(edge_of(case, models)), {"xs": case.items}, list[Any]()

    def collect() -> None:
        for event in graph.stream(batch, stream_mode="custom"):
            events.append(event)

    async def consume() -> None:
        async for event in graph.astream(batch, stream_mode="custom"):
            events.append(event)

    async def collect_async() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(consume())
        models.cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    try:
        if case.mode == "sync":
            collect()
        else:
            asyncio.run(collect_async())
    except Exception:  # noqa: BLE001  of a case that ends with an error
        return []
    return events


def settle(models: Models) -> None:
    """Wait until nothing that the case has begun runs any more."""
    until = time.monotonic() + 30
    while models.server.answering or any(
        thread.name.startswith("mahsm-item") for thread in threading.enumerate()
    ):
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A server that answers each case as that says."""
    with ModelServer(lambda call: answers[0](call)) as server:
        yield server


answers: list[Any] = [None]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(case=cases)
def test_all_who_count_count_the_same(server: ModelServer, case: Case) -> None:
    answers[0] = answer_of(case)
    models = Models(case, server)
    with mahsm.usage() as used, budget(calls=10**6, tokens=10**9) as spent:
        events = streamed(case, models)
    settle(models)

    cancels = case.end in ("cancel", "stop", "raise") or case.hedged
    if cancels and (case.hedged or case.blocks != (case.mode == "sync")):
        models.bare = max(models.bare, spent.calls - used.calls)  # called off on its way to another thread
    models.bare += max(0, min(models.cut_short, spent.calls - used.calls - models.bare))
    figures = (used.calls, used.cached, used.input_tokens, used.output_tokens)
    assert (spent.calls - models.bare, spent.cached, spent.input_tokens, spent.output_tokens) == figures
    (edge,) = used.runs
    assert (edge.usage.calls, edge.usage.cached, edge.usage.input_tokens, edge.usage.output_tokens) == figures
    assert sum(one.tokens for one in used.by_model.values()) == used.tokens
    assert sum(one.calls for one in used.by_node.values()) == used.calls

    asked = len(models.asked) + models.reports
    if cancels:  # what was cancelled may not have reached the model, or its answer not us
        assert used.calls >= asked
        assert used.tokens <= models.answered
    else:
        assert used.calls == asked
        assert used.tokens == models.answered
        assert used.failed == sum(call.status != 200 for call in models.asked)
    if events and not cancels:
        assert (events[-1]["done"], events[-1]["tokens"]) == (events[-1]["total"], used.tokens)
    elif events:
        assert events[-1]["tokens"] <= used.tokens


# What was counted otherwise by some.


@pytest.mark.parametrize("mode", MODES)
def test_reports_are_calls_for_everybody(mode: str) -> None:
    def target(state: dict[str, Any]) -> int:
        for _ in range(state["item"]):
            limits.report(input_tokens=90, output_tokens=10, usd=0.01, model="x/y")
        return state["item"]

    edge = vmap(target, batch_key="xs", out_key="ys", name="edge")
    with mahsm.usage() as used, budget(tokens=10_000) as spent:
        run_edge(edge, [1, 2, 3], mode)
    assert (used.calls, used.tokens, used.usd, used.unpriced) == (6, 600, pytest.approx(0.06), 0)
    assert (spent.calls, spent.tokens, spent.usd) == (6, 600, pytest.approx(0.06))
    assert used.by_model["x/y"].calls == used.by_node["edge/target"].calls == used.runs[0].usage.calls == 6


@pytest.mark.parametrize("mode", MODES)
def test_a_target_that_calls_no_model_is_a_call_of_budgets_only(mode: str) -> None:
    edge = vmap(lambda state: state["item"], batch_key="xs", out_key="ys")
    with mahsm.usage() as used, budget(calls=10) as spent:
        run_edge(edge, [1, 2, 3], mode)
    assert (used.calls, spent.calls) == (0, 3)


@pytest.mark.parametrize("mode", MODES)
def test_answers_that_do_not_say_what_they_took_are_counted(mode: str) -> None:
    model = FakeListChatModel(responses=["yes"])
    with mahsm.usage() as used, budget(tokens=100) as spent:
        run_edge(
            vmap(lambda state: model.invoke(state["item"]), batch_key="xs", out_key="ys"), ["a", "b"], mode
        )
    assert (used.calls, used.unpriced) == (spent.calls, spent.unknown) == (2, 2)
    assert spent.answers == 2


def test_an_answer_that_does_not_say_what_it_took_settles_what_was_reserved(name: str) -> None:
    model = GenericFakeChatModel(messages=iter([AIMessage("yes"), AIMessage("no")]))
    with limits.admit(RateLimit(name, tpm=6000), tokens=50):
        model.invoke("?")
    assert limits.stats()[name].settled_tokens >= 50


@pytest.mark.parametrize("mode", MODES)
def test_blocks_inside_of_a_target_count_what_is_called_in_them(mode: str, name: str) -> None:
    run_name = uuid4()  # the cache is kept on disk
    inside: list[Any] = []

    def target(state: dict[str, Any]) -> str:
        with budget(calls=5) as own, limits.admit(RateLimit(name, rps=1000)):
            dspy.Predict("question -> answer")(question=f"{run_name} {state['item']}")
        inside.append((own.calls, own.cached))
        return state["item"]

    edge = vmap(target, batch_key="xs", out_key="ys", max_concurrency=1)
    with (
        dspy.context(lm=FakeLM({"answer": "yes"}, cache=True)),
        mahsm.usage() as used,
        budget(calls=100) as spent,
    ):
        run_edge(edge, ["a", "b", "a"], mode)
    assert inside == [(1, 0), (1, 0), (0, 1)]
    assert (used.calls, used.cached) == (spent.calls, spent.cached) == (2, 1)


@pytest.mark.parametrize("mode", MODES)
def test_an_edge_around_a_graph_inside_of_a_target_counts_once(mode: str) -> None:
    inner = graph_of(
        vmap(lambda state: limits.report(input_tokens=1), batch_key="xs", out_key="ys", name="reports")
    )
    middle = vmap(inner, batch_key="rows", out_key="o", item_to_state=lambda xs: {"xs": xs}, name="middle")

    def target(state: dict[str, Any]) -> Any:
        return middle.invoke({"rows": [[state["item"]]]})["o"]

    with mahsm.usage() as used, budget(calls=100) as spent:
        run(vmap(target, batch_key="xs", out_key="ys", name="outer"), {"xs": [1, 2, 3]}, mode)
    assert used.calls == spent.calls == 3


@pytest.mark.parametrize("mode", MODES)
def test_a_langchain_call_that_is_cancelled_is_counted_by_everybody(mode: str) -> None:
    # On a busy machine the answer that comes may take longer than a short timeout.
    assert any(is_counted_by_everybody(mode, timeout) for timeout in (0.5, 5, 50))


def is_counted_by_everybody(mode: str, timeout: float) -> bool:
    """Return whether one call was answered in time, after checking the counts; the other one never is."""
    release = threading.Event()

    def answer(call: Call) -> Reply:
        if "hangs" in call.text:
            release.wait(30)
        return Reply("yes", usage=(3, 1))

    async def target(state: dict[str, Any]) -> Any:
        return (await model.ainvoke(state["item"])).content

    with ModelServer(answer) as server, mahsm.usage() as used, budget(tokens=100) as spent:
        model = chat_model(server.base_url)
        edge = vmap(target, batch_key="xs", out_key="ys", on_error="drop", timeout=timeout)
        try:
            answers = run_edge(edge, ["a", "hangs"], mode)
        finally:
            release.set()
    if not answers:
        return False
    assert answers == ["yes"]
    assert used.calls == spent.calls == used.runs[0].usage.calls == 2
    assert used.tokens == spent.tokens == 4
    return True
