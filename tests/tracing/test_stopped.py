"""What was stopped on purpose is no error in traces, and says why; as it arrives at Langfuse."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any

import dspy
import pytest
from langfuse.langchain import CallbackHandler
from langgraph.graph import END, START, StateGraph
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mahsm import Budget, parallel, tracing, vmap
from mahsm._waiting import stops, tasks
from mahsm.policies import Hedge, Retry
from mahsm.testing import FakeLM, Reply
from tests.helpers import MODES, DictState, graph_of, run
from tests.tracing.observations import Observed, observed

HANDLERS = (False, True)
HOUR = 3600.0


class Provider:
    """Answers at once, but for "slow", which takes an hour; others wait until that has begun."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.lm = FakeLM(self.answer)

    def answer(self, call: Any) -> Reply:
        if call.field("item") != "slow":
            return Reply({"y": "v"})
        self.begun.set()
        return Reply({"y": "v"}, latency=HOUR)

    async def ask(self, state: Any) -> Any:
        item = state["item"]
        if item != "slow":
            assert await asyncio.to_thread(self.begun.wait, 30)
        if item == "bad":
            raise ValueError("bad")
        return (await dspy.Predict("item -> y").acall(item=item)).y


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    with dspy.context(lm=made.lm):
        yield made


def stopped(seen: Observed) -> dict[str, str]:
    """Why each kind of span was stopped, of which there is one at most for each way down."""
    return {
        " ".join(reversed(each.path)): each.facts["stopped"] for each in seen.all if "stopped" in each.facts
    }


def errors(seen: Observed) -> list[tuple[str, str | None]]:
    return sorted({(each.name, each.status) for each in seen.all if each.level == "ERROR"}, key=str)


def inside(path: str, word: str) -> dict[str, str]:
    """An item that was stopped in a call of a model."""
    return {path: word, f"{path} Predict": word, f"{path} Predict model": word}


def top(handler: bool, node: str) -> str:
    return f"LangGraph {node} " if handler else ""


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_calls_that_stop_when_ends(mode: str, handler: bool, chunk_size: Any, provider: Provider) -> None:
    edge = vmap(provider.ask, batch_key="xs", out_key="ys", name="fan", stop_when=bool, chunk_size=chunk_size)
    with observed() as seen:
        assert run(graph_of(edge), {"xs": ["slow", "quick"]}, mode, seen.config(handler))["ys"] == ["v"]
        assert (stopped(seen), errors(seen)) == (
            inside(f"{top(handler, 'fan')}vmap:fan ask", "stop_when"),
            [],
        )


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_calls_of_items_beside_one_that_fails(
    mode: str, handler: bool, chunk_size: Any, provider: Provider
) -> None:
    edge = vmap(provider.ask, batch_key="xs", out_key="ys", name="fan", chunk_size=chunk_size)
    with observed(scores=True) as seen:
        with pytest.raises(ValueError, match="bad"):
            run(graph_of(edge), {"xs": ["slow", "bad"]}, mode, seen.config(handler))
        assert stopped(seen) == inside(f"{top(handler, 'fan')}vmap:fan ask", "error")
        around = ["LangGraph", "ask", "fan", "vmap:fan"] if handler else ["ask", "vmap:fan"]
        assert errors(seen) == [(name, "ValueError: bad") for name in around], (
            "the item that failed, and what is around it"
        )
        assert dict(seen.scores)["mahsm.error_rate"] == 1.0


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_calls_of_branches_beside_one_that_fails(mode: str, handler: bool, provider: Provider) -> None:
    def branch(item: str) -> Any:
        async def ask(state: Any) -> Any:
            return {"ys": await provider.ask({"item": item})}

        return ask

    edge = parallel({"slow": branch("slow"), "bad": branch("bad")}, name="both")
    with observed() as seen:
        with pytest.raises(ValueError, match="bad"):
            run(graph_of(edge), {"xs": 1}, mode, seen.config(handler))
        assert stopped(seen) == inside(f"{top(handler, 'both')}parallel:both slow", "error")


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_edges_inside_of_a_stopped_item(mode: str, handler: bool, provider: Provider) -> None:
    inner = vmap(provider.ask, batch_key="row", out_key="ys", name="inner")
    edge = vmap(inner, batch_key="xs", out_key="ys", name="outer", item_to_state=lambda row: {"row": row})
    with observed() as seen:
        with pytest.raises(ValueError, match="bad"):
            run(graph_of(edge), {"xs": [["slow"], ["bad"]]}, mode, seen.config(handler))
        item = f"{top(handler, 'outer')}vmap:outer inner"
        assert stopped(seen) == {
            item: "error",
            f"{item} vmap:inner": "error",
            **inside(f"{item} vmap:inner ask", "error"),
        }
        assert {status for _, status in errors(seen)} == {"ValueError: bad"}


