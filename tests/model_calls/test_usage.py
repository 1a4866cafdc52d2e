"""`mahsm.usage()`: what calls took, exactly, wherever they are made."""

import asyncio
import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any
from uuid import uuid4

import dspy
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import FakeListLLM
from langchain_core.runnables.config import var_child_runnable_config
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

import mahsm
from mahsm import GraphModule, connect, dspy_node, operator_node, parallel, reduce_edge, vmap
from mahsm.errors import EdgeError
from mahsm.operators import ModelOperator
from mahsm.reducers import llm_judge_select
from mahsm.testing import Call, FakeLM, ModelServer, Reply
from tests.helpers import MODES, graph_of, run

SMALL = Reply({"answer": "x"}, usage=(10, 1))


class State(TypedDict, total=False):
    question: str
    questions: list[str]
    answer: str
    answers: list[Any]
    best: Any


def ask(**options: Any) -> Any:
    return dspy_node(dspy.Predict("question -> answer"), **options)


def over_questions(target: Any, **options: Any) -> Any:
    one = lambda question: {"question": question}  # noqa: E731
    return vmap(target, batch_key="questions", out_key="answers", item_to_state=one, **options)


def figures(usage: Any) -> tuple[int, ...]:
    return (usage.calls, usage.failed, usage.cached, usage.input_tokens, usage.output_tokens)


def said(call: Call) -> Any:
    return Reply({"answer": "x", "best": 1}, usage=(10, 1))


@pytest.mark.parametrize("mode", MODES)
def test_by_node_by_model_and_by_edge_run(mode: str) -> None:
    class Judge(dspy.Signature):
        candidates: list[str] = dspy.InputField()
        best: int = dspy.OutputField()

    builder = StateGraph(State)
    builder.add_node("first", ask())
    edge = over_questions(ask(name="ask"), name="all", result="answer")
    judge = reduce_edge(
        input_key="answers", output_key="best", reducer=llm_judge_select(judge=Judge), name="pick"
    )
    connect(builder, START, "first", edge, judge, END)
    graph = builder.compile()
    with mahsm.usage() as used, dspy.context(lm=FakeLM(said, price=(1.0, 1.0))):
        run(graph, {"question": "q", "questions": ["a", "b", "c"]}, mode)
    assert figures(used) == (6, 0, 0, 60, 6)
    assert used.tokens == 66
    assert used.usd == pytest.approx(66e-6)
    assert {name: one.calls for name, one in used.by_node.items()} == {
        "first": 1,
        "all/ask": 3,
        "pick/reduce/Predict": 2,
    }
    assert {name: figures(one) for name, one in used.by_model.items()} == {"fake/model": (6, 0, 0, 60, 6)}
    assert [(one.edge, one.usage.calls) for one in used.runs] == [("all", 3), ("pick", 2), ("judge", 2)]


@pytest.mark.parametrize("mode", MODES)
def test_edges_in_edges_and_sends(mode: str) -> None:
    inner = over_questions(ask(name="ask"), name="inner")
    outer = vmap(
        parallel({"a": inner, "b": ask()}, name="both", merge=lambda state, updates: {}),
        batch_key="answers",
        out_key="best",
        item_to_state=lambda questions: {"questions": questions, "question": "q"},
        name="outer",
    )
    with mahsm.usage() as used, dspy.context(lm=FakeLM(said)):
        run(outer, {"answers": [["a", "b"], ["c"]]}, mode)
    assert used.calls == 5
    assert used.runs[0].usage.calls == 5
    assert sorted((one.edge, one.usage.calls) for one in used.runs[1:]) == [
        ("both", 2),
        ("both", 3),
        ("inner", 1),
        ("inner", 2),
    ]
    assert {name: one.calls for name, one in used.by_node.items()} == {
        "outer/both/a/ask": 3,
        "outer/both/b": 2,
    }

    builder = StateGraph(State)
    builder.add_node("sent", dspy_node(dspy.Predict("question -> answer"), output_fields=[]))
    builder.add_conditional_edges(
        START, lambda state: [Send("sent", {"question": q}) for q in state["questions"]], ["sent"]
    )
    with mahsm.usage() as used, dspy.context(lm=FakeLM(said)):
        run(builder.compile(), {"questions": ["a", "b", "c"]}, mode)
    assert {name: one.calls for name, one in used.by_node.items()} == {"sent": 3}


@pytest.mark.parametrize("mode", MODES)
def test_exact_under_concurrency_with_failures(mode: str) -> None:
    def answer(call: Call) -> Any:
        number = int(call.inputs["question"])
        return Reply.failed() if number % 10 == 3 else Reply({"answer": "x"}, usage=(number, 1))

    edge = over_questions(ask(), max_concurrency=32, on_error="drop", name="all")
    expected = [number for number in range(300) if number % 10 != 3]
    with ModelServer(answer) as server, mahsm.usage() as used, dspy.context(lm=server.lm()):
        run(edge, {"questions": [str(number) for number in range(300)]}, mode)
    assert figures(used) == (300, 30, 0, sum(expected), len(expected))
    assert used.unpriced == len(expected)
    assert used.by_model["fake"].calls == 270
    assert used.by_node["all/Predict"].failed == 30
    assert figures(used.runs[0].usage) == figures(used)


