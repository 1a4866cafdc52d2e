"""`dspy_program` does what `forward` does around its calls: contexts, models, copies, failures, DSPy's own
modules."""

import asyncio
import functools
from collections import Counter
from typing import Any

import dspy
import pytest
from dspy.clients.cache import Cache
from dspy.utils.exceptions import AdapterParseError
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from pydantic import BaseModel, ValidationError

from mahsm import dspy_program
from mahsm.errors import GraphError
from mahsm.testing import Call, FakeLM, Reply
from tests.helpers import MODES, run, thread

strong = FakeLM(lambda call: dict.fromkeys(call.outputs, "strong"), model="fake/strong")


def weak(call: Call) -> Any:
    return dict.fromkeys(call.outputs, "weak")


class Program(dspy.Module):
    """Asks twice; how, is for classes below."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")
        self.inner = Inner()

    def asked(self, question: str) -> Any:
        raise NotImplementedError

    def forward(self, question: str) -> Any:
        first = self.ask(question=question).answer
        return dspy.Prediction(answer=f"{first} {self.asked(question)}")


class Inner(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        return self.ask(question=question)

    def more(self, question: str) -> Any:
        return self.ask(question=question).answer


class WithModel(Program):
    def asked(self, question: str) -> Any:
        with dspy.context(lm=strong):
            return self.ask(question=question).answer


class WithAdapter(Program):
    def asked(self, question: str) -> Any:
        with dspy.context(adapter=dspy.JSONAdapter()):
            return self.ask(question=question).answer


class WithBoth(Program):
    def asked(self, question: str) -> Any:
        with dspy.context(lm=strong, adapter=dspy.JSONAdapter()):
            return dspy.Predict("question -> answer")(question=question).answer


class SetsModel(Program):
    def asked(self, question: str) -> Any:
        self.inner.set_lm(strong)
        return self.inner(question=question).answer


class Copies(Program):
    def asked(self, question: str) -> Any:
        copied = self.inner.deepcopy()
        copied.set_lm(strong)
        return copied(question=question).answer + self.inner(question=question).answer


class GivesModel(Program):
    def asked(self, question: str) -> Any:
        return self.ask(question=question, lm=strong).answer


class CallsInside(Program):
    def asked(self, question: str) -> Any:
        return self.inner.ask(question=question).answer + self.inner.more(question)


class CallsModel(Program):
    def asked(self, question: str) -> Any:
        return dspy.settings.lm(question)[0]


class MakesModules(Program):
    def asked(self, question: str) -> Any:
        return dspy.ChainOfThought("question -> answer, certainty")(question=question).answer


class TakesCompletions(Program):
    def __init__(self) -> None:
        super().__init__()
        self.draw = dspy.Predict("question -> answer", n=3)

    def asked(self, question: str) -> Any:
        return " ".join(self.draw(question=question).completions.answer)


class Traces(Program):
    def asked(self, question: str) -> Any:
        with dspy.context(trace=[]):
            answer = self.inner(question=question).answer
            return answer + str([(step[0] is self.inner.ask, step[2].answer) for step in dspy.settings.trace])


class Keeps(Program):
    def asked(self, question: str) -> Any:
        self.seen = [*getattr(self, "seen", []), question]
        return self.ask(question=question).answer


PROGRAMS = [
    WithModel,
    WithAdapter,
    WithBoth,
    SetsModel,
    Copies,
    GivesModel,
    CallsInside,
    CallsModel,
    MakesModules,
    TakesCompletions,
    Traces,
    Keeps,
]


@pytest.mark.parametrize("kind", PROGRAMS)
@pytest.mark.parametrize("mode", MODES)
def test_it_does_what_forward_does(kind: Any, mode: str) -> None:
    def calls(lm: FakeLM) -> list[Any]:
        return [(call.messages, call.inputs, call.outputs) for call in (*lm.calls, *strong.calls)]

    plain, program = kind(), kind()
    with dspy.context(lm=FakeLM(weak)):
        strong.calls.clear()
        answer = plain(question="why").answer
        made = calls(dspy.settings.lm)
    with dspy.context(lm=FakeLM(weak)):
        strong.calls.clear()
        graph = dspy_program(program, outputs=["answer"]).compile(checkpointer=InMemorySaver())
        assert run(graph, {"question": "why"}, mode, thread()) == {"answer": answer}
        assert calls(dspy.settings.lm) == made
    assert vars(program).get("seen") == vars(plain).get("seen")


# Failures.


class OwnError(Exception):
    def __init__(self, what: str, *, code: int) -> None:
        super().__init__(what)
        self.code = code


class Fails(dspy.Module):
    def __init__(self, error: Any) -> None:
        super().__init__()
        self.error = error
        self.calls = 0

    def forward(self, question: str) -> Any:
        self.calls += 1
        raise self.error


class Handles(Program):
    def __init__(self, error: Any) -> None:
        super().__init__()
        self.fails = Fails(error)

    def asked(self, question: str) -> Any:
        said = self.ask(question=question).answer
        try:
            self.fails(question=question)
        except Exception as error:  # noqa: BLE001
            said = f"{type(error).__name__} {error} {getattr(error, 'code', '')}"
        return said + self.ask(question=said).answer


@pytest.mark.parametrize(
    "error", [OwnError("no", code=5), KeyError("k"), ValueError(["a"], 1), dspy.LMServerError("503")]
)
@pytest.mark.parametrize("mode", MODES)
def test_a_failure_that_forward_handles_is_what_the_call_came_to(mode: str, error: Exception) -> None:
    program = Handles(error)
    with dspy.context(lm=FakeLM(weak)):
        answer = Handles(error)(question="why").answer
        graph = dspy_program(program, outputs=["answer"]).compile(checkpointer=InMemorySaver())
        assert run(graph, {"question": "why"}, mode, thread()) == {"answer": answer}
    assert program.fails.calls == 1


def test_a_failure_of_a_class_that_nobody_finds_cannot_be_replayed() -> None:
    class Hidden(Exception):
        pass

    with (
        dspy.context(lm=FakeLM(weak)),
        pytest.raises(GraphError, match=r"self.fails failed, and Hidden is an exception that"),
    ):
        dspy_program(Handles(Hidden()), outputs=["answer"]).compile().invoke({"question": "why"})


@pytest.mark.parametrize("mode", MODES)
def test_a_failure_that_forward_does_not_handle_is_tried_again(mode: str) -> None:
    failing = [True]

    def answer(call: Call) -> Any:
        return Reply.failed() if failing[0] and len(lm.calls) > 1 else weak(call)

    lm = FakeLM(answer)
    graph = dspy_program(WithAdapter(), outputs=["answer"]).compile(checkpointer=InMemorySaver())
    with dspy.context(lm=lm):
        with pytest.raises(dspy.LMServerError):
            run(graph, {"question": "why"}, mode, thread())
        failing[0], made = False, len(lm.calls)
        assert run(graph, None, mode, thread()) == {"answer": "weak weak"}
        assert len(lm.calls) == made + 1


class Breaks(Program):
    broken = True

    def asked(self, question: str) -> Any:
        answer = self.ask(question=question).answer
        if Breaks.broken:
            raise OwnError("broken", code=1)
        return answer


@pytest.mark.parametrize("mode", MODES)
def test_a_call_is_saved_before_forward_fails(mode: str) -> None:
    lm = FakeLM(weak)
    graph = dspy_program(Breaks(), outputs=["answer"]).compile(checkpointer=InMemorySaver())
    Breaks.broken = True
    with dspy.context(lm=lm):
        with pytest.raises(OwnError, match="broken"):
            run(graph, {"question": "why"}, mode, thread())
        Breaks.broken = False
        assert run(graph, None, mode, thread()) == {"answer": "weak weak"}
    assert len(lm.calls) == 2


# What cannot be replayed.


class OwnModel(Program):
    def asked(self, question: str) -> Any:
        return strong(question)[0]


class InterruptsItself(Program):
    def asked(self, question: str) -> Any:
        return interrupt("?")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            OwnModel,
            r"forward itself calls a language model other than that of dspy.settings.*Call it in a module",
        ),
        (
            InterruptsItself,
            r"forward itself calls interrupt\(\), which would ask again after each call. Ask in a sub-module",
        ),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_what_cannot_be_replayed_is_refused(kind: Any, message: str, mode: str) -> None:
    strong.calls.clear()
    graph = dspy_program(kind(), outputs=["answer"]).compile(checkpointer=InMemorySaver())
    with dspy.context(lm=FakeLM(weak)), pytest.raises(GraphError, match=message):
        run(graph, {"question": "why"}, mode, thread())
    assert not strong.calls


class Asks(dspy.Module):
    def forward(self, question: str) -> Any:
        return dspy.Prediction(answer=interrupt(question))


class Waits(Program):
    def __init__(self) -> None:
        super().__init__()
        self.person = Asks()

    def asked(self, question: str) -> Any:
        try:
            return self.person(question=question).answer
        except Exception as error:  # noqa: BLE001  an interrupt is none of forward's
            return error


def test_a_sub_module_may_ask_a_person() -> None:
    lm = FakeLM(weak)
    graph = dspy_program(Waits(), outputs=["answer"]).compile(checkpointer=InMemorySaver())
    with dspy.context(lm=lm):
        assert graph.invoke({"question": "why"}, thread())["__interrupt__"][0].value == "why"
        assert graph.invoke(Command(resume="because"), thread()) == {"answer": "weak because"}
    assert len(lm.calls) == 1


# DSPy's modules that call modules.


def look_up(query: str) -> str:
    """Look it up."""
    looked_up.append(query)
    return f"found {query}"


looked_up: list[str] = []


def agent(call: Call) -> Any:
    step = str(call.messages).count("## observation_")
    said = {
        "next_thought": f"thought {step}",
        "next_tool_name": "look_up" if step < 2 else "finish",
        "next_tool_args": f'{{"query": "q{step}"}}' if step < 2 else "{}",
    }
    return {name: said.get(name, "done") for name in call.outputs}


@pytest.mark.parametrize("mode", MODES)
def test_an_agent_is_a_graph_of_its_calls_and_tools(mode: str) -> None:
    with dspy.context(lm=FakeLM(agent)):
        looked_up.clear()
        react = dspy.ReAct("question -> answer", [look_up])
        plain = react(question="why")
        assert looked_up == ["q0", "q1"]
        graph = dspy_program(react).compile(
            checkpointer=InMemorySaver(), interrupt_after=["self.tools[look_up]"]
        )
        config: RunnableConfig = thread()
        given: Any = {"question": "why"}
        for _ in range(3):
            state = run(graph, given, mode, config)
            given = None
    assert state == {"answer": plain.answer}
    assert looked_up == ["q0", "q1"] * 2


def by_length(args: Any, prediction: Any) -> float:
    return len(prediction.answer) / 10


@pytest.mark.parametrize("make", [dspy.BestOfN, dspy.Refine])
def test_modules_that_try_again_are_graphs(make: Any) -> None:
    def answer(call: Call) -> Any:
        return {name: "x" * (1 + number) for number, name in enumerate(call.outputs, len(lm.calls))}

    made = functools.partial(make, N=3, reward_fn=by_length, threshold=0.9)
    lm = FakeLM(answer)
    with dspy.context(lm=lm):
        plain, calls = made(module=Inner())(question="why"), len(lm.calls)
    lm = FakeLM(answer)
    with dspy.context(lm=lm, trace=[]):
        graph = dspy_program(made(module=Inner())).compile(checkpointer=InMemorySaver())
        assert graph.invoke({"question": "why"}, {**thread(), "recursion_limit": 60}) == {
            "answer": plain.answer
        }
        assert len(lm.calls) == calls


class OnlyAsync(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    async def aforward(self, question: str, times: int = 1) -> Any:
        calls = (self.ask.acall(question=f"{question}{number}") for number in range(times))
        answers = await asyncio.gather(*calls)  # noqa: TID251  programs do
        return dspy.Prediction(answer=[one.answer for one in answers])


@pytest.mark.parametrize("mode", MODES)
def test_a_program_may_only_await_and_gather(mode: str) -> None:
    lm = FakeLM(lambda call: {"answer": call.inputs["question"]})
    with dspy.context(lm=lm):
        graph = dspy_program(OnlyAsync()).compile(checkpointer=InMemorySaver())
        assert run(graph, {"question": "q", "times": 3}, mode, thread()) == {"answer": ["q0", "q1", "q2"]}
    assert len(lm.calls) == 3


# What changes, and what happens at the same time.


def echo(call: Call) -> Any:
    return {"answer": f"about {call.inputs['question']}"}


class Empties(Program):
    """Changes its inputs and its own lists."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, list[str]] = {"asked": []}
        self.counts: Counter[str] = Counter()

    def forward(self, docs: list[str]) -> Any:
        answers: list[str] = []
        while docs:
            self.seen["asked"].append(docs[0])
            self.counts[docs[0]] += 1
            answers.append(self.ask(question=docs.pop(0)).answer)
        return dspy.Prediction(answer=answers)


