"""Traces: what spans there are, where they stand, and what they say."""

import asyncio
import json
import operator
import subprocess
import sys
import time
from collections import Counter
from typing import Annotated, Any, TypedDict

import dspy
import jax.numpy as jnp
import numpy as np
import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send, interrupt
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel

from mahsm import GraphModule, dspy_node, jit_edge, operator_node, parallel, reduce_edge, tracing, vmap
from mahsm.operators import ModelOperator
from mahsm.policies import Retry
from mahsm.reducers import llm_judge_select, majority_vote
from mahsm.testing import FakeLM, ModelServer, Reply
from mahsm.tracing import _setup as setup
from mahsm.tracing._cut import cut
from tests.helpers import MODES, fails, graph_of, run, thread
from tests.tracing.spans import facts, recorded, tree

HANDLERS = (False, True)


def config_of(recording: Any, handler: bool, **more: Any) -> Any:
    return {"callbacks": [recording.handler] if handler else [], **more}


def below(lines: list[str], name: str) -> list[str]:
    """The lines below the first one of this name, as deep as they are below it."""
    start = next(place for place, line in enumerate(lines) if line.strip() == name)
    depth = len(lines[start]) - len(lines[start].lstrip())
    found: list[str] = []
    for line in lines[start + 1 :]:
        if len(line) - len(line.lstrip()) <= depth:
            break
        found.append(line[depth + 2 :])
    return found


def square(state: Any) -> int:
    return state["item"] ** 2


async def square_later(state: Any) -> int:
    await asyncio.sleep(0)
    return state["item"] ** 2


@pytest.mark.parametrize("target", [square, square_later])
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_one_span_for_an_edge_run_with_its_items_below(mode: str, handler: bool, target: Any) -> None:
    edge = vmap(target, batch_key="xs", out_key="ys", name="squares", max_concurrency=3)
    with recorded() as recording:
        assert run(graph_of(edge), {"xs": [1, 2, 3]}, mode, config_of(recording, handler))["ys"] == [1, 4, 9]
        lines = recording.tree()
        assert below(lines, "vmap:squares") == [target.__name__] * 3
        (span,) = recording.named("vmap:squares")
        assert recording.traces == 1
        assert span.attributes["langfuse.observation.type"] == "chain"
        found = facts(span)
        assert (
            found["fan_out"],
            found["fan_in"],
            found["errors"],
            found["retries"],
            found["concurrency"],
        ) == (3, 3, 0, 0, 3)
        assert found["run_ms_p50"] <= found["run_ms_p95"] <= found["run_ms_max"]
        assert "wait_ms_max" in found
        assert lines[0] == ("LangGraph" if handler else "vmap:squares")
    assert trace.get_current_span() is trace.INVALID_SPAN, "nothing is left behind"


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_edges_in_edges_in_branches(mode: str, handler: bool) -> None:
    inner = vmap(
        square_later, batch_key="row", out_key="squares", name="inner", item_to_state=lambda x: {"item": x}
    )
    outer = vmap(inner, batch_key="xs", out_key="ys", name="outer", item_to_state=lambda row: {"row": row})
    both = parallel({"left": outer, "right": lambda state: {"bias": 1}}, name="both")
    with recorded() as recording:
        run(graph_of(both), {"xs": [[1], [2, 3]]}, mode, config_of(recording, handler))
        lines = recording.tree()
        found = below(lines, "parallel:both")
        assert sorted(line.strip() for line in found if not line.startswith(" ")) == ["left", "right"]
        assert below(found, "left")[0] == "vmap:outer"
        assert Counter(line.strip() for line in below(found, "vmap:outer")) == {
            "inner": 2,
            "vmap:inner": 2,
            "square_later": 3,
        }
        assert recording.traces == 1
        assert facts(recording.named("parallel:both")[0])["scheduler"] == "parallel"


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_dspy_modules_are_generations_below_their_items(mode: str, handler: bool) -> None:
    answers = {"reasoning": "so", "answer": "yes"}
    with ModelServer(answers) as server, recorded() as recording, dspy.context(lm=server.lm()):
        edge = vmap(dspy.ChainOfThought("item -> answer"), batch_key="xs", out_key="ys", name="asks")
        run(graph_of(edge), {"xs": ["a", "b"]}, mode, config_of(recording, handler))
        assert recording.traces == 1
        below_edge = below(recording.tree(), "vmap:asks")
        assert Counter(line.strip() for line in below_edge) == {"ChainOfThought": 4, "Predict": 2, "fake": 2}
        generations = recording.named("fake")
        for span in generations:
            assert span.attributes["langfuse.observation.type"] == "generation"
            usage = json.loads(span.attributes["langfuse.observation.usage_details"])
            assert usage["total"] == usage["input"] + usage["output"] > 0
        (span,) = recording.named("vmap:asks")
        total = sum(
            json.loads(each.attributes["langfuse.observation.usage_details"])["total"] for each in generations
        )
        assert facts(span)["input_tokens"] + facts(span)["output_tokens"] == total
        assert facts(span)["calls"] == 2


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_a_dspy_node_outside_of_edges(mode: str, handler: bool) -> None:
    class State(TypedDict, total=False):
        question: str
        answer: str

    builder = StateGraph(State)
    with ModelServer({"answer": "yes"}) as server, recorded() as recording, dspy.context(lm=server.lm()):
        builder.add_node("ask", dspy_node(dspy.Predict("question -> answer"), output_fields=["answer"]))
        builder.add_edge(START, "ask")
        builder.add_edge("ask", END)
        run(builder.compile(), {"question": "?"}, mode, config_of(recording, handler))
        expected = ["LangGraph", "  ask", "    Predict", "      fake"] if handler else ["Predict", "  fake"]
        assert recording.tree() == expected


