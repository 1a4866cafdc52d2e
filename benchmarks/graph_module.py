"""What a `GraphModule` costs beside the same program without a graph: a help desk that labels three messages
and replies.
"""

import time
from collections import Counter
from typing import Any

import dspy
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from benchmarks.report import Figure
from mahsm import GraphModule, connect, dspy_node, reduce_edge, vmap
from mahsm.reducers import majority_vote
from mahsm.testing import Call, FakeLM

MESSAGES = ["Where is my refund?", "A refund, please.", "It does not start."]


class State(TypedDict):
    messages: list[str]
    labels: list[str]
    topic: str
    reply: str


def model(call: Call) -> Any:
    return dict.fromkeys(call.outputs, "refund")


def over_a_graph() -> dspy.Module:
    labels = vmap(
        dspy.Predict("message -> label"),
        batch_key="messages",
        out_key="labels",
        item_to_state=lambda message: {"message": message},
        result="label",
        name="labels",
    )
    topic = reduce_edge(input_key="labels", output_key="topic", reducer=majority_vote, name="topic")
    reply = dspy_node(dspy.Predict("topic -> reply"), name="reply")
    return GraphModule(
        connect(StateGraph(State), START, labels, topic, reply, END).compile(), outputs=["reply"]
    )


class Desk(dspy.Module):
    """The same, one call after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.label = dspy.Predict("message -> label")
        self.reply = dspy.Predict("topic -> reply")

    def forward(self, messages: list[str]) -> Any:
        labels = [self.label(message=message).label for message in messages]
        return self.reply(topic=Counter(labels).most_common(1)[0][0])


def measure(rounds: int, runs: int) -> Figure:
    """Milliseconds of CPU for a run: the least of rounds by turns, since others use the machine, too."""
    programs = [over_a_graph(), Desk()]
    least = [float("inf")] * 2
    with dspy.context(lm=FakeLM(model)):
        for _ in range(rounds):
            for index, program in enumerate(programs):
                began = time.process_time()
                for _ in range(runs):
                    program(messages=MESSAGES)
                least[index] = min(least[index], (time.process_time() - began) / runs * 1000)
    return Figure(
        "CPU of a run of a help desk, GraphModule less plain module", least[0] - least[1], 2, unit="ms"
    )
