"""Several candidates, and a model that judges which one is best."""

import argparse
import json
from itertools import count
from typing import TypedDict

import dspy
from langgraph.graph import END, START, StateGraph

from mahsm import connect, reduce_edge, vmap
from mahsm.reducers import llm_judge_select
from mahsm.testing import ModelServer


class State(TypedDict):
    task: str
    attempts: list[int]
    slogans: list[str]
    best: dict


write = vmap(
    dspy.Predict("task, item -> slogan"),
    batch_key="attempts",
    out_key="slogans",
    result="slogan",
    on_error="drop",
)
judge = llm_judge_select(criteria="The shortest slogan that names the thing.", with_reason=True)
choose = reduce_edge(input_key="slogans", output_key="best", reducer=judge)
graph = connect(StateGraph(State), START, write, choose, END).compile()

number = count()


def answer(call):  # stands in for a model that writes longer and longer, and judges by length
    if "candidates" not in call.text:
        return {"slogan": "A bucket" + " for tokens" * (1 + next(number))}
    candidates = json.loads(call.field("candidates"))
    return {"reason": "It is the shortest.", "best": 1 + candidates.index(min(candidates, key=len))}


parser = argparse.ArgumentParser()
parser.add_argument("--model", help="a real model, as openai/gpt-4o-mini")
model = parser.parse_args().model

with ModelServer(answer) as server, dspy.context(lm=dspy.LM(model) if model else server.lm()):
    print(graph.invoke({"task": "A slogan for a bucket.", "attempts": list(range(5))})["best"])

# Output:
# {'value': 'A bucket for tokens', 'reason': 'It is the shortest.'}
