"""DSPy modules in a LangGraph: typed outputs, two at once, tokens as they come, several drafts, and what it
all took."""

import argparse
from typing import Literal, TypedDict

import dspy
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from mahsm import connect, dspy_node, parallel, reduce_edge, usage, vmap
from mahsm.reducers import score_and_select
from mahsm.testing import Call, FakeLM


class Facts(BaseModel):
    product: str
    since_days: int


class Read(dspy.Signature):
    """Read the complaint."""

    complaint: str = dspy.InputField()
    facts: Facts = dspy.OutputField()


class Feel(dspy.Signature):
    """Say how the customer feels."""

    complaint: str = dspy.InputField()
    mood: Literal["calm", "angry"] = dspy.OutputField()


class State(TypedDict, total=False):
    complaint: str
    facts: Facts
    mood: str
    drafts: list[dict]
    best: dict
    reply: str


read = parallel(
    {"facts": dspy_node(dspy.ChainOfThought(Read), output_fields=["facts"]), "mood": dspy.Predict(Feel)},
    name="read",
)
drafts = vmap(
    dspy.Predict("complaint, mood -> draft, score: float"), sample=3, out_key="drafts", name="drafts"
)
best = reduce_edge(
    input_key="drafts", output_key="best", reducer=score_and_select(score_key="score"), name="best_of"
)
polish = dspy_node(
    dspy.Predict("draft, product -> reply"),
    input_transform=lambda state: {"draft": state["best"]["draft"], "product": state["facts"].product},
    stream=True,
    name="polish",
)
builder = StateGraph(State)
builder.add_node("polish", polish)
graph = connect(builder, START, read, drafts, best, "polish", END).compile()


def model(call: Call) -> dict[str, object]:
    """Stands in for a real one."""
    if "facts" in call.outputs:
        return {"reasoning": "It says so.", "facts": {"product": "kettle", "since_days": 3}}
    if "mood" in call.outputs:
        return {"mood": "angry"}
    if "draft" in call.outputs:
        return {"draft": "Sorry" + " indeed" * call.repeats, "score": 1.0 + call.repeats}
    return {"reply": f"{call.inputs['draft']}: we send you a new {call.inputs['product']}."}


parser = argparse.ArgumentParser()
parser.add_argument("--model", help="a real model, as openai/gpt-4o-mini")
name = parser.parse_args().model

tokens: list[str] = []
with dspy.context(lm=dspy.LM(name) if name else FakeLM(model, price=(0.15, 0.6))), usage() as used:
    for mode, part in graph.stream({"complaint": "My kettle leaks!"}, stream_mode=["updates", "messages"]):
        if mode == "messages":
            tokens.append(part[0].content)
        elif "read" in part:
            print(part["read"])
print(tokens)
print({node: one.calls for node, one in sorted(used.by_node.items())})

# Output:
# {'facts': Facts(product='kettle', since_days=3), 'mood': 'angry'}
# ['Sorry', ' indeed', ' indeed:', ' we', ' send', ' you', ' a', ' new', ' kettle.']
# {'drafts/Predict': 3, 'polish': 1, 'read/facts': 1, 'read/mood': 1}
