"""Ask several times, and take the majority as soon as it is one."""

import argparse
from itertools import cycle
from typing import TypedDict

import dspy
from langgraph.graph import END, START, StateGraph

from mahsm import connect, reduce_edge, vmap
from mahsm.reducers import majority_vote
from mahsm.testing import ModelServer


class State(TypedDict):
    question: str
    answers: list[str]
    answer: str


ask = dspy.ChainOfThought("question -> answer")
samples = vmap(
    ask,
    sample=15,
    out_key="answers",
    result="answer",
    stop_when=majority_vote(normalize=True),
    max_concurrency=1,
)
vote = reduce_edge(input_key="answers", output_key="answer", reducer=majority_vote(normalize=True))
graph = connect(StateGraph(State), START, samples, vote, END).compile()

parser = argparse.ArgumentParser()
parser.add_argument("--model", help="a real model, as openai/gpt-4o-mini")
model = parser.parse_args().model

answers = cycle(["42", "42.", "41"])  # stands in for a model that is wrong every third time
with ModelServer(lambda _: {"reasoning": "6 * 7", "answer": next(answers)}) as server:
    lm = dspy.LM(model) if model else server.lm()
    with dspy.context(lm=lm):
        state = graph.invoke({"question": "What is 6 * 7?"})

print(state["answer"], "after", len(state["answers"]), "of 15")

# Output:
# 42 after 11 of 15
