"""Ask several times, and take the majority."""

from itertools import cycle
from typing import TypedDict

import dspy
from langgraph.graph import END, START, StateGraph

from mahsm import connect, reduce_edge, vmap
from mahsm.reducers import majority_vote
from mahsm.testing import ModelServer


class State(TypedDict):
    question: str
    samples: list[int]
    answers: list[str]
    answer: str


sample = vmap(dspy.ChainOfThought("question -> answer"), batch_key="samples", out_key="answers", result="answer")
vote = reduce_edge(input_key="answers", output_key="answer", reducer=majority_vote)
graph = connect(StateGraph(State), START, sample, vote, END).compile()

answers = cycle(["42", "42", "41"])  # stands in for a model that is wrong every third time
with ModelServer(lambda _: {"reasoning": "6 * 7", "answer": next(answers)}) as server, dspy.context(lm=server.lm()):
    state = graph.invoke({"question": "What is 6 * 7?", "samples": list(range(9))})

print(state["answer"], sorted(state["answers"]).count("42"), "of", len(server.calls))

# Output:
# 42 6 of 9
