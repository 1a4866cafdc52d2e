"""Three models of different skill and price, and a router that learns which questions each can answer.

From run to run, the cost of a right answer falls.

It prints a table. `python examples/learned_router.py plot.html` also draws cost and regret, the worth that
the best choices would have had more; that needs plotly: `pip install 'mahsm[draw]'`.
"""

import random
import sys
from typing import Any, TypedDict

import dspy
from langgraph.graph import END, START, StateGraph

from mahsm import connect, vmap
from mahsm.learn import Router, route
from mahsm.testing import ModelServer

PRICES = {"small": 0.1, "medium": 0.4, "large": 2.0}  # US cents for an answer
SKILLS = {"small": 5, "medium": 8, "large": 9}  # how many numbers a model adds up without a mistake
WORTH = 10.0  # what a right answer is worth to us, in the same cents
TERMS = range(2, 10)


class State(TypedDict, total=False):
    questions: list[str]
    answers: list[dict[str, Any]]


def model(call):  # stands in for the three
    question = call.field("question")
    is_hard = question.count("+") + 1 > SKILLS[call.model]
    return {"answer": str(sum(map(int, question.split(" + "))) + is_hard)}


def features(question):
    """What is seen of a question without asking a model: how many numbers it has."""
    return [float(question.count("+") + 1 == terms) for terms in TERMS]


def right(question, answer):
    """The reward. Here it is a test; it may be a user's thumb, and come a day later."""
    return answer == str(sum(map(int, question.split(" + "))))


def best_worth(question):
    """What the best choice would be worth: the cheapest model that is skilled enough."""
    return WORTH - min(PRICES[name] for name, most in SKILLS.items() if question.count("+") < most)


def batches():
    """Eight batches of 64 questions, with as many easy and hard ones in each."""
    rng = random.Random(0)
    for _ in range(8):
        batch = [" + ".join(str(rng.randint(1, 9)) for _ in range(terms)) for terms in [*TERMS] * 8]
        rng.shuffle(batch)
        yield batch


def asking(server, router):
    def ask(name):
        module = dspy.Predict("question -> answer")
        module.set_lm(server.lm(f"openai/{name}", cache=False))
        return module

    return vmap(
        route(router, {name: ask(name) for name in PRICES}, key="question"),
        batch_key="questions",
        out_key="answers",
        item_to_state=lambda question: {"question": question},
        max_concurrency=1,  # so that the table below is the same each time
    )


def run(graph, router, questions):
    """One run of the graph, and its rewards: what it has cost, and what the best choices would have saved."""
    answers = graph.invoke({"questions": questions})["answers"]
    found = {"cost": 0.0, "right": 0, "regret": 0.0, **dict.fromkeys(PRICES, 0)}
    for question, answer in zip(questions, answers, strict=True):
        name, is_right = answer["choice"]["arm"], right(question, answer["answer"])
        router.reward(answer["choice"]["id"], is_right)
        found["cost"] += PRICES[name]
        found["right"] += is_right
        found["regret"] += best_worth(question) - (WORTH * is_right - PRICES[name])
        found[name] += 1
    return {**found, "per right": found["cost"] / found["right"]}


def draw(runs, path):
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    numbers = [number + 1 for number in range(len(runs))]
    figure = make_subplots(
        rows=1, cols=2, subplot_titles=("cents for a right answer", "regret of a run, cents")
    )
    for column, name in ((1, "per right"), (2, "regret")):
        line = go.Scatter(x=numbers, y=[each[name] for each in runs], mode="lines+markers", name=name)
        figure.add_trace(line, row=1, col=column)
        figure.update_xaxes(title_text="run", row=1, col=column)
        figure.update_yaxes(rangemode="tozero", row=1, col=column)
    figure.update_layout(title_text="A router that learns", showlegend=False)
    figure.write_html(path, include_plotlyjs=True)


router = Router(list(PRICES), features, head="thompson", cost=PRICES, cost_weight=1 / WORTH, seed=0)
with ModelServer(model) as server:
    graph = connect(StateGraph(State), START, asking(server, router), END).compile()
    runs = [run(graph, router, questions) for questions in batches()]

print("run  small  medium  large  right  cents for a right answer  regret")
for number, each in enumerate(runs, 1):
    print(
        f"{number:3}  {each['small']:5}  {each['medium']:6}  {each['large']:5}  {each['right']:5}"
        f"  {each['per right']:24.2f}  {each['regret']:6.1f}"
    )
if len(sys.argv) > 1:
    draw(runs, sys.argv[1])

# Output:
# run  small  medium  large  right  cents for a right answer  regret
#   1     33      17     14     46                      0.83   189.3
#   2      9      33     22     62                      0.94    49.3
#   3     12      40     12     64                      0.64    12.4
#   4     10      40     14     64                      0.70    16.2
#   5     13      36     15     64                      0.71    16.9
#   6     16      38     10     64                      0.57     8.0
#   7     15      40      9     64                      0.55     6.7
#   8     22      29     13     64                      0.62    11.0
