"""Runs over a batch API, drawn, and a plain loop that says what each has to come to."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

from mahsm import BatchAPI, Edge, Retry, connect, parallel, vmap
from mahsm._waiting.tasks import batch_loop
from mahsm.testing import BatchJobs, Bill, Call, ModelServer, Reply
from tests.helpers import DictState, thread

TARGETS = ("blocking", "async", "module", "nested", "nested blocking", "parallel")
FAULTS = (
    *(("refuse", step) for step in ("upload", "submit", "status", "results")),
    ("lose", "submit"),
    ("break_off", "results"),
    *((how, after) for how in ("expire_next", "cancel_next") for after in (0, 1)),
    ("fail_next", "token_limit_exceeded"),
)


@dataclass(frozen=True)
class Plan:
    """A run.

    Attributes:
        items: Of each item its text and the number of its calls. A text with "f" is refused once, and one
            with "b" always; both at their first call.
        target: One of `TARGETS`.
        mode: "sync" or "async".
        model: The model.
        api: Options of the batch API.
        options: Options of the edge.
        faults: Faults of the server.
        saver: None, "memory" or "sqlite".
        breaks_at: The number of answers after which an item fails once, or None.
    """

    items: list[tuple[str, int]]
    target: str
    mode: str
    model: str
    api: dict[str, Any]
    options: dict[str, Any]
    faults: list[tuple[str, Any]]
    saver: str | None = None
    breaks_at: int | None = None

    @property
    def is_quiet(self) -> bool:
        """True if each round is one job."""
        bounds = {"max_requests", "max_enqueued_tokens"}
        return not (self.faults or bounds & self.api.keys() or self.saver or self.refused)

    @property
    def refused(self) -> int:
        return sum(any(letter in text for letter in "fb") for text, _ in self.items)

    @property
    def is_loud(self) -> bool:
        """True if the edge raises."""
        return self.options["on_error"] == "raise" and any(
            "b" in text and count for text, count in self.items
        )

    def expected(self) -> list[str | None]:
        """Return what a plain loop returns; None for an item that fails."""
        return [
            text if not count else None if "b" in text else text.upper() + "!" * count
            for text, count in self.items
        ]

    @property
    def paid(self) -> int:
        """The number of answers that a plain loop pays for."""
        each = sum(0 if "b" in text else count for text, count in self.items)
        return 2 * each if self.target == "parallel" else each


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    texts = st.sampled_from(["a", "a", "c", "d", "f", "bad"])
    saver = draw(st.sampled_from([None, None, "memory", "sqlite"]))
    model = draw(st.sampled_from(["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5-20251001"]))
    # Anthropic has no such refusal.
    faults = FAULTS if model.startswith("openai") else FAULTS[:-1]
    api: dict[str, Any] = {"on_expired": draw(st.sampled_from(["retry", "sync"]))}
    for name, values in (("max_requests", (1, 2)), ("max_enqueued_tokens", (1, 400))):
        if draw(st.integers(0, 3)) == 3:
            api[name] = draw(st.sampled_from(values))
    if saver is not None and draw(st.booleans()):
        api["wait"] = "interrupt"
    breaks_at = draw(st.one_of(st.none(), st.integers(0, 4))) if saver is not None else None
    return Plan(
        items=draw(st.lists(st.tuples(texts, st.integers(0, 3)), min_size=1, max_size=5)),
        target=draw(st.sampled_from(TARGETS)),
        mode=draw(st.sampled_from(["sync", "async"])),
        model=model,
        api=api,
        options={
            "max_concurrency": draw(st.sampled_from([1, 2, 16])),
            "on_error": "raise" if breaks_at is not None else draw(st.sampled_from(["raise", "collect"])),
            "retry": Retry(attempts=4, base=0, share=None),
        },
        faults=draw(st.one_of(st.just([]), st.lists(st.sampled_from(faults), max_size=3))),
        saver=saver,
        breaks_at=breaks_at,
    )


def reply(call: Call) -> Reply:
    text = call.field("item")
    if not text.endswith("!") and ("b" in text or ("f" in text and not call.repeats)):
        return Reply.failed(400 if "b" in text else 500)
    return Reply({"answer": text.upper() + "!"}, usage=(10, 5))


class Broken(ValueError):
    """The error of an item that fails once."""


@dataclass
class Work:
    """What items do. Set `breaks_at` for an item that fails once, after so many answers.

    Attributes:
        breaks_at: That number, or None.
        answers: The number of answers.
    """

    breaks_at: int | None
    answers: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def answered(self) -> None:
        with self.lock:
            self.answers += 1
            if self.breaks_at is not None and self.answers > self.breaks_at:
                self.breaks_at = None
                raise Broken("on purpose")


class Chain(dspy.Module):
    """As many calls as the item says, each of the answer before."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.ask = dspy.Predict("item -> answer")
        self.work = work

    def forward(self, item: Any) -> Any:
        text, count = item
        for _ in range(count):
            text = self.ask(item=text).answer
            self.work.answered()
        return dspy.Prediction(answer=text)

    async def aforward(self, item: Any) -> Any:
        text, count = item
        for _ in range(count):
            text = (await self.ask.acall(item=text)).answer
            self.work.answered()
        return dspy.Prediction(answer=text)


