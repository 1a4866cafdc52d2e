"""A help desk as a graph, and a model that knows its rule only from an instruction or a demo: something to
optimise.

`python -m tests.graph.desk program.json` prints the score of a saved program.
"""

import random
import sys
import zlib
from collections.abc import Iterable
from typing import Any, Literal

import dspy
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from mahsm import GraphModule, connect, dspy_node, reduce_edge, vmap
from mahsm.reducers import majority_vote
from mahsm.testing import Call, FakeLM

RULE = "Name what the customer wants, not the mood."
KINDS = ["refund", "bug", "praise"]
PREDICTORS = ["nodes['reply']", "nodes['labels/Predict']"]


class Label(dspy.Signature):
    """Label the message."""

    message: str = dspy.InputField()
    label: Literal["refund", "bug", "praise"] = dspy.OutputField()


class Reply(dspy.Signature):
    """Reply."""

    topic: str = dspy.InputField()
    reply: str = dspy.OutputField()


class State(TypedDict):
    messages: list[str]
    labels: list[str]
    topic: str
    reply: str


def desk() -> Any:
    """Label each message, let the labels vote, and take the way that the topic asks for."""
    labels = vmap(
        dspy.Predict(Label),
        batch_key="messages",
        out_key="labels",
        item_to_state=lambda message: {"message": message},
        result="label",
        name="labels",
    )
    vote = reduce_edge(input_key="labels", output_key="topic", reducer=majority_vote, name="vote")
    builder = StateGraph(State)
    builder.add_node("reply", dspy_node(dspy.Predict(Reply), name="reply"))
    builder.add_node("thank", lambda state: {"reply": f"About your {state['topic']}: thank you."})
    connect(builder, START, labels, vote)
    builder.add_conditional_edges(
        "vote", lambda state: "thank" if state["topic"] == "praise" else "reply", ["thank", "reply"]
    )
    connect(builder, "reply", END)
    connect(builder, "thank", END)
    return builder.compile()


def model(call: Call) -> dict[str, object]:
    """The model of every part: of the desk, and of the optimisers that write instructions."""
    if call.outputs == ["label"]:
        message = call.inputs["message"]
        knows = RULE in call.instructions or any(
            kind_of(demo["message"]) == kind_of(message) for demo in call.demos
        )
        lucky = zlib.crc32(f"{message} {call.repeats}".encode()) % 3 == 0
        return {"label": kind_of(message) if knows or lucky else KINDS[KINDS.index(kind_of(message)) - 1]}
    if call.outputs == ["reply"]:
        return {"reply": f"About your {call.inputs['topic']}: thank you."}
    said: dict[str, object] = dict.fromkeys(call.outputs, "Something.")
    if "proposed_instruction" in said:  # MIPROv2
        said["proposed_instruction"] = RULE
    if "module_advice" in said:  # SIMBA
        said["module_advice"] = dict.fromkeys(PREDICTORS, RULE)
    if "new_instruction" in said:  # GEPA: it has to learn the rule from the feedback
        said["new_instruction"] = RULE if RULE in call.text else "Try."
    return said


def kind_of(message: str) -> str:
    return next(kind for kind in KINDS if kind in message)


def examples(numbers: Iterable[int]) -> list[dspy.Example]:
    return [_example(number) for number in numbers]


def _example(number: int) -> dspy.Example:
    kind, moods = KINDS[number % 3], random.Random(number).choices(["angry", "kind", "short"], k=3)
    messages = [f"({mood}, {number}.{place}) about a {kind}" for place, mood in enumerate(moods)]
    return dspy.Example(messages=messages, reply=f"About your {kind}: thank you.").with_inputs("messages")


def metric(example: dspy.Example, prediction: dspy.Prediction, *_: Any) -> float:
    return float(prediction.reply == example.reply)


def score(program: dspy.Module, held_out: list[dspy.Example]) -> float:
    """Percent of the answers that are right."""
    evaluate = dspy.Evaluate(devset=held_out, metric=metric, num_threads=4, display_progress=False)
    with dspy.context(lm=FakeLM(model)):
        return evaluate(program).score


if __name__ == "__main__":
    program = GraphModule(desk(), outputs=["reply"])
    program.load(sys.argv[1])
    print(score(program, examples(range(30, 60))))
