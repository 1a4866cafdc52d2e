"""Traces over the wire: what arrives at a server, and what one that is slow, refuses or is absent does to a
graph."""

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import dspy
import pytest
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers import LangChainTracer
from langfuse import Evaluation

from mahsm import cli, reduce_edge, tracing, vmap
from mahsm.testing import LangfuseServer, ModelServer, Reply
from mahsm.testing._answers import tokens_of
from tests.helpers import MODES, graph_of, run
from tests.tracing.spans import recorded

_numbers = itertools.count()


@contextmanager
def traced_to(url: str, **options: Any) -> Iterator[Any]:
    handler = tracing.init(f"pk-wire-{next(_numbers)}", "sk", url, **{"timeout": 1, **options})
    try:
        yield handler
    finally:
        tracing.off()


def double(state: Any) -> int:
    return state["item"] * 2


def test_everything_of_ten_thousand_items_in_sixteen_threads_arrives() -> None:
    def odd(state: Any) -> int:
        if state["item"] % 100 == 7:
            raise ValueError("odd")
        return state["item"]

    edge = vmap(odd, batch_key="xs", out_key="ys", on_error="drop", name="odd_ones")
    with LangfuseServer() as server, traced_to(server.url):
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: edge.invoke({"xs": list(range(625))}), range(16)))
        tracing.flush()
        names = Counter(span.name for span in server.spans)
        errors = sum(
            span.status.code == 2 or any(a.value.string_value == "ERROR" for a in span.attributes)
            for span in server.spans
        )
    assert names["vmap:odd_ones"] == 16
    assert errors >= 16 * 7, "each failed item has a span"
    assert len({span.trace_id for span in server.spans}) == 16
    assert len({span.span_id for span in server.spans}) == len(server.spans)


@pytest.mark.parametrize("mode", MODES)
def test_scores_are_sent(mode: str) -> None:
    def odd(state: Any) -> int:
        if state["item"] == 1:
            raise ValueError("odd")
        return state["item"]

    edge = vmap(odd, batch_key="xs", out_key="ys", on_error="drop")
    best = reduce_edge(input_key="ys", output_key="best", reducer=lambda ys: {"value": ys[0], "score": 0.5})
    with LangfuseServer() as server, traced_to(server.url, scores=True):
        run(edge, {"xs": [1, 2, 3, 4]}, mode)
        run(best, {"ys": [1]}, mode)
        tracing.flush()
        found = {score["name"]: score["value"] for score in server.scores}
    assert found == {"mahsm.error_rate": 0.25, "mahsm.judge": 0.5}


BROKEN = {"slow": {"latency": 0.5}, "failing": {"status": 500}, "refusing": {"status": 401}}