def edge_of(plan: Plan, work: Work) -> Edge:
    """Return the edge of a plan."""
    chain = Chain(work)

    def blocking(state: Any) -> Any:
        return {"answer": chain(item=state["item"]).answer}

    def one(state: Any) -> Any:
        return {"one": chain(item=state["item"]).answer}

    async def awaiting(state: Any) -> Any:
        return {"answer": (await chain.acall(item=state["item"])).answer}

    def other(state: Any) -> Any:
        text, count = state["item"]
        return {"other": chain(item=("z" + text, count)).answer}

    inner: dict[str, Any] = {"batch_key": "inner", "out_key": "found", "result": "answer", "batch_api": True}
    targets: dict[str, Callable[[], Any]] = {
        "blocking": lambda: blocking,
        "async": lambda: awaiting,
        "module": lambda: chain,
        "nested": lambda: vmap(chain, **inner, name="inner"),
        "nested blocking": lambda: vmap(blocking, **inner, name="inner"),
        "parallel": lambda: parallel({"one": one, "two": other}, name="branches"),
    }
    given: dict[str, Any] = {"result": "one" if plan.target == "parallel" else "answer"}
    if plan.target.startswith("nested"):
        given = {"item_to_state": lambda item: {"inner": [item]}, "result": lambda update: update["found"][0]}
    return vmap(
        targets[plan.target](),
        batch_key="xs",
        out_key="ys",
        name="edge",
        batch_api=BatchAPI(poll=0.001, **plan.api),
        **plan.options,
        **given,
    )


# Running it.


@contextmanager
def served(plan: Plan) -> Iterator[ModelServer]:
    """Return a block with the server of a plan, which has its faults."""
    with ModelServer(reply, jobs=BatchJobs(), bill=Bill()) as server:
        for what, given in plan.faults:
            getattr(server.jobs, what)(given)
        with dspy.context(lm=server.lm(plan.model, max_tokens=100)):
            yield server


def outcome(plan: Plan, folder: Path) -> list[Any]:
    """Run a plan, again and again until it has ended.

    Raises:
        Exception: that of the edge, unless an item fails once.
    """
    given: Any = {"xs": plan.items}
    with ExitStack() as stack:
        graph = Graph(plan, edge_of(plan, Work(plan.breaks_at)), folder, stack)
        for _ in range(100):
            try:
                found = graph.run(given)
            except Broken:
                given = None
                continue
            if "__interrupt__" not in found:
                return found["ys"]
            given = Command(resume=True)
    raise AssertionError("the run does not end")


class Graph:
    """The graph of a plan, in a new event loop for each run."""

    def __init__(self, plan: Plan, edge: Edge, folder: Path, stack: ExitStack) -> None:
        self._plan = plan
        self._builder = connect(StateGraph(DictState), START, edge, END)
        self._path = str(folder / "checkpoints.sqlite")
        self._saver: Any = InMemorySaver() if plan.saver == "memory" else None
        if plan.saver == "sqlite" and plan.mode == "sync":
            self._saver = stack.enter_context(SqliteSaver.from_conn_string(self._path))

    def run(self, given: Any) -> Any:
        if self._plan.mode == "sync":
            return self._builder.compile(checkpointer=self._saver).invoke(given, thread())
        return asyncio.run(self._on_a_loop(given))

    async def _on_a_loop(self, given: Any) -> Any:
        async with AsyncExitStack() as stack:
            saver = self._saver
            if self._plan.saver == "sqlite":
                saver = await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(self._path))
            return await self._builder.compile(checkpointer=saver).ainvoke(given, thread())


def left_behind() -> list[Any]:
    """Return the threads and tasks that are left of runs, after they have had time to end."""
    end = time.monotonic() + 5
    while True:
        threads = [one for one in threading.enumerate() if one.name.startswith("mahsm-item")]
        found = [*threads, *asyncio.all_tasks(batch_loop())]
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.005)
