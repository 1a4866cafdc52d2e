"""Operators, DSPy modules, models, edges and graphs as steps; what is counted and traced."""

import asyncio
import threading
from typing import Any

import dspy
import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, StateGraph

import mahsm
from mahsm import RateLimit, cache, chain, limits, models, reduce_edge, retry, vmap, xcs
from mahsm.operators import ModelBinding, Operator, op
from mahsm.testing import Call, FakeLM, ModelServer
from tests.tracing.spans import facts, recorded


class Together:
    """A model that answers when so many calls of it are in progress."""

    def __init__(self, guests: int) -> None:
        self._barrier = threading.Barrier(guests)

    def __call__(self, call: Call) -> dict[str, str]:
        self._barrier.wait(30)
        return {"answer": "yes"}


def test_modules_run_beside_each_other_and_are_counted() -> None:
    ask = dspy.Predict("question -> answer")

    @xcs.jit
    def program(q: str) -> str:
        return "".join([ask(question=f"{i} {q}").answer for i in range(4)])

    with ModelServer(Together(4)) as server, dspy.context(lm=server.lm()), mahsm.usage() as used:
        assert program("q") == "yes" * 4
    assert used.calls == 4
    assert used.tokens > 0


async def test_awaited_modules_and_bindings_run_beside_each_other() -> None:
    ask = dspy.Predict("question -> answer")
    with ModelServer(Together(4)) as server, dspy.context(lm=server.lm()):
        bound = ModelBinding.of(server.lm())

        @xcs.jit
        async def program(q: str) -> list[Any]:
            found = [await ask.acall(question=f"{i} {q}") for i in range(2)]
            said = [await bound.acall(f"{i} {q}") for i in range(2)]
            return [*(one.answer for one in found), *("yes" in one.text for one in said)]

        assert await program("q") == ["yes", "yes", True, True]


