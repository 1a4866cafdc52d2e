"""Learns from which questions a cheap model answers well enough, saves what was learned, and routes with it
in a graph."""

import csv
import tempfile
from pathlib import Path
from typing import TypedDict

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from langgraph.graph import END, START, StateGraph

from mahsm import connect, vmap
from mahsm.operators import HybridOperator, ModelOperator, Operator, load, parameters, save
from mahsm.testing import ModelServer

LABELS = ("cheap", "good")
SCALE = np.array([40, 5, 5], np.float32)


class State(TypedDict):
    questions: list[dict]
    answers: list[str]


class Router(HybridOperator):
    """Gives a question to the model that its features call for."""

    routes: dict[str, Operator]
    net: eqx.nn.MLP

    def scores(self, features):
        return self.net(features / SCALE)

    def compute(self, features):
        return jnp.argmax(self.scores(features))

    async def forward(self, input, computed):
        return await self.routes[LABELS[computed]].acall(input)


def router(server, seed):
    routes = {label: ModelOperator(server.lm(f"openai/{label}"), "{text}") for label in LABELS}
    return Router(routes, eqx.nn.MLP(3, len(LABELS), 16, 1, key=jax.random.key(seed)))


def data():
    with open(Path(__file__).with_name("questions.csv")) as file:
        rows = list(csv.DictReader(file))
    features = np.array(
        [[float(row[name]) for name in ("words", "numbers", "clauses")] for row in rows], np.float32
    )
    return features, np.array([LABELS.index(row["best"]) for row in rows])


def loss(router, features, best):
    scores = jax.vmap(router.scores)(features)
    return optax.softmax_cross_entropy_with_integer_labels(scores, best).mean()


def train(router, features, best, steps=300):
    optimiser = optax.adam(0.02)
    state = optimiser.init(parameters(router))

    @eqx.filter_jit
    def step(router, state):
        value, gradients = eqx.filter_value_and_grad(loss)(router, features, best)
        updates, state = optimiser.update(gradients, state, parameters(router))
        return eqx.apply_updates(router, updates), state, value

    for _ in range(steps):
        router, state, value = step(router, state)
    return router, float(value)


def accuracy(router, features, best):
    return float((jax.vmap(router.scores)(features).argmax(1) == best).mean())


with (
    ModelServer(lambda call: f"answer of the {call.model} model") as server,
    tempfile.TemporaryDirectory() as folder,
):
    features, best = data()
    untrained = router(server, seed=0)
    trained, value = train(untrained, features[:240], best[:240])
    print("on the last 60 questions:", accuracy(trained, features[240:], best[240:]) > 0.9, value < 0.3)
    save(Path(folder, "router"), trained)
    served = load(Path(folder, "router"), router(server, seed=1))
    edge = vmap(served, batch_key="questions", out_key="answers", item_to_state=lambda question: question)
    graph = connect(StateGraph(State), START, edge, END).compile()
    questions = [
        {"text": "What is 2 + 2?", "features": [4.0, 2.0, 1.0]},
        {"text": "...", "features": [38.0, 4.0, 5.0]},
    ]
    print(graph.invoke({"questions": questions})["answers"])

# Output:
# on the last 60 questions: True True
# ['answer of the cheap model', 'answer of the good model']