def test_cache_hits_take_nothing() -> None:
    question = str(uuid4())
    with mahsm.usage() as used, dspy.context(lm=FakeLM(SMALL, cache=True, price=(1.0, 1.0))):
        for _ in range(3):
            ask().invoke({"question": question})
    assert figures(used) == (1, 0, 2, 10, 1)
    assert used.usd == pytest.approx(11e-6)


def test_prices_that_the_caller_knows() -> None:
    with (
        ModelServer(SMALL) as server,
        mahsm.usage({"fake": (2.0, 3.0)}) as used,
        dspy.context(lm=server.lm()),
    ):
        over_questions(ask()).invoke({"questions": ["a"]})
        with mahsm.usage() as inner:
            ask().invoke({"question": "b"})
    assert (used.usd, used.unpriced) == (pytest.approx(46e-6), 0)
    assert inner.usd == used.runs[0].usage.usd == pytest.approx(23e-6)


@pytest.mark.parametrize("price", [0.5, (1.0,), (1.0, -1.0)])
def test_prices_that_are_none(price: Any) -> None:
    with (
        pytest.raises(
            EdgeError, match=r"usage: prices\['m'\]=.*expected US dollars per million input and output tokens"
        ),
        mahsm.usage({"m": price}),
    ):
        pass


def test_blocks_nest_and_runs_side_by_side_do_not_mix() -> None:
    def one(number: int) -> tuple[int, ...]:
        with mahsm.usage() as used, dspy.context(lm=FakeLM(SMALL, latency=0.001)):
            over_questions(ask()).invoke({"questions": ["q"] * number})
        return figures(used)

    with mahsm.usage() as all_of_them, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: copy_context().run(one, number), range(1, 9)))
    assert found == [(number, 0, 0, 10 * number, number) for number in range(1, 9)]
    assert all_of_them.calls == 0  # a pool's own threads are not led to by the block

    with mahsm.usage() as outer, dspy.context(lm=FakeLM(SMALL)):
        one(2)
        ask().invoke({"question": "q"})
    assert outer.calls == 3


@pytest.mark.parametrize("mode", MODES)
def test_langchain_models(mode: str) -> None:
    with ModelServer([Reply("yes", usage=(7, 2)), Reply("no", usage=(7, 2)), Reply.failed(400)]) as server:
        model = ChatOpenAI(
            model="gpt-x", base_url=server.base_url, api_key="k", max_retries=0, cache=InMemoryCache()
        )

        def node(state: State) -> State:
            return {"answer": str(model.invoke(state["question"]).content)}

        builder = StateGraph(State)
        builder.add_node("chat", node)
        graph = connect(builder, START, "chat", END).compile()
        with mahsm.usage({"gpt-x": (1.0, 2.0)}) as used:
            for question in ("a", "a", "b"):
                run(graph, {"question": question}, mode)
            with pytest.raises(Exception, match="400"):
                run(graph, {"question": "c"}, mode)
    assert figures(used) == (3, 1, 1, 14, 4)
    assert used.usd == pytest.approx((14 + 8) / 1e6)
    assert figures(used.by_node["chat"]) == (3, 1, 1, 14, 4)
    assert used.by_model["gpt-x"].calls == 2


def test_langchain_models_that_say_nothing() -> None:
    with mahsm.usage() as used:
        FakeListLLM(responses=["yes"]).invoke("?")
    assert figures(used) == (1, 0, 0, 0, 0)
    assert used.unpriced == 1
    assert used.by_node == {}