@pytest.mark.parametrize("mode", MODES)
def test_forward_may_change_what_it_is_given_and_what_it_holds(mode: str) -> None:
    program, docs = Empties(), ["a", "b", "a"]
    with dspy.context(lm=FakeLM(echo)):
        graph = dspy_program(program, outputs=["answer"]).compile()
        assert run(graph, {"docs": docs}, mode) == {"answer": ["about a", "about b", "about a"]}
    assert docs == ["a", "b", "a"]
    assert program.seen == {"asked": ["a", "b", "a"]}
    assert program.counts == {"a": 2, "b": 1}


class Pops(dspy.Module):
    def forward(self, question: str) -> Any:
        return {question, "more"}


class Consumes(Program):
    def __init__(self) -> None:
        super().__init__()
        self.pops = Pops()

    def asked(self, question: str) -> Any:
        found = self.pops(question=question)
        answers = [self.ask(question=one).answer for one in sorted(found)]
        found.clear()
        return str([*answers, self.ask(question="last").answer])


class TwoNames(Program):
    def __init__(self) -> None:
        super().__init__()
        self.default = self.ask

    def asked(self, question: str) -> Any:
        return str(
            (self.default is self.ask, self.ask in [self.default], self.default(question=question).answer)
        )


@pytest.mark.parametrize("kind", [Consumes, TwoNames])
def test_results_and_modules_are_what_they_are_without_a_graph(kind: Any) -> None:
    with dspy.context(lm=FakeLM(echo)):
        graph = dspy_program(kind(), outputs=["answer"]).compile(checkpointer=InMemorySaver())
        assert graph.invoke({"question": "q"}, thread())["answer"] == kind()(question="q").answer


