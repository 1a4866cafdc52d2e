"""DSPy's optimisers on a graph with a vmap, a reduce and a router, from beginning to end and with a gain that
is real."""

import logging
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import dspy
import pytest

from mahsm import GraphModule
from mahsm.testing import Call, FakeLM
from tests.graph.desk import PREDICTORS, RULE, Label, Reply, desk, examples, metric, model, score

TRAIN, HELD_OUT = examples(range(30)), examples(range(30, 60))
heard: list[Any] = []


@pytest.fixture(autouse=True)
def _quiet() -> Generator[None, None, None]:
    logging.getLogger("dspy").setLevel(logging.ERROR)
    heard.clear()
    instructions = {signature: signature.instructions for signature in (Label, Reply)}
    yield
    for signature, text in instructions.items():  # InferRules writes into the class itself
        signature.instructions = text
    logging.getLogger("dspy").setLevel(logging.INFO)


def with_feedback(gold: Any, prediction: Any, trace: Any = None, name: Any = None, own: Any = None) -> Any:
    if name is not None:
        heard.append((name, trace, own))
    right = metric(gold, prediction)
    return dspy.Prediction(score=right, feedback="Right." if right else f"Expected {gold.reply!r}. {RULE}")


def bootstrapped(program: GraphModule, lm: Any) -> Any:
    optimiser = dspy.BootstrapFewShot(
        metric=metric, max_bootstrapped_demos=8, max_labeled_demos=0, max_rounds=3
    )
    return optimiser.compile(program, trainset=TRAIN)


def mipro(program: GraphModule, lm: Any) -> Any:
    optimiser = dspy.MIPROv2(
        metric=metric,
        auto=None,
        num_candidates=3,
        prompt_model=lm,
        task_model=lm,
        max_bootstrapped_demos=1,
        max_labeled_demos=0,
        verbose=False,
    )
    return optimiser.compile(
        program,
        trainset=TRAIN[:15],
        valset=TRAIN[15:],
        num_trials=5,
        minibatch=False,
        program_aware_proposer=False,
    )


def gepa(program: GraphModule, lm: Any) -> Any:
    optimiser = dspy.GEPA(metric=with_feedback, max_metric_calls=120, reflection_lm=lm, num_threads=4, seed=0)
    return optimiser.compile(program, trainset=TRAIN[:15], valset=TRAIN[15:])


