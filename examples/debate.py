"""A debate in waves: two sides draft, each answers the other's draft, and one decides."""

import argparse
from typing import TypedDict

import dspy
from langgraph.graph import END, START, StateGraph

from mahsm import Branch, connect, dspy_node, parallel
from mahsm.testing import ModelServer


class State(TypedDict):
    question: str
    pro: str
    con: str
    pro_reply: str
    con_reply: str
    verdict: str


debate = parallel(  # who waits for whom follows from what each reads and writes
    {
        "judge": dspy_node(
            dspy.Predict("question, pro_reply, con_reply -> verdict"), output_fields=["verdict"]
        ),
        "pro": Branch(dspy.Predict("question -> pro"), reads=["question"], writes=["pro"]),
        "con": Branch(dspy.Predict("question -> con"), reads=["question"], writes=["con"]),
        "answer_con": dspy_node(dspy.Predict("question, pro, con -> pro_reply"), output_fields=["pro_reply"]),
        "answer_pro": dspy_node(dspy.Predict("question, pro, con -> con_reply"), output_fields=["con_reply"]),
    },
    scheduler="wave",
)
graph = connect(StateGraph(State), START, debate, END).compile()


def answer(call):  # stands in for a model that repeats what it was given
    replies = {
        "pro": "Buckets hold.",
        "con": "Buckets leak.",
        "pro_reply": "Leaks are rates.",
        "con_reply": "Rates run out.",
    }
    asked = next((field for field in replies if f"`[[ ## {field} ## ]]`" in call.text), None)
    return {asked: replies[asked]} if asked else {"verdict": f"It depends: {call.field('con_reply')}"}


parser = argparse.ArgumentParser()
parser.add_argument("--model", help="a real model, as openai/gpt-4o-mini")
model = parser.parse_args().model

with ModelServer(answer) as server, dspy.context(lm=dspy.LM(model) if model else server.lm()):
    print(graph.invoke({"question": "Are buckets good?"})["verdict"])
if not model:
    print(len(server.calls), "calls")

# Output:
# It depends: Rates run out.
# 5 calls