@pytest.mark.parametrize("stop", ["stop_when", "error"])
def test_graphs_inside_of_a_stopped_item(stop: str, provider: Provider) -> None:
    async def step(state: Any) -> Any:
        return {"ys": await provider.ask({"item": state["xs"]})}

    builder = StateGraph(DictState)
    builder.add_node("step", step)
    builder.add_edge(START, "step")
    builder.add_edge("step", END)
    graph = builder.compile(name="inner")
    options: Any = {"stop_when": bool} if stop == "stop_when" else {}
    edge = vmap(graph, batch_key="xs", out_key="ys", name="fan", item_to_state=lambda x: {"xs": x}, **options)
    with observed() as seen:
        with nullcontext() if options else pytest.raises(ValueError, match="bad"):
            run(graph_of(edge), {"xs": ["slow", "quick" if options else "bad"]}, "async", seen.config(True))
        item = "LangGraph fan vmap:fan inner"
        assert {item, f"{item} inner", f"{item} inner step"} < set(stopped(seen))
        assert set(stopped(seen).values()) == {stop}
        assert {status for _, status in errors(seen)} <= {"ValueError: bad"}


# Hedges.


class Straggler:
    """The first call of item 15 takes an hour; or blocks, until its second one has been answered, and calls a
    model then."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.is_over = threading.Event()
        self.has_ended = threading.Event()

    def is_slow(self, item: int) -> bool:
        self.calls.append(item)
        return item == 15 and self.calls.count(15) == 1

    async def ask(self, state: Any) -> Any:
        return (
            await dspy.Predict("item -> y").acall(item="slow" if self.is_slow(state["item"]) else "quick")
        ).y

    def ask_blocking(self, state: Any) -> Any:
        if not self.is_slow(state["item"]):
            return state["item"]
        try:
            self.is_over.wait(30)
            return dspy.Predict("item -> y")(item="quick").y
        finally:
            self.has_ended.set()


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_the_call_that_a_hedge_has_outrun(mode: str, handler: bool, provider: Provider) -> None:
    edge = vmap(
        Straggler().ask, batch_key="xs", out_key="ys", name="fan", hedge=Hedge(after=5), max_concurrency=2
    )
    with observed() as seen:
        assert run(graph_of(edge), {"xs": list(range(20))}, mode, seen.config(handler))["ys"] == ["v"] * 20
        assert (set(stopped(seen).values()), errors(seen)) == ({"hedge"}, [])
        assert all("ask" in way and way.endswith(("Predict", "model")) for way in stopped(seen)), (
            "the item has its answer"
        )


@pytest.mark.parametrize("mode", MODES)
def test_a_blocking_call_that_a_hedge_has_outrun_calls_no_model(mode: str, provider: Provider) -> None:
    straggler = Straggler()
    edge = vmap(
        straggler.ask_blocking,
        batch_key="xs",
        out_key="ys",
        name="fan",
        hedge=Hedge(after=5),
        max_concurrency=2,
    )
    with observed() as seen:
        assert run(edge, {"xs": list(range(20))}, mode)["ys"] == list(range(20))
        straggler.is_over.set()
        assert straggler.has_ended.wait(30)
        assert (stopped(seen), errors(seen)) == ({"vmap:fan ask_blocking Predict": "hedge"}, [])


# Cancelled runs.


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_cancelled_run(handler: bool, provider: Provider) -> None:
    edge = vmap(provider.ask, batch_key="xs", out_key="ys", name="fan")

    async def main(config: Any) -> None:
        task = asyncio.ensure_future(graph_of(edge).ainvoke({"xs": ["slow"]}, config))
        assert await asyncio.to_thread(provider.begun.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with observed(scores=True) as seen:
        asyncio.run(main(seen.config(handler)))
        around = {"LangGraph": "cancelled", "LangGraph fan": "cancelled"} if handler else {}
        fan = f"{top(handler, 'fan')}vmap:fan"
        assert stopped(seen) == {**around, fan: "cancelled", **inside(f"{fan} ask", "cancelled")}
        assert (errors(seen), seen.scores) == ([], []), "of no item is it known whether it would have failed"


def test_langfuses_own_handler_makes_errors_of_its_own_spans_alone(provider: Provider) -> None:
    edge = vmap(provider.ask, batch_key="xs", out_key="ys", name="fan")
    with observed() as seen:
        handler = CallbackHandler(public_key=seen.public_key)
        with pytest.raises(ValueError, match="bad"):
            run(graph_of(edge), {"xs": ["slow", "bad"]}, "async", {"callbacks": [handler]})
        assert stopped(seen) == inside("LangGraph fan vmap:fan ask", "error")
        assert not [each for each in seen.named("ask") if each.level == "ERROR" and each.facts["index"] == 0]


def test_what_is_cancelled_in_a_target_is_its_own_failure(provider: Provider) -> None:
    async def cancels(state: Any) -> Any:
        task = asyncio.ensure_future(provider.ask({"item": "slow"}))
        assert await asyncio.to_thread(provider.begun.wait, 30)
        task.cancel()
        return await task

    edge = vmap(cancels, batch_key="xs", out_key="ys", name="fan", on_error="drop")
    with observed() as seen:
        assert run(edge, {"xs": [1]}, "async")["ys"] == []
        assert errors(seen) == [("cancels", "CancelledError")]
        item = "vmap:fan cancels Predict"
        assert stopped(seen) == {item: "cancelled", f"{item} model": "cancelled"}


# Time, and budgets.


@pytest.mark.parametrize("option", ["timeout", "deadline"])
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_calls_whose_time_is_up_have_failed(
    mode: str, handler: bool, option: Any, provider: Provider
) -> None:
    for seconds in (0.05, 0.5, 5.0, 50.0):  # on a busy machine the time may be up before the call has begun
        edge = vmap(
            provider.ask, batch_key="xs", out_key="ys", name="fan", on_error="drop", **{option: seconds}
        )
        with observed() as seen:
            assert run(graph_of(edge), {"xs": ["slow"]}, mode, seen.config(handler))["ys"] == []
            found = errors(seen)
            if not provider.begun.is_set():
                continue
            assert (stopped(seen), [name for name, _ in found]) == ({}, ["Predict", "ask", "model"])
            assert all(str(status).startswith("TimeoutError: ") for _, status in found)
            return
    pytest.fail("no call has begun")


async def test_a_timeout_that_is_over_is_not_why_something_is_stopped_afterwards() -> None:
    reasons: list[Any] = []
    with suppress(TimeoutError):
        async with tasks.deadline(0.001):
            try:
                await asyncio.Event().wait()
            finally:
                reasons.append(stops.reason_here())
    assert [str(reason) for reason in (*reasons, stops.reason_here())] == ["took longer than 0.001 s", "None"]


@pytest.mark.parametrize("mode", MODES)
def test_a_blocking_call_that_took_too_long_calls_no_model(mode: str, provider: Provider) -> None:
    is_over, has_ended = threading.Event(), threading.Event()

    def ask(state: Any) -> Any:
        try:
            is_over.wait(30)
            return dspy.Predict("item -> y")(item="quick").y
        finally:
            has_ended.set()

    edge = vmap(ask, batch_key="xs", out_key="ys", name="fan", timeout=0.05, on_error="drop")
    with observed() as seen:
        assert run(edge, {"xs": [1]}, mode)["ys"] == []
        is_over.set()
        assert has_ended.wait(30)
        assert stopped(seen) == {"vmap:fan ask Predict": "timeout"}
        assert errors(seen) == [("ask", "TimeoutError: took longer than 0.05 s")]


def test_items_that_a_budget_keeps_from_beginning() -> None:
    async def ask(state: Any) -> Any:
        for _ in range(100):
            # Meanwhile the others, of which there may be several with retries, stand in line.
            await asyncio.sleep(0)
        return state["item"]

    options: dict[str, Any] = {
        "budget": Budget(calls=1),
        "retry": Retry(attempts=2, base=0),
        "on_error": "drop",
    }
    edge = vmap(ask, batch_key="xs", out_key="ys", name="fan", max_concurrency=1, **options)
    with observed() as seen:
        assert run(edge, {"xs": [1, 2, 3]}, "async")["ys"] == [1]
        assert [each.facts.get("stopped") for each in seen.named("ask")] == [None, "budget", "budget"]
        assert seen.one("vmap:fan").facts["ended"] == "budget"


# Other backends.


def test_opentelemetry(provider: Provider) -> None:
    exporter = InMemorySpanExporter()
    spans = TracerProvider()
    spans.add_span_processor(SimpleSpanProcessor(exporter))
    edge = vmap(provider.ask, batch_key="xs", out_key="ys", name="fan", stop_when=bool)
    with observed():  # which restores who traced before
        tracing.use_otel(spans)
        assert edge.invoke({"xs": ["slow", "quick"]})["ys"] == ["v"]
    found = exporter.get_finished_spans()
    assert sorted(span.name for span in found if span.attributes.get("mahsm.stopped") == "stop_when") == [
        "Predict",
        "ask",
        "model",
    ]
    assert not [span for span in found if not span.status.is_ok and span.status.description]
