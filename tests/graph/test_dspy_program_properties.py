"""Random programs: run plain, in the graph, and after a kill at each step, with equal results, calls, models
and traces."""

import asyncio
import copy
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver

from mahsm import GraphModule, dspy_program
from mahsm.testing import Call, FakeLM, Reply
from tests.helpers import MODES, run

calls: list[tuple[str, str]] = []
"""What was called, in order: models with the ends of their prompts, and the tool."""


def number(text: str) -> int:
    return zlib.crc32(text.encode())


def model(name: str) -> FakeLM:
    def answer(call: Call) -> Any:
        prompt = call.text if call.inputs else str(call.messages)
        calls.append((name, prompt))
        if number(prompt) % 7 == 0:
            return Reply.failed(503)
        said = f"{name}{number(prompt + name) % 100}"
        return dict.fromkeys(call.outputs, said) if call.outputs else said

    return FakeLM(answer, model=f"fake/{name}")


MODELS = {name: model(name) for name in ("weak", "strong", "third")}


class Broken(ValueError):
    """What the programs raise themselves."""


def look_up(text: str) -> str:
    """Look something up."""
    calls.append(("tool", text))
    if number(text) % 5 == 0:
        raise Broken(text)
    return f"found{number(text) % 100}"


class Inner(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("q -> a")
        self.again = dspy.ChainOfThought("q -> a")

    def forward(self, q: str) -> Any:
        return self.again(q=self.ask(q=q).a)

    async def aforward(self, q: str) -> Any:
        return await self.again.acall(q=(await self.ask.acall(q=q)).a)


class ByHand(dspy.Module):
    """Gives no prediction, but a list with some in it, and what no JSON has."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("q -> a")

    def forward(self, q: str) -> Any:
        return [self.ask(q=q), (1, Kind(q))]

    async def aforward(self, q: str) -> Any:
        return [await self.ask.acall(q=q), (1, Kind(q))]


@dataclass
class Kind:
    q: str


Step = tuple[Any, ...]


class Program(dspy.Module):
    """Does what a list of steps says."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps
        self.one = dspy.Predict("q -> a")
        self.several = [dspy.Predict("q -> a"), dspy.ChainOfThought("q -> a")]
        self.named = {"inner": Inner()}
        self.drawn = dspy.ChainOfThought("q -> a", n=2)
        self.by_hand = ByHand()
        self.tool = dspy.Tool(look_up)
        self.log: list[str] = []
        self.count = 0

    def forward(self, q: str) -> Any:
        running = self.running(q)
        made: Any = None
        try:
            call = next(running)
            while True:
                try:
                    made = call[0](**call[1])
                except Exception as error:  # noqa: BLE001
                    call = running.throw(error)
                else:
                    call = running.send(made)
        except StopIteration as over:
            return over.value
        finally:
            running.close()

    def running(self, text: str) -> Generator[Any, Any, Any]:
        text = yield from self.block(self.steps, text)
        return dspy.Prediction(a=text, count=self.count)

    def block(self, steps: list[Step], text: str) -> Generator[Any, Any, str]:
        for kind, *more in steps:
            text = yield from getattr(self, f"do_{kind}")(text, *more)
        return text

    def do_call(self, text: str, which: int) -> Any:
        module = [self.one, *self.several, self.named["inner"], self.named["inner"].ask][which]
        return (yield module, {"q": text}).a

    def do_by_hand(self, text: str) -> Any:
        prediction, (one, kind) = yield self.by_hand, {"q": text}
        return f"{prediction.a}{one}{kind.q[-3:]}"

    def do_completions(self, text: str) -> Any:
        drawn = yield self.drawn, {"q": text}
        return " ".join(drawn.completions.a) + drawn.reasoning

    def do_tool(self, text: str) -> Any:
        return (yield self.tool, {"text": text})

    def do_with_model(self, text: str, name: str) -> Any:
        return (yield self.one, {"q": text, "lm": MODELS[name]}).a

    def do_copy(self, text: str, name: str) -> Any:
        copied = self.one.deepcopy()
        copied.set_lm(MODELS[name])
        return (yield copied, {"q": text}).a

    def do_set_model(self, text: str, which: int, name: str) -> Any:
        if False:
            yield
        [self.one, self.several[1], self.named["inner"]][which].set_lm(MODELS[name])
        return text

    def do_made_here(self, text: str) -> Any:
        return (yield dspy.Predict("text -> answer"), {"text": text}).answer

    def do_model_alone(self, text: str) -> Any:
        said = yield dspy.settings.lm, {"prompt": f"Hello {text}"}
        return said[0]

    def do_by_name(self, text: str) -> Any:
        found = dict(self.named_predictors())
        return (yield found["several[1].predict"], {"q": text}).a

    def do_in_context(self, text: str, setting: str, inside: list[Step]) -> Any:
        given: dict[str, Any] = (
            {"adapter": dspy.JSONAdapter()} if setting == "json" else {"lm": MODELS[setting]}
        )
        with dspy.context(**given):
            return (yield from self.block(inside, text))

    def do_traced(self, text: str, inside: list[Step]) -> Any:
        with dspy.context(trace=[]):
            text = yield from self.block(inside, text)
            names = {id(predictor): name for name, predictor in self.named_predictors()}
            return text + "".join(
                f"{names.get(id(step[0]), '?')[:3]}{len(step[2])}" for step in dspy.settings.trace
            )

    def do_try(self, text: str, inside: list[Step], instead: list[Step]) -> Any:
        try:
            return (yield from self.block(inside, text))
        except Broken as error:
            text = f"{error}!"
        except Exception as error:  # noqa: BLE001
            text = f"{type(error).__name__} {getattr(error, 'status', None)} {str(error)[:40]}"
        return (yield from self.block(instead, text))

    def do_loop(self, text: str, times: int, inside: list[Step]) -> Any:
        for _ in range(times):
            text = yield from self.block(inside, text)
        return text

    def do_if(self, text: str, then: list[Step], otherwise: list[Step]) -> Any:
        return (yield from self.block(then if number(text) % 2 else otherwise, text))

    def do_note(self, text: str) -> Any:
        if False:
            yield
        self.log.append(text)
        self.count += 1
        return f"{text[-20:]}{self.count}"

    def do_raise(self, text: str) -> Any:
        if False:
            yield
        raise Broken(text)


class ProgramAsync(Program):
    async def aforward(self, q: str) -> Any:
        running = self.running(q)
        try:
            call = next(running)
            while True:
                try:
                    made = await call[0].acall(**call[1])
                except Exception as error:  # noqa: BLE001
                    call = running.throw(error)
                else:
                    call = running.send(made)
        except StopIteration as over:
            return over.value
        finally:
            running.close()


names = st.sampled_from(["strong", "third"])
simple = st.one_of(
    st.tuples(st.just("call"), st.integers(0, 4)),
    st.tuples(
        st.sampled_from(
            ["by_hand", "completions", "tool", "made_here", "model_alone", "by_name", "note", "raise"]
        )
    ),
    st.tuples(st.sampled_from(["with_model", "copy"]), names),
    st.tuples(st.just("set_model"), st.integers(0, 2), names),
)


def without_models(steps: Any) -> Any:
    """A model that forward brings itself it may not call itself, only by a module."""
    if isinstance(steps, list):
        return [without_models(step) for step in steps]
    return (
        ("note",)
        if steps == ("model_alone",)
        else tuple(map(without_models, steps))
        if isinstance(steps, tuple)
        else steps
    )


def nested(steps: Any) -> Any:
    block = st.lists(steps, min_size=1, max_size=3)
    return st.one_of(
        st.tuples(st.just("in_context"), st.just("json"), block),
        st.tuples(st.just("in_context"), names, block.map(without_models)),
        st.tuples(st.just("traced"), block),
        st.tuples(st.just("try"), block, block),
        st.tuples(st.just("loop"), st.integers(0, 3), block),
        st.tuples(st.just("if"), block, block),
    )


programs = st.lists(st.recursive(simple, nested, max_leaves=8), min_size=1, max_size=6)


class Outcome:
    """What a run came to: the result, the calls, the trace, and what became of the program."""

    def __init__(self, program: Program, go: Any) -> None:
        calls.clear()
        with dspy.context(lm=MODELS["weak"], trace=[]):
            try:
                self.result: Any = go()
            except Exception as error:  # noqa: BLE001
                self.result = type(error).__name__, str(error)
            names = {id(predictor): name for name, predictor in program.named_predictors()}
            self.trace = [
                (names.get(id(step[0]), "?"), dict(step[1]), dict(step[2])) for step in dspy.settings.trace
            ]
        self.calls = list(calls)
        lms = {name: predictor.lm and predictor.lm.model for name, predictor in program.named_predictors()}
        self.program = program.log, program.count, lms


def plainly(program: Program, mode: str) -> Outcome:
    def go() -> Any:
        found = asyncio.run(program.acall(q="why")) if mode == "async" else program(q="why")
        return {"a": found.a, "count": found.count}

    return Outcome(program, go)


CONFIG: Any = {"recursion_limit": 200, "configurable": {"thread_id": "1"}}


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=60)
@given(steps=programs)
def test_a_program_and_its_graph_do_the_same(mode: str, steps: list[Step]) -> None:
    kind = ProgramAsync if mode == "async" else Program
    plain = plainly(kind(steps), mode)
    for saver in (None, InMemorySaver()):
        program = kind(steps)
        graph = dspy_program(program, outputs=["a", "count"]).compile(checkpointer=saver)
        found = Outcome(program, lambda graph=graph: run(graph, {"q": "why"}, mode, CONFIG))
        assert (found.result, found.calls, found.program) == (plain.result, plain.calls, plain.program)
        assert found.trace == plain.trace


