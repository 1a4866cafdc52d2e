"""A DSPy module over many inputs: `vmap` against DSPy's own `dspy.Parallel` and `Module.batch`.

The model is a server in a process of its own that takes 50 ms for an answer. All have the same number of
calls at once, with the same clients. Every twentieth call fails, always: a 503 that no retry mends.
"""

import asyncio
import contextlib
import gc
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy
from langfuse import Langfuse
from openinference.instrumentation.dspy import DSPyInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import mahsm
from benchmarks import graph_module, report
from benchmarks.report import Figure
from mahsm import is_item_error, tracing, vmap

LATENCY, AT_ONCE = 0.05, 64
SERVER = """
import sys
from mahsm.testing import ModelServer, Reply
def answer(call):
    number = int(call.field("question"))
    if failing and number % 20 == 7:
        return Reply.failed(503)
    return Reply({"answer": str(2 * number)}, usage=(100 + number, 10))
latency, failing = float(sys.argv[1]), sys.argv[2] == "failing"
with ModelServer(answer, latency=latency) as server:
    print(server.base_url, flush=True)
    sys.stdin.read()
"""
"""It ends when its input does."""

Run = Callable[[list[str]], Sequence[Any]]
"""From questions to answers, in their order; what failed is no text."""


@contextlib.contextmanager
def served(*, failing: bool) -> Generator[None, None, None]:
    """A model server, and the language model that asks it."""
    command = [sys.executable, "-c", SERVER, str(LATENCY), "failing" if failing else "well"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lm = dspy.LM(
            "openai/fake", api_base=process.stdout.readline().strip(), api_key="k", cache=False, num_retries=0
        )
        with dspy.context(lm=lm):
            yield
        assert process.stdin is not None
        process.stdin.close()


ask = dspy.Predict("question -> answer")


def answers_of(results: Sequence[Any]) -> list[Any]:
    return [getattr(result, "answer", None) for result in results]


def edge() -> Any:
    return vmap(
        ask,
        batch_key="questions",
        out_key="answers",
        item_to_state=lambda question: {"question": question},
        result="answer",
        max_concurrency=AT_ONCE,
        on_error="collect",
        name="answers",
    )


def with_vmap(questions: list[str]) -> Sequence[Any]:
    return edge().invoke({"questions": questions})["answers"]


def with_vmap_awaited(questions: list[str]) -> Sequence[Any]:
    return asyncio.run(edge().ainvoke({"questions": questions}))["answers"]


def with_parallel(questions: list[str], **options: Any) -> Sequence[Any]:
    parallel = dspy.Parallel(num_threads=AT_ONCE, disable_progress_bar=True, **options)
    return answers_of(parallel([(ask, {"question": question}) for question in questions]))


def with_batch(questions: list[str], **options: Any) -> Sequence[Any]:
    examples = [dspy.Example(question=question).with_inputs("question") for question in questions]
    return answers_of(ask.batch(examples, num_threads=AT_ONCE, disable_progress_bar=True, **options))


def with_semaphore(questions: list[str]) -> Sequence[Any]:
    """What one writes by hand to await a module many times."""

    async def all_of_them() -> list[Any]:
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(question: str) -> Any:
            async with slots:
                return await ask.acall(question=question)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(question)) for question in questions]
        return answers_of([task.result() for task in tasks])

    return asyncio.run(all_of_them())


WAYS: dict[str, Run] = {
    "vmap, invoke": with_vmap,
    "vmap, ainvoke": with_vmap_awaited,
    "dspy.Parallel": with_parallel,
    "Module.batch": with_batch,
    "acall and a semaphore": with_semaphore,
}


@dataclass
class Seen:
    """What one way did.

    Attributes:
        walls: Seconds of each round without failures.
        right: Right answers in the right places, with failures.
        errors: Failed items that say so where their answer would be.
        tokens: Tokens counted, by the way's own means.
        nested: Calls of the model whose spans are in the caller's trace.
    """

    walls: list[float] = field(default_factory=list[float])
    right: int = 0
    errors: int = 0
    tokens: int = 0
    nested: int = 0


def measure_walls(seen: dict[str, Seen], questions: list[str], rounds: int) -> None:
    expected = [str(2 * int(question)) for question in questions]
    with served(failing=False):
        for _ in range(rounds):
            for name, run in WAYS.items():
                gc.collect()
                began = time.perf_counter()
                assert list(run(questions)) == expected
                seen[name].walls.append(time.perf_counter() - began)


def measure_failures(seen: dict[str, Seen], questions: list[str]) -> None:
    patient: dict[str, Run] = {
        "dspy.Parallel, max_errors=500": lambda questions: with_parallel(questions, max_errors=500),
        "Module.batch, max_errors=500": lambda questions: with_batch(questions, max_errors=500),
    }
    with served(failing=True):
        for name, run in {**WAYS, **patient}.items():
            one = seen.setdefault(name, Seen())
            try:
                answers = run(questions)
            except Exception:  # noqa: BLE001  it has given up, and all answers are lost
                continue
            one.right = sum(
                answer == str(2 * int(question)) for question, answer in zip(questions, answers, strict=True)
            )
            one.errors = sum(is_item_error(answer) for answer in answers)