@pytest.mark.parametrize("kind", [*BROKEN, "absent"])
def test_a_server_that_is_no_good_changes_nothing(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async def wait(state: Any) -> int:
        await asyncio.sleep(0.02)
        return state["item"]

    edge = vmap(wait, batch_key="xs", out_key="ys", max_concurrency=4)

    def seconds() -> float:
        began = time.perf_counter()
        assert asyncio.run(edge.ainvoke({"xs": list(range(100))}))["ys"] == list(range(100))
        return time.perf_counter() - began

    seconds()
    alone = min(seconds() for _ in range(3))
    with LangfuseServer(**BROKEN.get(kind, {})) as server:
        url = "http://127.0.0.1:9" if kind == "absent" else server.url
        with traced_to(url):
            traced = min(seconds() for _ in range(3))
    assert traced <= 5 * alone, "a busy machine is no matter; the benchmark measures how much it is"


@pytest.mark.parametrize("mode", MODES)
def test_the_sum_over_generations_is_what_the_server_counted(mode: str) -> None:
    with ModelServer({"answer": "yes"}) as server, recorded() as recording, dspy.context(lm=server.lm()):
        edge = vmap(dspy.Predict("item -> answer"), batch_key="xs", out_key="ys", max_concurrency=200)
        run(edge, {"xs": [f"{'word ' * (number % 17)}{number}" for number in range(200)]}, mode)
        details = [
            json.loads(span.attributes["langfuse.observation.usage_details"])
            for span in recording.named("fake")
        ]
        assert len(details) == len(server.calls) == 200
        counted = [tokens_of(call, Reply({"answer": "yes"})) for call in server.calls]
        assert (sum(each["input"] for each in details), sum(each["output"] for each in details)) == (
            sum(tokens[0] for tokens in counted),
            sum(tokens[1] for tokens in counted),
        )
        others = [span for span in recording.spans if span.name != "fake"]
        assert not any("usage_details" in str(dict(span.attributes)) for span in others), "no double count"


def test_cached_calls_take_nothing() -> None:
    with ModelServer({"answer": "yes"}) as server, recorded() as recording:
        edge = vmap(dspy.Predict("item -> answer"), batch_key="xs", out_key="ys", max_concurrency=1)
        with dspy.context(lm=server.lm(cache=True)):
            edge.invoke({"xs": [f"cached {time.time_ns()}"] * 3})
        assert len(server.calls) == 1
        totals = sorted(
            span.attributes["langfuse.observation.usage_details"] for span in recording.named("fake")
        )
        assert totals[:2] == ['{"input": 0, "output": 0, "total": 0}'] * 2


class RecordingClient:
    """What LangSmith's tracer talks to, without a network."""

    def __init__(self) -> None:
        self.runs: dict[Any, dict[str, Any]] = {}

    def create_run(self, **run: Any) -> None:
        self.runs[run["id"]] = run

    def update_run(self, run_id: Any, **run: Any) -> None:
        self.runs[run_id] |= run

    def flush(self) -> None:
        """Nothing waits."""


@pytest.mark.parametrize("mode", MODES)
def test_the_run_tree_of_langsmith_nests_as_well(mode: str) -> None:
    client = RecordingClient()
    tracer = LangChainTracer(client=client)  # type: ignore[arg-type]
    leaf = RunnableLambda(lambda state: state["item"], name="leaf")
    edge = vmap(leaf, batch_key="xs", out_key="ys", name="leaves")
    with recorded():
        run(graph_of(edge), {"xs": [1, 2]}, mode, {"callbacks": [tracer]})
    tracer.wait_for_futures()
    names = {run_id: each["name"] for run_id, each in client.runs.items()}
    pairs = Counter((names.get(each.get("parent_run_id")), each["name"]) for each in client.runs.values())
    assert pairs[("leaves", "vmap:leaves")] == 1, "below its node"
    assert pairs[("vmap:leaves", "leaf")] == 2, "its items"
    assert pairs[("leaf", "leaf")] == 2, "and what they call"
    assert all(each.get("end_time") for each in client.runs.values())


def test_an_experiment_runs_a_graph_for_each_item() -> None:
    edge = vmap(double, batch_key="xs", out_key="ys")

    def right(*, output: Any, expected_output: Any, **_: Any) -> Evaluation:
        return Evaluation(name="right", value=output["ys"] == expected_output)

    data = [{"input": {"xs": [number]}, "expected_output": [2 * number]} for number in range(3)]
    with recorded() as recording:
        result = tracing.experiment(graph_of(edge), data, [right], name="doubles")
        assert [item.evaluations[0].value for item in result.item_results] == [True] * 3
        assert len(recording.named("vmap:double")) == 3
        assert len({span.context.trace_id for span in recording.named("vmap:double")}) == 3
    with pytest.raises(RuntimeError, match=r"needs Langfuse: call tracing\.init\(\)"):
        tracing.experiment(edge, data)


def test_a_trace_has_at_most_nine_thousand_observations() -> None:
    inner = vmap(double, batch_key="row", out_key="ys", item_to_state=lambda x: {"item": x})
    outer = vmap(inner, batch_key="xs", out_key="out", item_to_state=lambda row: {"row": row})
    with recorded() as recording:
        outer.invoke({"xs": [list(range(100))] * 100})
        assert 9_000 <= len(recording.spans) <= 9_200
        assert len(recording.named("vmap:double")) == 100, "every edge run"


def test_modules_count_among_the_nine_thousand() -> None:
    class Adds(dspy.Module):
        def forward(self, x: Any) -> Any:
            return dspy.Prediction(y=x + 1)

    inner = vmap(Adds(), batch_key="row", out_key="ys", item_to_state=lambda x: {"x": x})
    outer = vmap(
        inner, batch_key="xs", out_key="out", item_to_state=lambda row: {"row": row}, max_concurrency=4
    )
    with recorded() as recording:
        outer.invoke({"xs": [list(range(250))] * 24})
        assert 9_000 <= len(recording.spans) <= 9_050


def test_the_command_line_sends_what_it_traced(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bucket.md").write_text("A token bucket limits the rate of calls.")
    with LangfuseServer() as server:
        monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", f"pk-wire-{next(_numbers)}")
        monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk")
        monkeypatch.setenv("LANGFUSE_BASE_URL", server.url)
        assert cli.main(["demo", "--files", str(tmp_path / "*.md")]) == 0
        names = {span.name for span in server.spans}
    assert {"mahsm demo", "vmap:relevance", "reduce:top_k"} <= names