def simba(program: GraphModule, lm: Any) -> Any:
    optimiser = dspy.SIMBA(
        metric=metric, bsize=8, num_candidates=3, max_steps=2, max_demos=0, num_threads=4, prompt_model=lm
    )
    return optimiser.compile(program, trainset=TRAIN, seed=1)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "optimise", [bootstrapped, mipro, gepa, simba], ids=lambda function: function.__name__
)
def test_an_optimiser_gains_and_what_it_learned_can_be_saved(optimise: Any, tmp_path: Path) -> None:
    graph = desk()
    program = GraphModule(graph, outputs=["reply"])
    before = score(program, HELD_OUT)
    lm = FakeLM(model)
    with dspy.context(lm=lm):
        optimised = optimise(program, lm)
    after = score(optimised, HELD_OUT)
    assert before < 50
    assert after > 90
    assert [name for name, _ in optimised.named_predictors()] == PREDICTORS
    assert score(GraphModule(graph, outputs=["reply"]), HELD_OUT) == before  # the graph is as it was

    optimised.save(tmp_path / "program.json")
    done = subprocess.run(
        [sys.executable, "-m", "tests.graph.desk", str(tmp_path / "program.json")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert float(done.stdout) == after

    assert optimised.apply() is graph
    assert score(GraphModule(graph, outputs=["reply"]), HELD_OUT) == after


def test_gepa_learns_from_what_could_not_be_parsed_in_items() -> None:
    read: list[str] = []

    def mumbles(call: Call) -> Any:
        if call.outputs == ["label"] and RULE not in call.instructions and "angry" in call.inputs["message"]:
            return "Well, that is hard to say."
        if call.outputs == ["new_instruction"]:
            read.append(call.text)
            return {"new_instruction": RULE if "failed to parse" in call.text else "Try."}
        return model(call)

    program, lm = GraphModule(desk(), outputs=["reply"]), FakeLM(mumbles)
    optimiser = dspy.GEPA(
        metric=with_feedback,
        max_metric_calls=120,
        reflection_lm=lm,
        num_threads=4,
        seed=0,
        add_format_failure_as_feedback=True,
    )
    with dspy.context(lm=lm):
        optimised = optimiser.compile(program, trainset=TRAIN[:15], valset=TRAIN[15:])
    assert any("Well, that is hard to say." in text for text in read)
    assert optimised.nodes["labels/Predict"].signature.instructions == RULE


def test_gepa_hears_of_each_predictor_with_its_trace() -> None:
    lm = FakeLM(model)
    with dspy.context(lm=lm):
        gepa(GraphModule(desk(), outputs=["reply"]), lm)
    assert heard
    for name, trace, own in heard:
        assert name in PREDICTORS
        assert [set(outputs) for _, _, outputs in own] == [{"label"}] if "labels" in name else [{"reply"}]
        labelled = [inputs["message"] for _, inputs, outputs in trace if set(outputs.keys()) == {"label"}]
        places = [message.split(".")[1].split(")")[0] for message in labelled]
        assert places == ["0", "1", "2"]  # as the items stand, whichever was quicker


def test_mipro_shows_its_model_the_graph() -> None:
    read: list[str] = []

    def reads(call: Call) -> Any:
        read.append(call.text)
        return model(call)

    lm = FakeLM(reads)
    optimiser = dspy.MIPROv2(
        metric=metric,
        auto=None,
        num_candidates=2,
        prompt_model=lm,
        task_model=lm,
        max_bootstrapped_demos=1,
        max_labeled_demos=0,
    )
    with dspy.context(lm=lm):
        optimised = optimiser.compile(
            GraphModule(desk(), outputs=["reply"]),
            trainset=TRAIN[:6],
            valset=TRAIN[6:12],
            num_trials=2,
            minibatch=False,
        )
    assert score(optimised, HELD_OUT) > 90
    described = [text for text in read if "class GraphModule" in text]
    assert described
    for part in (
        "vote -> reply or thank",
        "<Edge 'labels': messages -> labels>",
        "labels/Predict: Predict(message -> label",
    ):
        assert all(part in text for text in described)


def copro(program: GraphModule, lm: Any) -> Any:
    optimiser = dspy.COPRO(prompt_model=lm, metric=metric, breadth=3, depth=1)
    return optimiser.compile(
        program, trainset=TRAIN[:9], eval_kwargs={"num_threads": 4, "display_progress": False}
    )


def rules(program: GraphModule, lm: Any) -> Any:
    optimiser = dspy.InferRules(
        metric=metric, num_candidates=2, num_rules=2, num_threads=4, teacher_settings={"lm": lm}
    )
    return optimiser.compile(program, trainset=TRAIN[:10], valset=TRAIN[10:20])


def ensemble(program: GraphModule, lm: Any) -> Any:
    return dspy.Ensemble(reduce_fn=dspy.majority).compile(
        [bootstrapped(program, lm), program, bootstrapped(program, lm)]
    )


@pytest.mark.parametrize("optimise", [copro, rules, ensemble], ids=lambda function: function.__name__)
def test_other_optimisers_gain(optimise: Any) -> None:
    def answers(call: Call) -> Any:
        said = model(call)
        return said | {name: RULE for name in ("natural_language_rules",) if name in said}

    lm = FakeLM(answers)
    with dspy.context(lm=lm):
        optimised = optimise(GraphModule(desk(), outputs=["reply"]), lm)
    assert score(optimised, HELD_OUT) > 90


def test_optuna_tries_demos() -> None:
    """It draws without a seed, so nobody knows whether it gains."""
    from dspy.teleprompt import BootstrapFewShotWithOptuna

    lm = FakeLM(model)
    optimiser = BootstrapFewShotWithOptuna(
        metric=metric,
        max_bootstrapped_demos=8,
        max_labeled_demos=0,
        max_rounds=3,
        num_candidate_programs=2,
        num_threads=4,
    )
    with dspy.context(lm=lm):
        optimised = optimiser.compile(
            GraphModule(desk(), outputs=["reply"]), max_demos=4, trainset=TRAIN, valset=TRAIN
        )
    assert any(call.demos for call in lm.calls)
    assert optimised.nodes["labels/Predict"].demos


@pytest.mark.parametrize("awaited", [False, True])
async def test_knn_also_awaited(awaited: bool) -> None:
    """It sets the program's `forward`, which `acall` of a plain program would not find."""

    def embed(texts: list[str]) -> Any:
        import numpy as np

        return np.array([[float(kind in text) for kind in ("refund", "bug", "praise")] for text in texts])

    lm = FakeLM(model)
    knn = dspy.KNNFewShot(3, TRAIN, vectorizer=dspy.Embedder(embed), metric=metric, max_rounds=3)
    with dspy.context(lm=lm):
        optimised = knn.compile(GraphModule(desk(), outputs=["reply"]))
        inputs = HELD_OUT[0].inputs()
        reply = (await optimised.acall(**inputs)) if awaited else optimised(**inputs)
    assert reply.reply == HELD_OUT[0].reply
    assert any(call.demos for call in lm.calls)