def measure_usage(seen: dict[str, Seen], questions: list[str]) -> None:
    with served(failing=False):
        for name, run in WAYS.items():
            if name.startswith("vmap"):
                with mahsm.usage() as used:
                    run(questions)
                seen[name].tokens = used.tokens
            else:
                with dspy.context(track_usage=True), dspy.track_usage() as tracker:
                    run(questions)
                seen[name].tokens = sum(
                    usage["total_tokens"] for usage in tracker.get_total_tokens().values()
                )


def measure_spans(seen: dict[str, Seen], questions: list[str]) -> None:
    with served(failing=False):
        for name, run in WAYS.items():
            exporter, provider = InMemorySpanExporter(), TracerProvider()
            client = Langfuse(
                public_key=f"pk-{abs(hash(name))}",
                secret_key="sk",
                tracer_provider=provider,
                span_exporter=exporter,
            )
            own = name.startswith("vmap")
            if own:
                tracing.use(client)
            else:  # what Langfuse's documentation says for DSPy
                provider.add_span_processor(SimpleSpanProcessor(exporter))
                DSPyInstrumentor().instrument(tracer_provider=provider)
            with client.start_as_current_observation(name="caller", as_type="span"):
                run(questions)
            client.flush()
            tracing.off() if own else DSPyInstrumentor().uninstrument()
            spans = {span.context.span_id: span for span in exporter.get_finished_spans()}
            caller = next(span for span in spans.values() if span.name == "caller")
            calls = [span for span in spans.values() if _is_call(span)]
            assert len(calls) == len(questions), f"{name}: {len(calls)} spans of calls"
            seen[name].nested = sum(span.context.trace_id == caller.context.trace_id for span in calls)
            client.shutdown()


def _is_call(span: Any) -> bool:
    kinds = (span.attributes.get("langfuse.observation.type"), span.attributes.get("openinference.span.kind"))
    return "generation" in kinds or "LLM" in kinds


def compare(rounds: int, count: int) -> tuple[list[Figure], list[list[str]], dict[str, Any]]:
    questions = [str(number) for number in range(count)]
    seen = {name: Seen() for name in WAYS}
    measure_walls(seen, questions, rounds)
    measure_failures(seen, questions)
    measure_usage(seen, questions)
    measure_spans(seen, questions)
    failing = sum(number % 20 == 7 for number in range(count))
    tokens = sum(110 + number for number in range(count))
    rows = [
        [
            f"{count} calls of {LATENCY * 1000:.0f} ms, {AT_ONCE} at once",
            "seconds",
            f"right with {failing} failures",
            *_HEADS,
        ]
    ]
    for name, one in seen.items():
        rows.append(
            [
                name,
                f"{statistics.median(one.walls):.2f}" if one.walls else "",
                f"{one.right} of {count - failing}",
                f"{one.errors} of {failing}",
                f"{one.tokens:,} of {tokens:,}" if one.walls else "",
                f"{one.nested} of {count}" if one.walls else "",
            ]
        )
    sync, awaited = seen["vmap, invoke"], seen["vmap, ainvoke"]
    worst = [min(getattr(sync, field), getattr(awaited, field)) for field in ("right", "tokens", "nested")]
    figures = [
        Figure("wall, vmap / dspy.Parallel", ratio(sync, seen["dspy.Parallel"]), 1.1),
        Figure("wall, vmap / Module.batch", ratio(sync, seen["Module.batch"]), 1.1),
        Figure(
            "wall, vmap awaited / acall and a semaphore", ratio(awaited, seen["acall and a semaphore"]), 1.1
        ),
        Figure(
            "right answers with 5 % failures / those there are",
            worst[0] / (count - failing),
            1,
            at_least=True,
        ),
        Figure("tokens counted / taken", worst[1] / tokens, 1, at_least=True),
        Figure("spans of calls in the caller's trace / calls", worst[2] / count, 1, at_least=True),
    ]
    return (
        figures,
        rows,
        {name: vars(one) for name, one in seen.items()},
    )


def ratio(one: Seen, other: Seen) -> float:
    """Of two ways that were measured by turns: the median of the rounds' ratios, which no single slow round
    decides.
    """
    return statistics.median(mine / theirs for mine, theirs in zip(one.walls, other.walls, strict=True))


_HEADS = ("errors in their places", "tokens counted", "spans nested")


def main(*, quick: bool) -> int:
    logging.getLogger("dspy").setLevel(logging.CRITICAL)  # it logs every failure
    rounds, count = (1, 60) if quick else (12, 500)
    parts: dict[str, Any] = {
        "ways": lambda: compare(rounds, count),
        "graph": lambda: ([graph_module.measure(rounds, 20)], {}),
    }
    return report.run("dspy", parts, quick=quick)