class Asker(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")


class Shuffles(Asker):
    """Calls at the same time, in another order each time."""

    runs = 0

    async def aforward(self, docs: list[str]) -> Any:
        Shuffles.runs += 1
        order = docs if Shuffles.runs % 2 else docs[::-1]
        answers: dict[str, str] = {}

        async def one(doc: str) -> None:
            answers[doc] = (await self.ask.acall(question=doc)).answer

        async with asyncio.TaskGroup() as group:
            for doc in order:
                group.create_task(one(doc))
        return dspy.Prediction(answer=[answers[doc] for doc in docs])


class InOrder(Asker):
    async def aforward(self, docs: list[str]) -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.ask.acall(question=doc)) for doc in docs]
        return dspy.Prediction(answer=[task.result().answer for task in tasks])


class TimesOut(Asker):
    async def aforward(self, docs: list[str]) -> Any:
        try:
            async with asyncio.timeout(0.01):
                await self.waits.acall(question=docs[0])
        except TimeoutError:
            pass
        return await self.ask.acall(question="instead")

    def __init__(self) -> None:
        super().__init__()
        self.waits = ForEver()


class ForEver(dspy.Module):
    async def aforward(self, question: str) -> Any:
        await asyncio.Event().wait()


class FansOut(Program):
    def forward(self, docs: list[str]) -> Any:
        called = dspy.Parallel(disable_progress_bar=True)([(self.ask, {"question": doc}) for doc in docs])
        return dspy.Prediction(answer=called)