class Many(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        parallel = dspy.Parallel(num_threads=2, disable_progress_bar=True)
        return dspy.Prediction(
            answers=parallel([(self.ask, {"question": f"{question}{number}"}) for number in range(2)])
        )


def test_threads_of_dspy_are_in_the_trace_of_who_starts_them() -> None:
    one = lambda question: {"question": question}  # noqa: E731
    edge = vmap(
        dspy_node(Many(), name="many"),
        batch_key="questions",
        out_key="answers",
        item_to_state=one,
        name="all",
    )
    program = GraphModule(edge.compile(), outputs=["answers"])
    examples = [dspy.Example(questions=["a"]).with_inputs("questions")] * 2
    with recorded() as recording, dspy.context(lm=FakeLM({"answer": "x"})):
        edge.invoke({"questions": ["a"]})
        lines = recording.tree()
        assert lines[:3] == ["vmap:all", "  many", "    Many"]
        assert sorted(lines[3:]) == ["      model", "      model", "    Predict", "    Predict"]
        with tracing.span("evaluate"):
            program.batch(examples, num_threads=2, disable_progress_bar=True)
        assert recording.traces == 2
        assert sorted(below(recording.tree(), "evaluate")).count("GraphModule") == 2
        assert len(recording.named("model")) == 6


def test_several_runs_at_once_have_a_trace_each() -> None:
    edge = vmap(square_later, batch_key="xs", out_key="ys", name="squares")
    graph = graph_of(edge)

    async def all_of(recording: Any) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(graph.ainvoke({"xs": [1, 2]}, config_of(recording, True)))

    with recorded() as recording:
        asyncio.run(all_of(recording))
        assert recording.traces == 5
        assert Counter(line.strip() for line in recording.tree())["vmap:squares"] == 5


@pytest.mark.parametrize("mode", MODES)
def test_failures_and_retries(mode: str) -> None:
    tries: Counter[int] = Counter()

    def flaky(state: Any) -> int:
        tries[state["item"]] += 1
        if state["item"] == 3 or tries[state["item"]] == 1:
            raise ConnectionError("down")
        return state["item"]

    edge = vmap(
        flaky, batch_key="xs", out_key="ys", name="flaky", retry=Retry(attempts=2, base=0), on_error="drop"
    )
    with recorded() as recording:
        assert run(edge, {"xs": [1, 2, 3]}, mode)["ys"] == [1, 2]
        found = facts(recording.named("vmap:flaky")[0])
        assert (found["errors"], found["retries"], found["fan_in"]) == (1, 3, 2)
        failed = [
            span
            for span in recording.named("flaky")
            if span.attributes.get("langfuse.observation.level") == "ERROR"
        ]
        assert [facts(span)["index"] for span in failed] == [2]
        assert failed[0].attributes["langfuse.observation.status_message"] == "ConnectionError: down"
        with pytest.raises(ConnectionError):
            run(vmap(flaky, batch_key="xs", out_key="ys", name="fails"), {"xs": [3]}, mode)
        assert recording.named("vmap:fails")[0].attributes["langfuse.observation.level"] == "ERROR"
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_an_interrupt_is_no_error(mode: str, handler: bool) -> None:
    def asks(state: Any) -> Any:
        return interrupt(state["item"])

    edge = vmap(asks, batch_key="xs", out_key="ys", name="asks", chunk_size=1)
    graph = graph_of(edge, checkpointer=InMemorySaver())
    with recorded() as recording:
        run(graph, {"xs": [1]}, mode, thread() | config_of(recording, handler))
        levels = {span.attributes.get("langfuse.observation.level") for span in recording.spans}
        assert "ERROR" not in levels
        assert facts(recording.named("vmap:asks")[0])["interrupted"] is True


@pytest.mark.parametrize("mode", MODES)
def test_reducers_and_numeric_edges(mode: str) -> None:
    total = reduce_edge(input_key="xs", output_key="total", reducer=sum, name="total")
    scale = jit_edge(lambda xs: xs * 2, in_keys=["xs"], out_key="ys", name="scale")
    over = vmap(
        jit_edge(lambda item: item * 2, in_keys=["item"], out_key="y"),
        batch_key="xs",
        out_key="ys",
        name="all",
    )
    with recorded() as recording:
        for edge in (total, scale, over):
            run(edge, {"xs": [1.0, 2.0]}, mode)
        reduced, scaled, mapped = (
            recording.named(name)[0] for name in ("reduce:total", "jit:scale", "vmap:all")
        )
    assert (facts(reduced)["fan_in"], facts(reduced)["reducer"]) == (2, "sum")
    assert facts(scaled)["jit_compiles"] == 1
    assert (facts(mapped)["fan_out"], facts(mapped)["fan_in"]) == (2, 2)
    assert scaled.attributes["langfuse.observation.output"] == '{"ys": "float32[2]"}'


def test_of_many_items_some_have_spans() -> None:
    # On a busy machine another item may take long, too.
    assert any(slowest_of_many(seconds) == [3] for seconds in (0.05, 0.5, 5))


def slowest_of_many(seconds: float) -> list[int]:
    """Run 2,000 items, item 3 for so many seconds; return the items whose spans say they are the slowest."""
    with recorded() as recording:

        def odd(state: Any) -> Any:
            if state["item"] == 1001:
                raise ValueError("odd")
            if state["item"] == 3:
                time.sleep(seconds)

        vmap(odd, batch_key="xs", out_key="ys", on_error="drop").invoke({"xs": list(range(2000))})
        shown = [facts(span) for span in recording.named("odd")]
        sampled = sorted(each["index"] for each in shown if "run_ms" not in each)
        assert len(sampled) == 63
        assert sampled[:2] == [0, 32]
        failed = [
            span
            for span in recording.named("odd")
            if span.attributes.get("langfuse.observation.level") == "ERROR"
        ]
        assert [facts(span)["index"] for span in failed] == [1001]
        assert facts(recording.named("vmap:odd")[0])["fan_out"] == 2000
        return [each["index"] for each in shown if each.get("slowest")]


def test_nothing_is_traced_when_it_is_off() -> None:
    with recorded() as recording:
        tracing.off()
        vmap(square, batch_key="xs", out_key="ys").invoke({"xs": [1]})
        with tracing.span("step") as step:
            step.note(x=1)
            step.show(2)
        assert recording.spans == []


def test_steps_of_ones_own() -> None:
    @tracing.observe
    def rank(values: Any) -> Any:
        with tracing.span("inside", input=np.ones(3)) as step:
            step.note(size=3)
        return sorted(values)

    @tracing.observe
    async def later(x: Any) -> Any:
        raise ValueError("broken")

    with recorded() as recording, tracing.attributes(session_id="s1", user_id="u1", tags=["a"]):
        assert rank([2, 1]) == [1, 2]
        with pytest.raises(ValueError, match="broken"):
            asyncio.run(later(1))
        assert recording.tree() == ["rank", "  inside", "later"]
        inside, failed = recording.named("inside")[0], recording.named("later")[0]
    assert inside.attributes["langfuse.observation.input"] == "float64[3]"
    assert facts(inside) == {"size": 3}
    assert inside.attributes["session.id"] == "s1"
    assert failed.attributes["langfuse.observation.level"] == "ERROR"


def test_steps_are_named_and_typed_as_with_langfuse() -> None:
    @tracing.observe()
    def plain(x: int) -> int:
        return x + 1

    @tracing.observe(name="ranking", as_type="retriever", capture_input=False, capture_output=False)
    def rank(values: Any) -> Any:
        return sorted(values)

    @tracing.observe(name="waiting")
    async def later(x: int) -> int:
        return x + 1

    with recorded() as recording:
        assert plain(1) == 2
        assert rank([2, 1]) == [1, 2]
        assert asyncio.run(later(1)) == 2
        assert tracing.observe(len, name="size")("ab") == 2
        assert recording.tree() == ["plain", "ranking", "waiting", "size"]
        first, ranking = recording.named("plain")[0], recording.named("ranking")[0]
    assert first.attributes["langfuse.observation.input"] == '{"args": [1], "kwargs": {}}'
    assert first.attributes["langfuse.observation.output"] == "2"
    assert ranking.attributes["langfuse.observation.type"] == "retriever"
    assert not {"langfuse.observation.input", "langfuse.observation.output"} & ranking.attributes.keys()
    assert plain.__name__ == "plain"


def test_observe_of_what_is_no_function() -> None:
    with pytest.raises(
        TypeError, match=r"tracing.observe got 'ranking'; expected a function. A name is passed as name="
    ):
        tracing.observe("ranking")  # type: ignore[type-var]


def test_secrets_and_long_values_are_not_in_a_trace() -> None:
    with ModelServer({"answer": "x" * 5000}) as server, recorded() as recording:
        lm = server.lm(api_key="hunter2", temperature=0.5)
        edge = vmap(dspy.Predict("item -> answer"), batch_key="xs", out_key="ys")
        with dspy.context(lm=lm):
            edge.invoke({"xs": ["a" * 5000], "big": list(range(1000))})
        text = "".join(str(dict(span.attributes)) for span in recording.spans)
    assert "hunter2" not in text
    assert "(5,000 characters)" in text
    assert "(1,000 entries)" in text
    assert "temperature" in text


def test_any_backend_of_opentelemetry() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use_otel(provider)
    try:
        with ModelServer({"answer": "yes"}) as server, dspy.context(lm=server.lm()):
            vmap(dspy.Predict("item -> answer"), batch_key="xs", out_key="ys", name="asks").invoke(
                {"xs": ["a"]}
            )
        tracing.flush()
    finally:
        tracing.off()
    spans = list(exporter.get_finished_spans())
    assert tree(spans) == ["vmap:asks", "  Predict", "    Predict", "      fake"]
    call = next(span for span in spans if span.name == "fake").attributes
    assert (call["gen_ai.operation.name"], call["gen_ai.request.model"], call["gen_ai.provider.name"]) == (
        "chat",
        "fake",
        "openai",
    )
    assert call["gen_ai.usage.input_tokens"] > 0
    assert next(span for span in spans if span.name == "vmap:asks").attributes["mahsm.fan_out"] == 1


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PUBLIC", "SECRET"):
        monkeypatch.delenv(f"LANGFUSE_{name}_KEY", raising=False)
    setup._say.cache_clear()
    with pytest.warns(
        UserWarning, match=r"nothing is traced, since Langfuse's public and secret key is missing"
    ):
        assert tracing.init() is None
    assert tracing.init() is None, "it is said once"
    for wrong, name in ((tracing.use, "use"), (tracing.use_otel, "use_otel")):
        with pytest.raises(TypeError, match=rf"tracing.{name} got 3; expected"):
            wrong(3)  # type: ignore[arg-type]


class Topics(TypedDict, total=False):
    xs: Any
    item: Any
    ys: Any
    answers: Annotated[list[str], operator.add]


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_sends_and_subgraphs(mode: str, handler: bool) -> None:
    inner = StateGraph(Topics)
    inner.add_node("ask", dspy_node(dspy.Predict("item -> answer"), output_fields={"answer": "ys"}))
    inner.add_edge(START, "ask")
    edge = vmap(inner.compile(name="inner"), batch_key="xs", out_key="ys", name="graphs")
    builder = StateGraph(Topics)
    builder.add_node("each", lambda state: {"answers": [edge.invoke({"xs": [state["item"]]})["ys"][0]["ys"]]})
    builder.add_conditional_edges(
        START, lambda state: [Send("each", {"item": x}) for x in state["xs"]], ["each"]
    )
    with ModelServer({"answer": "y"}) as server, recorded() as recording, dspy.context(lm=server.lm()):
        found = run(builder.compile(), {"xs": ["a", "b"]}, mode, config_of(recording, handler))
        assert found["answers"] == ["y", "y"]
        lines = recording.tree()
        assert Counter(line.strip() for line in lines)["vmap:graphs"] == 2
        below_edge = [line.strip() for line in below(lines, "vmap:graphs")]
        expected = ["inner", "inner", "ask", "Predict", "fake"] if handler else ["inner", "Predict", "fake"]
        assert [name for name in below_edge if name != "LangGraph"] == expected
        if handler:
            assert recording.traces == 1
            assert lines.index("  each") < lines.index("    vmap:graphs")
            assert below(lines, "ask") == ["Predict", "  fake"], "below the node of the graph inside"


@pytest.mark.parametrize("stream_mode", ["updates", "values", "custom", "messages"])
@pytest.mark.parametrize("handler", HANDLERS)
def test_streams_nest_as_well(handler: bool, stream_mode: Any) -> None:
    edge = vmap(square_later, batch_key="xs", out_key="ys", name="squares")

    async def all_of(recording: Any) -> None:
        config = config_of(recording, handler)
        async for _ in graph_of(edge).astream(
            {"xs": [1, 2]}, config, stream_mode=stream_mode, subgraphs=True
        ):
            pass

    with recorded() as recording:
        for _ in graph_of(edge).stream(
            {"xs": [1, 2]}, config_of(recording, handler), stream_mode=stream_mode
        ):
            pass
        asyncio.run(all_of(recording))
        assert recording.traces == 2
        for span in recording.named("vmap:squares"):
            assert facts(span)["fan_in"] == 2
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_run_that_is_cancelled_leaves_nothing_behind(handler: bool) -> None:
    started = asyncio.Event()

    async def waits(state: Any) -> Any:
        started.set()
        await asyncio.Event().wait()

    async def cancelled(recording: Any) -> None:
        edge = vmap(waits, batch_key="xs", out_key="ys", name="waits")
        task = asyncio.ensure_future(graph_of(edge).ainvoke({"xs": [1]}, config_of(recording, handler)))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await vmap(square_later, batch_key="xs", out_key="ys", name="next").ainvoke({"xs": [1]})

    with recorded() as recording:
        asyncio.run(cancelled(recording))
        assert recording.traces == 2
        (span,) = recording.named("vmap:waits")
        assert facts(span)["stopped"] == "cancelled"
        assert "langfuse.observation.level" not in span.attributes
        assert "vmap:next" in recording.tree(), "a trace of its own"


def test_what_langchains_config_says_of_the_trace() -> None:
    edge = vmap(square, batch_key="xs", out_key="ys")
    metadata = {"langfuse_session_id": "s1", "langfuse_user_id": "u1", "langfuse_tags": ["a"]}
    with recorded() as recording:
        graph_of(edge).invoke({"xs": [1]}, {"metadata": metadata})
        for span in recording.spans:
            assert (span.attributes["session.id"], span.attributes["user.id"]) == ("s1", "u1")


def test_a_mask_is_respected() -> None:
    def mask(*, data: Any, **_: Any) -> Any:
        return json.loads(json.dumps(data).replace("hunter2", "***")) if data is not None else None

    with recorded(mask=mask) as recording:
        vmap(lambda state: "hunter2", batch_key="xs", out_key="ys", name="masked").invoke({"xs": ["hunter2"]})
        text = "".join(str(dict(span.attributes)) for span in recording.spans)
    assert "***" in text
    assert "hunter2" not in text


class Unwilling:
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise AssertionError("nobody records")

    def model_dump(self) -> Any:
        raise AssertionError("nobody records")


def test_nothing_is_serialised_when_nothing_records() -> None:
    with recorded(tracing_enabled=False):
        value = Unwilling()
        assert vmap(lambda state: state["item"], batch_key="xs", out_key="ys").invoke({"xs": [value]})[
            "ys"
        ] == [value]


def test_ours_steps_back_where_dspy_is_instrumented() -> None:
    # It wraps DSPy's classes, which is not undone in full.
    command = [
        sys.executable,
        "-m",
        "tests.tracing.instrumented_worker",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stdout) == (0, "['vmap:asks', '  Predict']\nTrue\n"), done.stderr


def test_a_tool_of_dspy_has_a_span() -> None:
    def look_up(name: str) -> str:
        """Look something up."""
        return f"{name} is a bucket"

    replies = [
        {"next_thought": "look", "next_tool_name": "look_up", "next_tool_args": '{"name": "it"}'},
        {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": "{}"},
        {"reasoning": "so", "answer": "a bucket"},
    ]
    with ModelServer(replies) as server, recorded() as recording, dspy.context(lm=server.lm()):
        vmap(dspy.ReAct("item -> answer", tools=[look_up]), batch_key="xs", out_key="ys").invoke(
            {"xs": ["it"]}
        )
        (tool, *_) = recording.named("look_up")
        assert tool.attributes["langfuse.observation.type"] == "tool"
        assert len(recording.named("fake")) == 3
        assert recording.traces == 1


@pytest.mark.parametrize("mode", MODES)
def test_what_a_reducer_calls_stands_below_it(mode: str) -> None:
    leaf = RunnableLambda(lambda values: sum(values), name="leaf")
    inner = vmap(
        square_later, batch_key="row", out_key="squares", name="inner", item_to_state=lambda x: {"item": x}
    )

    def total(values: Any) -> Any:
        return leaf.invoke(inner.invoke({"row": values})["squares"])

    edge = reduce_edge(input_key="xs", output_key="ys", reducer=total, name="total")
    with recorded() as recording:
        assert run(graph_of(edge), {"xs": [1, 2]}, mode, config_of(recording, True))["ys"] == 5
        assert below(recording.tree(), "reduce:total") == [
            "vmap:inner",
            "  square_later",
            "  square_later",
            "leaf",
        ]
        assert facts(recording.named("reduce:total")[0])["decision"] == 5


def test_a_judge_is_an_evaluator() -> None:
    judge = llm_judge_select(criteria="The shortest.")
    edge = reduce_edge(input_key="xs", output_key="best", reducer=judge, name="best")
    with (
        ModelServer({"reason": "short", "best": "1"}) as server,
        recorded() as recording,
        dspy.context(lm=server.lm()),
    ):
        assert edge.invoke({"xs": ["a", "bb"]})["best"] == "a"
        (span,) = recording.named("judge:best")
        assert span.attributes["langfuse.observation.type"] == "evaluator"
        assert recording.named("fake")
        assert recording.traces == 1


@pytest.mark.parametrize("mode", MODES)
def test_the_edges_of_a_graph_run_share_a_trace_without_a_handler(mode: str) -> None:
    squares = vmap(square_later, batch_key="xs", out_key="ys", name="squares")
    total = reduce_edge(input_key="ys", output_key="errors", reducer=sum, name="total")
    graph = graph_of(squares, total)
    with recorded() as recording:
        for _ in range(2):
            run(graph, {"xs": [1, 2]}, mode)
        one = ["vmap:squares", "  square_later", "  square_later", "reduce:total"]
        assert recording.tree() == one * 2
        assert recording.traces == 2


def test_what_was_stopped_is_no_error() -> None:
    begun, all_begun = [], asyncio.Event()

    async def vote(state: Any) -> str:
        begun.append(state["item"])
        if len(begun) == 5:
            all_begun.set()
        await all_begun.wait()
        if state["item"] > 2:
            await asyncio.Event().wait()
        return "yes"

    edge = vmap(vote, batch_key="xs", out_key="ys", stop_when=majority_vote, max_concurrency=5)
    with recorded() as recording:
        assert edge.invoke({"xs": [0, 1, 2, 3, 4]})["ys"] == ["yes"] * 3
        votes = recording.named("vote")
        assert not [span for span in votes if span.attributes.get("langfuse.observation.level") == "ERROR"]
        assert sorted(facts(span)["index"] for span in votes if facts(span).get("stopped")) == [3, 4]


def test_traces_go_on_after_a_client_that_was_switched_off() -> None:
    with recorded(tracing_enabled=False) as off:
        for _ in range(40):
            vmap(square, batch_key="xs", out_key="ys").invoke({"xs": list(range(256))})
        assert off.spans == []
        with tracing.span("step"):
            pass


def test_a_module_that_fails_and_one_that_gives_a_model() -> None:
    class Fails(dspy.Module):
        def forward(self, item: Any) -> Any:
            raise ValueError("broken")

    with recorded() as recording:
        edge = vmap(Fails(), batch_key="xs", out_key="ys", on_error="drop")
        assert edge.invoke({"xs": [1]})["ys"] == []
        levels = [span.attributes.get("langfuse.observation.level") for span in recording.named("Fails")]
        assert levels == ["ERROR", "ERROR"], "the module and its item"


def test_what_traces_show_of_values() -> None:
    class Model(BaseModel):
        text: str

    assert cut({"a": [1, 2.0, None, True], "b": np.ones((2, 3), np.float32), "c": jnp.ones(2)}) == {
        "a": [1, 2.0, None, True],
        "b": "float32[2, 3]",
        "c": "float32[2]",
    }
    assert cut(Model(text="a")) == cut(dspy.Prediction(text="a")) == {"text": "a"}
    assert cut({"a": {"b": {"c": {"d": {"e": 1}}}}}) == {"a": {"b": {"c": {"d": "{'e': 1}"}}}}
    assert cut(list(range(9))) == [0, 1, 2, 3, 4, "... (9 entries)"]
    assert cut(dict.fromkeys(range(30)))["..."] == "30 keys"
    assert cut(object).startswith("<class")


def test_a_call_that_fails() -> None:
    with (
        ModelServer(Reply.failed(500)) as server,
        recorded() as recording,
        dspy.context(lm=server.lm(num_retries=0)),
    ):
        edge = vmap(dspy.Predict("item -> answer"), batch_key="xs", out_key="ys", on_error="drop")
        assert edge.invoke({"xs": ["a"]})["ys"] == []
        (call,) = {span.context.span_id: span for span in recording.named("fake")}.values()
        assert call.attributes["langfuse.observation.level"] == "ERROR"
        assert "500" in call.attributes["langfuse.observation.status_message"]


def test_attributes_and_flush_do_nothing_when_it_is_off() -> None:
    with tracing.attributes(user_id="u"):
        tracing.flush()


def test_failures_scores_and_attributes_in_any_backend() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use_otel(provider)
    handler = None
    try:
        with tracing.attributes(user_id="u"), pytest.raises(ValueError, match="broken"):
            vmap(lambda state: fails(state), batch_key="xs", out_key="ys", name="fails").invoke({"xs": [1]})
        with recorded() as recording:
            handler = recording.handler
            tracing.use_otel(provider, scores=True)
            graph_of(vmap(square, batch_key="xs", out_key="ys", name="adopted")).invoke(
                {"xs": [1]}, {"callbacks": [handler]}
            )
            (adopted,) = recording.named("vmap:adopted")
            assert facts(adopted)["fan_out"] == 1, "the handler's client has the whole run"
            assert Counter(line.strip() for line in recording.tree())["square"] == 1
    finally:
        tracing.off()
    failed = next(span for span in exporter.get_finished_spans() if span.name == "vmap:fails")
    assert failed.status.description == "ValueError: broken"


@pytest.mark.parametrize("mode", MODES)
def test_a_value_that_cannot_be_shown_breaks_nothing(mode: str) -> None:
    value = Unwilling()
    with recorded() as recording:
        edge = vmap(lambda state: state["item"], batch_key="xs", out_key="ys", name="same")
        assert run(edge, {"xs": [value, b"abc"]}, mode)["ys"] == [value, b"abc"]
        (span,) = recording.named("vmap:same")
    assert (
        "Unwilling, which cannot be shown: AssertionError" in span.attributes["langfuse.observation.output"]
    )
    assert cut([b"abc"]) == ["bytes[3]"]


@pytest.mark.parametrize("mode", MODES)
def test_steps_and_operators_stand_below_their_nodes(mode: str) -> None:
    async def steps(state: Any) -> Any:
        with tracing.span("outer"), tracing.span("inner"):
            return {"answers": ["a"]}

    with ModelServer("yes") as server, recorded() as recording:
        builder = StateGraph(Topics)
        builder.add_node("steps", steps if mode == "async" else lambda state: asyncio.run(steps(state)))
        builder.add_node(
            "ask", operator_node(ModelOperator(server.lm(), "{xs}"), input_fields="xs", output_fields="ys")
        )
        builder.add_edge(START, "steps")
        builder.add_edge("steps", "ask")
        builder.add_edge("ask", END)
        with tracing.span("around"):
            run(builder.compile(), {"xs": "?"}, mode, config_of(recording, True))
        expected = [
            "around",
            "  LangGraph",
            "    steps",
            "      outer",
            "        inner",
            "    ask",
            "      fake",
        ]
        assert recording.tree() == expected


def test_parts_of_many_that_were_stopped_are_no_errors() -> None:
    def odd(state: Any) -> Any:
        if state["item"] == 40:
            raise ValueError("odd")
        return state["item"]

    with recorded() as recording:
        with pytest.raises(ValueError, match="odd"):
            vmap(odd, batch_key="xs", out_key="ys").invoke({"xs": list(range(1000))})
        failed = [
            span
            for span in recording.named("odd")
            if span.attributes.get("langfuse.observation.level") == "ERROR"
        ]
        assert [facts(span)["index"] for span in failed] == [40]
