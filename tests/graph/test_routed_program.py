"""A graph with a `route` between DSPy modules as a program: optimisers work on its arms, by a real client."""

import logging
from collections.abc import Generator
from typing import Any

import dspy
import pytest
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from mahsm import GraphModule, connect
from mahsm.learn import Router, route, train
from mahsm.testing import Call, ModelServer

RULE = "Name what the customer wants."
KINDS = ["refund", "bug"]
ARMS = ["brief", "thorough"]


class State(TypedDict, total=False):
    message: str
    label: str
    choice: dict[str, Any]


@pytest.fixture(autouse=True)
def _quiet() -> Generator[None, None, None]:
    logging.getLogger("dspy").setLevel(logging.ERROR)
    yield
    logging.getLogger("dspy").setLevel(logging.INFO)


def is_long(state: Any) -> list[float]:
    return [float(len(state["message"]) > 40)]


def routed(router: Router) -> GraphModule:
    arms = {name: dspy.Predict(dspy.Signature("message -> label", f"A {name} label.")) for name in ARMS}
    graph = connect(StateGraph(State), START, route(router, arms, name="ask"), END).compile()
    return GraphModule(graph, outputs=["label", "choice"])


def learned_router() -> Router:
    """Short messages go to the first arm, long ones to the second."""
    router = Router(ARMS, features=is_long, seed=0)
    router.fit(
        [{"arm": arm, "features": [at], "reward": at == ARMS.index(arm)} for arm in ARMS for at in (0, 1)] * 5
    )
    return router


def model(call: Call) -> dict[str, Any]:
    """Knows a kind of message from a demo or from the rule; otherwise only if the message is easy."""
    if call.outputs != ["label"]:
        return dict.fromkeys(call.outputs, RULE)
    message = call.inputs["message"]
    kind = next(kind for kind in KINDS if kind in message)
    knows = RULE in call.instructions or any(kind in demo["message"] for demo in call.demos)
    return {"label": kind if knows or "easy" in message else "?"}


def examples(mood: str) -> list[dspy.Example]:
    return [
        dspy.Example(
            message=f"({mood} {number}) a {kind}" + " and so on" * (4 * size), label=kind
        ).with_inputs("message")
        for number in range(2)
        for kind in KINDS
        for size in (0, 1)
    ]


def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> bool:
    return prediction.label == example.label


def score(program: Any, held_out: list[dspy.Example]) -> float:
    return dspy.Evaluate(devset=held_out, metric=metric, num_threads=2, display_progress=False)(program).score


def bootstrapped(program: GraphModule) -> Any:
    optimiser = dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=8, max_labeled_demos=0)
    return optimiser.compile(program, trainset=examples("easy"))


def instructed(program: GraphModule) -> Any:
    optimiser = dspy.COPRO(metric=metric, breadth=2, depth=1)
    options = {"num_threads": 2, "display_progress": False}
    return optimiser.compile(program, trainset=examples("hard"), eval_kwargs=options)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("optimise", [bootstrapped, instructed], ids=lambda function: function.__name__)
def test_an_optimiser_improves_both_arms_and_the_router_goes_on(optimise: Any) -> None:
    router = learned_router()
    program = routed(router)
    assert [name for name, _ in program.named_predictors()] == ["nodes['ask/brief']", "nodes['ask/thorough']"]
    with ModelServer(model) as server, dspy.context(lm=server.lm()):
        held_out = examples("hard")
        assert score(program, held_out) == 0
        optimised = optimise(program)
        assert score(optimised, held_out) == 100
        assert score(program, held_out) == 0  # the program itself is as it was

        arms = [optimised(**example.inputs()) for example in held_out]
        assert [found.choice["arm"] for found in arms] == ["brief", "thorough"] * 4
        for found, example in zip(arms, held_out, strict=True):
            router.reward(found.choice["id"], metric(example, found))
        assert optimised.apply() is program.graph
        assert program.graph.invoke({"message": "(hard) a bug"})["label"] == "bug"


def test_an_optimised_program_can_be_trained() -> None:
    router = Router(ARMS, features=is_long, seed=0)
    with ModelServer(model) as server, dspy.context(lm=server.lm()):
        optimised = bootstrapped(routed(learned_router()))
        program = routed(router)
        program.nodes["ask/thorough"].demos = optimised.nodes["ask/thorough"].demos
        report = train(program, examples("hard"), metric)
        assert report["ask"].scores == {"brief": 0.0, "thorough": 1.0}
        assert score(program, examples("hard")) == 100
