"""Models in edges, operators, graphs and jitted functions; limits, budgets, usage and spans."""

import asyncio
import json
import subprocess
import sys
import threading
from typing import Any, TypedDict

import dspy
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph

import mahsm
from mahsm import Budget, RateLimit, chain, ensemble, limits, models, parallel, retry, vmap, xcs
from mahsm.errors import BudgetExceeded, MissingKeyError
from mahsm.operators import ModelOperator, Operator, model_field
from mahsm.testing import FakeLM, ModelServer, Reply
from tests.tracing.spans import recorded


class State(TypedDict, total=False):
    question: str
    answer: str


def test_a_binding_is_a_target_whose_result_is_the_text() -> None:
    ask = models.instance(FakeLM(lambda call: call.text.upper()))
    edge = vmap(ask, batch_key="xs", out_key="ys")
    assert edge.invoke({"xs": ["a", "b"]}) == {"ys": ["A", "B"]}
    assert asyncio.run(edge.ainvoke({"xs": ["a", "b"]})) == {"ys": ["A", "B"]}


@pytest.mark.parametrize("is_async", [False, True])
def test_a_binding_is_a_node_and_a_branch(is_async: bool) -> None:
    node = models.instance(FakeLM("Rome")).as_node("question", "answer")
    graph = StateGraph(State).add_node("ask", node).add_edge(START, "ask").add_edge("ask", END).compile()
    branches = parallel([node, lambda state: {"other": 1}])
    for runnable in (graph, branches):
        state = {"question": "Capital?"}
        result = asyncio.run(runnable.ainvoke(state)) if is_async else runnable.invoke(state)
        assert result["answer"] == "Rome"


def test_a_node_without_its_prompt() -> None:
    with pytest.raises(
        MissingKeyError, match=r"no key 'item'.*It is the prompt; name another key with as_node"
    ):
        parallel([models.instance(FakeLM("x")).as_node(output_key="answer")]).invoke({"question": "q"})


def test_a_binding_is_a_field_and_a_part_of_operators() -> None:
    class Judge(Operator):
        model: Any = model_field()

        def forward(self, input: Any, /) -> str:
            return self.model(f"judge {input}").text

    assert Judge(model=FakeLM("fair"))("x") == "fair"
    assert ModelOperator(models.instance(FakeLM("yes")), "Is it {x}?")("x") == "yes"


def test_composed_functions_of_models() -> None:
    lm = FakeLM(lambda call: call.text.upper())

    def extract(text: str) -> Any:
        return models(lm, f"extract {text}")

    def enrich(facts: Any) -> dict[str, str]:
        return {"facts": str(facts), "topic": models(lm, f"topic of {facts}").text}

    assert chain(extract, enrich)("x") == {"facts": "EXTRACT X", "topic": "TOPIC OF EXTRACT X"}
    assert [str(one) for one in ensemble(extract, extract)("x")] == ["EXTRACT X"] * 2
    assert str(retry(extract, max_attempts=2)("x")) == "EXTRACT X"


def test_models_are_steps_of_jitted_functions() -> None:
    together = threading.Barrier(4, timeout=30)

    def answer(call: Any) -> str:
        together.wait()
        return call.text

    lm = FakeLM(answer)
    ask = models.instance(lm)

    @xcs.jit
    def program(q: str) -> str:
        return f"{models(lm, f'1 {q}')}, {ask(f'2 {q}').text}, {models(lm, f'3 {q}')}, {ask(f'4 {q}')}"

    assert program("x") == "1 x, 2 x, 3 x, 4 x"
    assert len(program.last.steps) == 4


async def test_awaited_models_are_steps() -> None:
    ask = models.instance(FakeLM(lambda call: call.text))

    @xcs.jit
    async def program(q: str) -> str:
        first, second = await models.acall(ask, f"1 {q}"), await ask.acall(f"2 {q}")
        return f"{first} {second}"

    assert await program("x") == "1 x 2 x"
    assert len(program.last.steps) == 2


