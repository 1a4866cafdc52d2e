"""Best of as many candidates as half a cent buys."""

import argparse
from itertools import count
from typing import TypedDict

import dspy
from langgraph.graph import END, START, StateGraph

from mahsm import Budget, connect, reduce_edge, vmap
from mahsm.reducers import score_and_select
from mahsm.testing import ModelServer, Reply


class State(TypedDict):
    task: str
    attempts: list[int]
    candidates: list[dict]
    best: dict


write = dspy.Predict("task -> slogan, score: float")
budget = Budget(usd=0.005, prices={"fake": (5.0, 20.0)})  # US dollars per million tokens, in and out
candidates = vmap(
    write, batch_key="attempts", out_key="candidates", budget=budget, on_error="drop", max_concurrency=1
)
best = reduce_edge(input_key="candidates", output_key="best", reducer=score_and_select(score_key="score"))
graph = connect(StateGraph(State), START, candidates, best, END).compile()

number = count()  # stands in for a model whose slogans differ


def answer(_):
    n = next(number)
    return Reply({"slogan": f"slogan {n}", "score": n * 7 % 10}, usage=(100, 25))


parser = argparse.ArgumentParser()
parser.add_argument("--model", help="a real model, as openai/gpt-4o-mini")
model = parser.parse_args().model

with ModelServer(answer) as server, dspy.context(lm=dspy.LM(model, cache=False) if model else server.lm()):
    state = graph.invoke({"task": "A slogan for a bucket.", "attempts": list(range(100))})

print(len(state["candidates"]), "candidates of 0.1 cent each;", state["best"])

# Output:
# 5 candidates of 0.1 cent each; {'slogan': 'slogan 4', 'score': 8.0}
