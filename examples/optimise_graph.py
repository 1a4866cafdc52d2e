"""DSPy optimises a graph with a fan-out: GEPA reads what went wrong, and rewrites the instruction of a
node."""

import argparse
import contextlib
import io
import logging
from typing import Any, TypedDict

import dspy
from langgraph.graph import END, START, StateGraph

from mahsm import GraphModule, connect, dspy_node, reduce_edge, usage, vmap
from mahsm.testing import Call, FakeLM

RULE = "Grade 2 what stops users, 1 what slows them down, 0 all else; how loud the report is says nothing."
REPORTS = {
    "PLEASE HELP!!! The logo is a bit blue": 0,
    "fyi: nobody can log in": 2,
    "URGENT!! typo on the about page": 0,
    "pages take ten seconds since noon": 1,
    "small thing: payments are refused": 2,
    "DISASTER: search is slow": 1,
    "hm, the app does not start": 2,
    "!!! I would like a dark theme": 0,
}


class Grade(dspy.Signature):
    """Grade the report."""

    report: str = dspy.InputField()
    grade: int = dspy.OutputField(desc="0, 1 or 2")


class State(TypedDict):
    reports: list[str]
    grades: list[int]
    worst: int
    action: str


grades = vmap(
    dspy.Predict(Grade),
    batch_key="reports",
    out_key="grades",
    item_to_state=lambda report: {"report": report},
    result="grade",
    name="grades",
)
worst = reduce_edge(input_key="grades", output_key="worst", reducer=max, name="worst_of")
builder = StateGraph(State)
builder.add_node("act", dspy_node(dspy.Predict("worst: int -> action"), name="act"))
graph = connect(builder, START, grades, worst, "act", END).compile()


def model(call: Call) -> dict[str, Any]:
    """Stands in for a real one: it takes loud for bad, unless the instruction says better."""
    if call.outputs == ["grade"]:
        report = call.inputs["report"]
        return {
            "grade": REPORTS[report]
            if RULE in call.instructions
            else 2
            if "!" in report or report.isupper()
            else 0
        }
    if call.outputs == ["action"]:
        return {"action": ["wait", "look", "wake up"][int(call.inputs["worst"])]}
    return dict.fromkeys(call.outputs, RULE if RULE in call.text else "Grade the report well.")  # of GEPA


def example(first: int) -> dspy.Example:
    reports = [list(REPORTS)[(first + step) % len(REPORTS)] for step in (0, 3)]
    action = ["wait", "look", "wake up"][max(REPORTS[report] for report in reports)]
    return dspy.Example(reports=reports, action=action).with_inputs("reports")


def metric(gold: Any, prediction: Any, trace: Any = None, name: Any = None, own: Any = None) -> Any:
    right = gold.action == prediction.action
    feedback = "Right." if right else f"The action should be {gold.action!r}. {RULE}"
    return dspy.Prediction(score=float(right), feedback=feedback)


parser = argparse.ArgumentParser()
parser.add_argument("--model", help="a real model, as openai/gpt-4o-mini")
name = parser.parse_args().model
lm = dspy.LM(name) if name else FakeLM(model)
examples = [example(first) for first in range(len(REPORTS))]
logging.getLogger("dspy").setLevel(logging.ERROR)

program = GraphModule(graph, outputs=["action"])
evaluate = dspy.Evaluate(devset=examples, metric=metric, num_threads=2, display_progress=False)
with dspy.context(lm=lm), usage() as used:
    print("before:", evaluate(program).score)
    optimiser = dspy.GEPA(metric=metric, max_metric_calls=60, reflection_lm=lm, num_threads=2, seed=0)
    # Its progress bars.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        optimised = optimiser.compile(program, trainset=examples, valset=examples)
    print("after:", evaluate(optimised).score)
    print(optimised.nodes["grades/Predict"].signature.instructions)
    optimised.apply()
    print(graph.invoke({"reports": ["fyi: nobody can log in"]})["action"])
print(sorted(used.by_node), used.calls > 100)

# Output:
# before: 12.5
# after: 100.0
# Grade 2 what stops users, 1 what slows them down, 0 all else; how loud the report is says nothing.
# wake up
# ['act', 'grades/Predict'] True