def test_threads_of_dspy_are_seen() -> None:
    class Many(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict("question -> answer")

        def forward(self, question: str) -> Any:
            dspy.Parallel(num_threads=4, disable_progress_bar=True)(
                [(self.ask, {"question": str(n)}) for n in range(8)]
            )
            return dspy.Prediction(answer="x")

    with mahsm.usage() as used, dspy.context(lm=FakeLM(SMALL, latency=0.001)):
        over_questions(Many(), name="all").invoke({"questions": ["a", "b"]})
    assert figures(used) == (16, 0, 0, 160, 16)
    assert used.runs[0].usage.calls == used.by_node["all/Many"].calls == 16

    def many(state: State) -> str:
        return Many()(question=state["question"]).answer

    with mahsm.usage() as used, dspy.context(lm=FakeLM(SMALL)):
        over_questions(vmap(many, sample=2, out_key="answers"), name="all").invoke({"questions": ["a", "b"]})
    assert used.calls == used.runs[0].usage.calls == 32

    program = GraphModule(over_questions(ask(name="ask"), name="all").compile(State), outputs=["answers"])
    examples = [dspy.Example(questions=["a", "b"]).with_inputs("questions")] * 5
    with mahsm.usage() as used, dspy.context(lm=FakeLM(SMALL)):
        program.batch(examples, num_threads=3, disable_progress_bar=True)
        dspy.Evaluate(devset=examples, metric=lambda *_: 1.0, num_threads=3, display_progress=False)(program)
    assert used.calls == used.by_node["all/ask"].calls == 20


@pytest.mark.parametrize("mode", MODES)
def test_a_language_model_that_a_function_calls_itself(mode: str) -> None:
    lm = FakeLM(Reply("yes", usage=(5, 2)))

    def node(state: State) -> State:
        return {"answer": lm(state["question"])[0]}

    builder = StateGraph(State)
    builder.add_node("node", node)
    with mahsm.usage() as used:
        run(connect(builder, START, "node", END).compile(), {"question": "q"}, mode)
        thread = threading.Thread(target=copy_context().run, args=(lm, "again"))
        thread.start()
        thread.join()
    assert figures(used) == (2, 0, 0, 10, 4)
    assert used.by_node["node"].calls == 1


@pytest.mark.parametrize("mode", MODES)
def test_models_of_operators(mode: str) -> None:
    lm = FakeLM(SMALL)
    grade = operator_node(
        ModelOperator(lm, "Grade {question}", answer=str), output_fields="answer", name="grade"
    )
    tell = operator_node(ModelOperator(lm, "Tell {question}"), output_fields="best", name="tell")
    builder = StateGraph(State)
    builder.add_node("grade", grade)
    builder.add_node("tell", tell)
    with mahsm.usage() as used:
        run(connect(builder, START, "grade", "tell", END).compile(), {"question": "q"}, mode)
    assert {name: one.tokens for name, one in used.by_node.items()} == {"grade": 11, "tell": 11}


@pytest.mark.parametrize("mode", MODES)
def test_with_dspys_history_off_it_stays_off(mode: str) -> None:
    lm = FakeLM(SMALL, price=(1.0, 1.0))
    with mahsm.usage() as used, dspy.context(lm=lm, disable_history=True):
        run(over_questions(ask()), {"questions": ["a", "b"]}, mode)
    assert figures(used) == (2, 0, 0, 20, 2)
    assert used.usd == pytest.approx(22e-6)
    assert lm.history == []


def test_copies_of_a_language_model_inside_are_seen() -> None:
    best = dspy.BestOfN(dspy.Predict("question -> answer"), N=3, reward_fn=lambda *_: 0.0, threshold=1.0)
    with mahsm.usage() as used, dspy.context(lm=FakeLM(SMALL)):
        dspy_node(best).invoke({"question": "q"})
        copied = copy.deepcopy(dspy.settings.lm)
        copied("q")
    assert used.calls == 4


def test_calls_outside_of_graphs_are_in_the_sum() -> None:
    async def both() -> None:
        await dspy.Predict("question -> answer").acall(question="q")

    with mahsm.usage() as used, dspy.context(lm=FakeLM(SMALL)):
        dspy.Predict("question -> answer")(question="q")
        asyncio.run(both())
    assert (used.calls, used.by_node) == (2, {})
    assert repr(used.by_model["fake/model"]) == (
        "Usage(calls=2, failed=0, cached=0, input_tokens=20, output_tokens=2, usd=0, unpriced=2)"
    )


@pytest.mark.parametrize("mode", MODES)
def test_progress_events_carry_tokens_and_cost(mode: str) -> None:
    edge = over_questions(ask(), name="all")
    with dspy.context(lm=FakeLM(SMALL, price=(1.0, 1.0))):
        graph = edge.compile(State)
        if mode == "async":

            async def collect() -> list[Any]:
                return [
                    event async for event in graph.astream({"questions": ["a", "b"]}, stream_mode="custom")
                ]

            events = asyncio.run(collect())
        else:
            events = list(graph.stream({"questions": ["a", "b"]}, stream_mode="custom"))
    last = events[-1]
    assert (last["edge"], last["done"], last["tokens"]) == ("all", 2, 22)
    assert last["usd"] == pytest.approx(22e-6)


async def of_dspy_later(state: Any) -> str:
    return (await dspy.Predict("question -> answer").acall(question=state["question"])).answer


def of_dspy(state: Any) -> str:
    return dspy.Predict("question -> answer")(question=state["question"]).answer


@pytest.mark.parametrize("target", [of_dspy, of_dspy_later])
def test_they_carry_those_of_functions_too(target: Any) -> None:
    graph = over_questions(target, name="all").compile(State)
    with dspy.context(lm=FakeLM(SMALL, price=(1.0, 1.0))):
        last = list(graph.stream({"questions": ["a", "b"]}, stream_mode="custom"))[-1]
    assert (last["done"], last["tokens"], last["usd"]) == (2, 22, pytest.approx(22e-6))


@pytest.mark.parametrize("mode", MODES)
def test_items_are_no_runs_of_their_own_for_counting_alone(mode: str) -> None:
    parents: list[Any] = []

    def target(state: dict[str, Any]) -> int:
        config: Any = var_child_runnable_config.get()
        parents.append(config["callbacks"].parent_run_id)
        return state["item"]

    async def later(state: dict[str, Any]) -> int:
        return target(state)

    edge = vmap(target if mode == "sync" else later, batch_key="xs", out_key="ys")
    with mahsm.usage():
        run(graph_of(edge), {"xs": [1, 2, 3]}, mode)
    assert len(set(parents)) == 1