class Debate(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.writer = dspy.Predict("question -> answer")
        self.judges = [dspy.Predict("question -> answer") for _ in range(2)]
        self.again = retry(self.writer)

    @xcs.jit
    def forward(self, question: str) -> Any:
        local = dspy.Predict("question -> answer")
        found = [
            self.writer(question=question),
            local(question=question),
            self.again(question=question),
            *[judge(question=question) for judge in self.judges],
            self.judges[0](
                question=question,
            ),
            dspy.Predict("question -> answer")(question=question),
            named(question),
        ]
        return dspy.Prediction(answers=[one["answer"] for one in found])

    @xcs.jit
    async def aforward(self, question: str) -> Any:
        return await self.writer.acall(question=question)


@xcs.step
def named(question: str) -> Any:
    return {"answer": question}


def test_steps_are_named_as_in_the_code_if_their_own_name_is_that_of_a_class() -> None:
    debate = Debate()
    with dspy.context(lm=FakeLM({"answer": "yes"})):
        debate(question="q")
        asyncio.run(debate.acall(question="q"))
    names = ["writer", "local", "again", "judge", "judge", "judges", "Predict", "named"]
    assert [step.name for step in Debate.forward.last.steps] == names
    assert [step.name for step in Debate.aforward.last.steps] == ["writer"]


class Shout(Operator):
    def forward(self, input: Any) -> Any:
        return f"{input}!"


def test_operators() -> None:
    barrier = threading.Barrier(3)
    shout = Shout()

    @op
    def meet(x: int) -> int:
        barrier.wait(30)
        return x + 1

    @op
    async def awaited(x: int) -> int:
        await asyncio.sleep(0)
        return x * 2

    @xcs.jit
    def program() -> list[Any]:
        return [shout(meet(i)) for i in range(3)]

    @xcs.jit
    async def other() -> list[Any]:
        return [await awaited(await awaited.acall(i)) for i in range(3)]

    assert program() == ["1!", "2!", "3!"]
    assert asyncio.run(other()) == [0, 4, 8]


def graph() -> Any:
    builder = StateGraph(dict)
    builder.add_node("double", lambda state: {"x": state["x"] * 2})
    builder.add_edge(START, "double")
    return builder.compile()


def test_edges_graphs_and_runnables() -> None:
    squares = vmap(lambda state: state["item"] ** 2, batch_key="xs", out_key="ys")
    total = reduce_edge(input_key="ys", output_key="y", reducer=sum)
    doubled, added = graph(), RunnableLambda(lambda x: x + 1)

    @xcs.jit
    def program(xs: list[int]) -> Any:
        found = squares({"xs": xs})
        y = total.invoke(found)["y"]
        return doubled.invoke({"x": y})["x"], added.invoke(y), [added.invoke(x) for x in xs]

    assert program([1, 2, 3]) == program.function([1, 2, 3]) == (28, 15, [2, 3, 4])
    assert program.last is not None
    assert len(program.last.steps) == 7


def test_steps_stand_below_the_edge_that_they_run_in() -> None:
    inner = vmap(lambda state: state["item"], batch_key="xs", out_key="ys", name="inner")

    @xcs.jit
    def program(q: int) -> Any:
        return [inner({"xs": [q, i]})["ys"] for i in range(3)]

    outer = vmap(lambda state: program(state["item"]), batch_key="qs", out_key="found", max_concurrency=2)
    with mahsm.usage() as used:
        assert outer.invoke({"qs": [1, 2]})["found"] == [[[q, i] for i in range(3)] for q in (1, 2)]
    assert [run.edge for run in used.runs].count("program") == 2


def test_a_jitted_function_is_a_node_and_a_target() -> None:
    @xcs.step
    def work(x: int) -> int:
        return x + 1

    @xcs.jit
    def target(state: dict[str, Any]) -> int:
        return work(state["item"])

    @xcs.jit
    def node(state: dict[str, Any]) -> dict[str, Any]:
        return {"x": work(state["x"])}

    assert vmap(target, batch_key="xs", out_key="ys").invoke({"xs": [1, 2]}) == {"ys": [2, 3]}
    for way in (node, node.node()):
        builder = StateGraph(dict)
        builder.add_node("node", way)
        builder.add_edge(START, "node")
        assert builder.compile().invoke({"x": 1}) == {"x": 2}


async def test_an_async_jitted_function_is_a_target() -> None:
    @xcs.step
    async def work(x: int) -> int:
        return x + 1

    @xcs.jit
    async def target(state: dict[str, Any]) -> int:
        return await work(state["item"])

    edge = vmap(target, batch_key="xs", out_key="ys")
    assert await edge.ainvoke({"xs": [1, 2]}) == {"ys": [2, 3]}


@pytest.mark.parametrize("most", [1, 2])
def test_a_host_bounds_its_steps(most: int) -> None:
    now, peak, lock = 0, 0, threading.Lock()

    @xcs.step
    def work(x: int) -> int:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        threading.Event().wait(0.002)
        with lock:
            now -= 1
        return x

    @xcs.jit
    def node(state: dict[str, Any]) -> dict[str, Any]:
        return {"ys": [work(x) for x in range(10)]}

    builder = StateGraph(dict)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    assert builder.compile().invoke({}, {"max_concurrency": most}) == {"ys": list(range(10))}
    assert peak <= most


def test_a_trace_has_a_span_for_the_call_and_one_for_each_step() -> None:
    @xcs.step
    def work(x: int) -> int:
        return x

    @xcs.jit
    def program(x: int) -> list[int]:
        return [work(x), work(x + 1)]

    with recorded() as recording:
        program(1)
        program(2)
        assert len(recording.named("xcs:program")) == 2
        steps = recording.named("work")
        assert len(steps) == 4
        ids = {span.context.span_id for span in recording.named("xcs:program")}
        assert {span.parent.span_id for span in steps} == ids
        assert facts(recording.named("xcs:program")[0])["fan_out"] == 2


def test_compositions_are_steps() -> None:
    barrier = threading.Barrier(3)

    def meet(x: int) -> int:
        barrier.wait(30)
        return x

    @retry(max_attempts=2)
    async def awaited(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    made = chain(cache(meet), lambda x: x * 2)

    @xcs.jit
    def program() -> list[int]:
        return [made(i) for i in range(3)]

    @xcs.jit
    async def other() -> list[int]:
        return [await awaited(i) for i in range(3)]

    assert program() == [0, 2, 4]
    assert asyncio.run(other()) == [1, 2, 3]
    assert other.last is not None
    assert len(other.last.steps) == 3


class Desk:
    """Methods that are composed functions, called in jitted methods."""

    def __init__(self, guests: int) -> None:
        self.barrier = threading.Barrier(guests)

    @retry(max_attempts=2)
    def meet(self, x: int) -> int:
        self.barrier.wait(30)
        return x

    @cache
    @retry
    async def awaited(self, x: int) -> int:
        await asyncio.sleep(0)
        return x

    @xcs.jit
    def run(self) -> list[int]:
        return [self.meet(i) for i in range(3)]

    @xcs.jit
    async def arun(self) -> list[int]:
        return [await self.awaited(i) for i in range(3)]


def test_methods_that_are_compositions_are_steps() -> None:
    assert Desk(3).run() == asyncio.run(Desk(3).arun()) == [0, 1, 2]
    assert [step.name for step in Desk.run.last.steps] == ["meet"] * 3
    assert [step.name for step in Desk.arun.last.steps] == ["awaited"] * 3


class Team(Operator):
    """An operator, whose methods Equinox binds in its own way."""

    shout: Shout

    @retry
    def again(self, x: Any) -> Any:
        return f"{x}?"

    def both(self, x: Any) -> Any:
        return self.shout(x) + self.again(x)

    @xcs.jit
    def forward(self, input: Any) -> Any:
        return self.both(input) + self.shout.forward(input)

    @xcs.jit
    async def aforward(self, input: Any) -> Any:
        return await self.shout.acall(input) + await retry(Shout()).acall(input)


def test_methods_of_an_operator_are_steps_or_rewritten() -> None:
    team = Team(Shout())
    assert (team("a"), asyncio.run(team.acall("a"))) == ("a!a?a!", "a!a!")
    assert [step.name for step in Team.forward.last.steps] == ["shout", "again", "shout"]
    assert len(Team.aforward.last.steps) == 2


def test_stacked_decorators_over_a_jitted_function() -> None:
    asked: list[str] = []

    @cache(ttl=3600)
    @retry(max_attempts=3)
    @xcs.jit
    def analyze(text: str) -> str:
        asked.append(text)
        return text.upper()

    assert xcs.vmap(analyze, batch_size=2)(["a", "b", "a"]) == ["A", "B", "A"]
    assert sorted(asked) == ["a", "b"]


def test_composed_methods_are_steps() -> None:
    together = threading.Barrier(2, timeout=30)

    class Service:
        @retry
        def call(self, q: str) -> str:
            together.wait()
            return q

        @xcs.jit
        def both(self, q: str) -> list[str]:
            return [self.call(q), self.call(q)]

    assert Service().both("a") == ["a", "a"]


def test_each_module_has_the_limit_of_its_own_provider() -> None:
    def predictor(provider: str) -> dspy.Predict:
        module = dspy.Predict("question -> answer")
        module.lm = FakeLM({"answer": provider}, model=f"{provider}/m")
        return module

    first, second = predictor("of-units-1"), predictor("of-units-2")
    bound = models.instance(FakeLM("bound", model="of-units-3/m"))

    @xcs.jit(rate_limit=RateLimit(rps=1000, burst=10))
    def both(q: str) -> list[str]:
        return [first(question=q).answer, second(question=q).answer, bound(q).text]

    assert both("?") == ["of-units-1", "of-units-2", "bound"]
    assert [limits.stats()[f"of-units-{n}"].admitted for n in (1, 2, 3)] == [1, 1, 1]
    for n in (1, 2, 3):
        limits.forget(f"of-units-{n}")


class Pair(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        return self.ask(question=question).answer + self.ask(question=question).answer

    async def aforward(self, question: str) -> Any:
        return (await self.ask.acall(question=question)).answer


def test_methods_of_modules_and_operators_can_be_jitted_bound() -> None:
    pair, operator = Pair(), Plain(Shout())
    jitted, awaited, bound = xcs.jit(pair.forward), xcs.jit(pair.aforward), xcs.jit(operator.forward)
    with dspy.context(lm=FakeLM({"answer": "yes"})):
        assert (jitted("q"), asyncio.run(awaited("q")), bound("a")) == ("yesyes", "yes", "a!!")
    assert [len(made.last.steps) for made in (jitted, awaited, bound) if made.last] == [2, 1, 2]
    assert "self.shout" in bound.source
    library = xcs.jit(RunnableLambda(lambda x: x + 1).invoke)
    assert library(1) == 2
    assert library.last is not None
    assert len(library.last.steps) == 1


class Plain(Operator):
    shout: Shout

    def forward(self, input: Any) -> Any:
        return self.shout(self.shout(input))


@pytest.mark.parametrize("wrapped", ["model", "module", "retried"])
def test_a_step_finds_the_provider_of_what_it_calls(wrapped: str) -> None:
    limits.forget("openai")
    with ModelServer({"answer": "yes"}) as server:
        lm = server.lm("openai/fake")
        module = dspy.Predict("question -> answer")
        module.lm = lm
        calls = {
            "model": lambda: lm("question"),
            "module": lambda: module(question="q"),
            "retried": lambda: retry(module)(question="q"),
        }
        xcs.jit(calls[wrapped], rate_limit=RateLimit(rps=1e6))()
    assert limits.stats()["openai"].admitted == 1
    limits.forget("openai")