class Generates(Program):
    def __init__(self) -> None:
        super().__init__()
        self.generates = Generator()

    def forward(self, docs: list[str]) -> Any:
        return dspy.Prediction(answer=list(self.generates(docs=docs)))


class Generator(dspy.Module):
    def forward(self, docs: list[str]) -> Any:
        return (doc for doc in docs)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            Shuffles,
            r"makes concurrent calls, in another order when it is run again: self.ask is called",
        ),
        (
            TimesOut,
            r"self.waits was cancelled, perhaps by a timeout of forward's own.*timeout in a sub-module",
        ),
        (FansOut, r"self.ask is called in a thread that forward starts"),
        (Generates, r"self.generates returned a generator, which can be read only once. Return a list"),
    ],
)
def test_what_would_be_mixed_up_is_refused(kind: Any, message: str) -> None:
    with dspy.context(lm=FakeLM(echo)), pytest.raises(GraphError, match=message):
        asyncio.run(dspy_program(kind(), outputs=["answer"]).compile().ainvoke({"docs": ["a", "b", "c"]}))


def test_calls_at_the_same_time_have_their_own_answers() -> None:
    with dspy.context(lm=FakeLM(echo)):
        graph = dspy_program(InOrder(), outputs=["answer"]).compile()
        assert asyncio.run(graph.ainvoke({"docs": ["a", "b"]})) == {"answer": ["about a", "about b"]}