def killed(graph: Any, mode: str, after: int) -> None:
    """Run the graph, and stop it after so many steps."""

    async def some_steps() -> None:
        stream = graph.astream({"q": "why"}, CONFIG, stream_mode="updates", durability="sync")
        for _ in range(after + 1):
            await anext(stream, None)
        await stream.aclose()

    if mode == "async":
        asyncio.run(some_steps())
    else:
        stream = graph.stream({"q": "why"}, CONFIG, stream_mode="updates", durability="sync")
        for _ in range(after + 1):
            next(stream, None)
        stream.close()


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=12)
@given(steps=programs)
def test_a_kill_at_any_step_repeats_no_call(mode: str, steps: list[Step]) -> None:
    kind = ProgramAsync if mode == "async" else Program
    plain = plainly(kind(steps), mode)
    for after in range(min(12, len(plain.calls) + 1)):
        program = kind(steps)
        found = Outcome(program, partial(killed_and_resumed, [kind(steps), program], mode, after))
        assert (found.result, found.calls) == (plain.result, plain.calls)


def killed_and_resumed(programs: list[Program], mode: str, after: int) -> Any:
    """Run a graph of the one program, stop it after so many steps, and go on with a graph of the other
    one."""
    saver = InMemorySaver()
    first, second = (
        dspy_program(one, outputs=["a", "count"]).compile(checkpointer=saver) for one in programs
    )
    killed(first, mode, after)
    state = second.get_state(CONFIG)
    return (
        run(second, None, mode, CONFIG)
        if state.next
        else {name: state.values[name] for name in ("a", "count")}
    )


@settings(max_examples=30)
@given(steps=programs)
def test_a_graph_module_of_the_graph_does_the_same(steps: list[Step]) -> None:
    steps = [step for step in copy.deepcopy(steps) if step[0] != "set_model"]
    plain = plainly(Program(steps), "sync")
    program = GraphModule(
        dspy_program(Program(steps), outputs=["a", "count"]).compile(), config={"recursion_limit": 200}
    )

    def go() -> Any:
        return dict(program(q="why").items())

    found = Outcome(Program(steps), go)
    assert (found.result, found.calls) == (plain.result, plain.calls)