def test_usage_and_budgets_count_direct_calls() -> None:
    lm = FakeLM(Reply("x", usage=(100, 10)), price=(1.0, 2.0))
    with mahsm.usage() as used:
        response = models(lm, "q")
    assert (used.calls, used.tokens) == (1, response.usage.tokens)
    assert used.usd == pytest.approx(response.cost)
    edge = vmap(
        lambda state: models(lm, "q").text,
        batch_key="xs",
        out_key="ys",
        max_concurrency=1,
        budget=Budget(tokens=200),
    )
    with pytest.raises(BudgetExceeded):
        edge.invoke({"xs": [1, 2, 3]})


def test_a_direct_call_waits_for_the_limit_of_its_provider(name: str) -> None:
    with limits.admit(RateLimit(name, rps=1000, burst=1)):
        pass
    for _ in range(3):
        models(lm_of(name), "q")
    asyncio.run(models.acall(lm_of(name), "q"))
    assert limits.stats()[name].admitted == 1 + 4


def lm_of(provider: str) -> FakeLM:
    return FakeLM("x", model=f"{provider}/m")


def test_a_direct_call_has_a_span_with_usage() -> None:
    with recorded() as recording:
        models(FakeLM(Reply("x", usage=(100, 10))), "q")
    (span,) = recording.spans
    usage = json.loads(span.attributes["langfuse.observation.usage_details"])
    assert (usage["input"], usage["output"]) == (100, 10)


def test_a_first_call_needs_neither_langgraph_nor_langchain_nor_jax() -> None:
    code = """
import sys
from mahsm import models
from mahsm.testing import ModelServer
with ModelServer("x") as server:
    models("openai/m", "q", api_base=server.base_url, api_key="k", cache=False)
print([name for name in ("langgraph", "langchain_core", "jax", "langfuse", "litellm") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_edge_knows_the_provider_of_a_binding(name: str) -> None:
    ask = models.instance(lm_of(name))
    edge = vmap(ask, batch_key="xs", out_key="ys", rate_limit=RateLimit(rps=1000, burst=10))
    assert edge.invoke({"xs": ["a", "b", "c"]}) == {"ys": ["x"] * 3}
    assert limits.stats()[name].admitted == 3


def test_calls_that_are_refused_are_tried_again_by_the_edge() -> None:
    replies = [Reply("slow down", status=429, retry_after=0.01), Reply("yes")]
    with ModelServer(replies) as server, mahsm.usage() as used:
        ask = models.instance("openai/m", api_base=server.base_url, api_key="k", cache=False)
        edge = vmap(ask, batch_key="xs", out_key="ys", retry=mahsm.Retry(attempts=3, base=0))
        assert edge.invoke({"xs": ["a"]}) == {"ys": ["yes"]}
        assert len(server.calls) == 2
    assert (used.calls, used.failed) == (2, 1)


def test_a_response_in_a_checkpoint_has_its_fields_and_no_raw() -> None:
    class Answered(TypedDict):
        answer: Any

    modules = [("mahsm._models._response", name) for name in ("Response", "TokenUsage")]
    saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=modules))
    graph = StateGraph(Answered).add_node("ask", lambda _: {"answer": models(FakeLM("x"), "q")})
    compiled = graph.add_edge(START, "ask").compile(checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "1"}}
    answer = compiled.invoke({"answer": None}, config)["answer"]
    found = compiled.get_state(config).values["answer"]
    assert (found, found.usage, found.raw) == (answer, answer.usage, None)


def test_calls_in_threads_of_dspy_count_in_the_blocks_around() -> None:
    class Program(dspy.Module):
        def forward(self, q: str) -> str:
            return models(lm, q).text

    lm = FakeLM(Reply("x", usage=(5, 1)))
    threads = dspy.Parallel(num_threads=2, disable_progress_bar=True)
    with mahsm.usage() as used:
        assert threads([(Program(), {"q": "a"}), (Program(), {"q": "b"})]) == ["x", "x"]
    assert (used.calls, used.tokens) == (2, 12)