class Called(Program):
    def __call__(self, *args: Any, **arguments: Any) -> Any:
        return super().__call__(*args, **arguments)


def test_a_call_of_its_own_is_refused() -> None:
    with pytest.raises(
        GraphError,
        match=r"Called has a __call__ of its own, which a graph would not run. Move it into forward",
    ):
        dspy_program(Called())


class Checked(BaseModel):
    number: int


def test_a_failure_that_would_be_another_one_is_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        Checked.model_validate({"number": "x"})
    with (
        dspy.context(lm=FakeLM(weak)),
        pytest.raises(GraphError, match=r"ValidationError is an exception that cannot be raised"),
    ):
        dspy_program(Handles(caught.value), outputs=["answer"]).compile().invoke({"question": "why"})


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_that_could_not_be_parsed_is_not_read_again(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        dspy, "cache", Cache(enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir="")
    )
    said = ["Well.", {"answer": "fine"}]
    lm = FakeLM(lambda call: said[min(len(lm.calls), 2) - 1], cache=True)
    graph = dspy_program(Inner(), outputs=["answer"]).compile(checkpointer=InMemorySaver())
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        with pytest.raises(AdapterParseError):
            run(graph, {"question": "q"}, mode, thread())
        assert run(graph, None, mode, thread()) == {"answer": "fine"}
    assert len(lm.calls) == 2


class Mixed(Program):
    """Calls with what no JSON has: keys of several kinds, and a value that holds itself."""

    def forward(self, question: str) -> Any:
        loop: list[Any] = []
        loop.append(loop)
        said = self.takes(given={1: "a", "b": {2}, None: object()}, loop=loop)
        return dspy.Prediction(answer=f"{said.answer} {self.ask(question=question).answer}")

    def __init__(self) -> None:
        super().__init__()
        self.takes = Takes()


class Takes(dspy.Module):
    def forward(self, given: Any, loop: Any) -> Any:
        return dspy.Prediction(answer=str(len(given)))


@pytest.mark.parametrize("mode", MODES)
def test_calls_may_be_given_anything(mode: str) -> None:
    with dspy.context(lm=FakeLM(weak)):
        graph = dspy_program(Mixed(), outputs=["answer"]).compile(checkpointer=InMemorySaver())
        assert run(graph, {"question": "q"}, mode, thread()) == {"answer": "3 weak"}
